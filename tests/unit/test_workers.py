import os
import time
from pathlib import Path

import psutil
import pytest

from cytoloop import workers
from cytoloop.errors import CytoloopError, SourceError
from cytoloop.workers import processors, shared


class Squares:
    """Squares, with the process that made each; keeps count of its own work."""

    def __init__(self) -> None:
        self.done = 0

    def __call__(self, number: int) -> tuple[int, int, int]:
        self.done += 1
        time.sleep(0.01)
        return number**2, os.getpid(), self.done


def refuse(number: int) -> int:
    if number == 3:
        raise SourceError("3 is refused")
    return number


def die(number: int) -> int:
    os._exit(1)


needs_two = pytest.mark.skipif(processors() < 2, reason="needs two processors")


@needs_two
def test_processes_share_the_work_and_keep_the_order() -> None:
    made = list(shared(Squares(), range(60)))
    assert [square for square, _, _ in made] == [number**2 for number in range(60)]
    processes = {process for _, process, _ in made}
    assert os.getpid() not in processes
    for process in processes:  # each has a copy of its own, which lasts
        mine = [done for _, by, done in made if by == process]
        assert mine == list(range(1, len(mine) + 1))


def test_one_item_is_worked_on_here() -> None:
    assert list(shared(Squares(), [7])) == [(49, os.getpid(), 1)]
    assert list(shared(Squares(), [])) == []


@needs_two
def test_an_error_is_raised_and_ends_the_processes() -> None:
    with pytest.raises(SourceError, match="3 is refused"):
        list(shared(refuse, range(100)))
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


@needs_two
def test_leaving_early_ends_the_processes() -> None:
    made = shared(Squares(), range(100_000))
    _, process, _ = next(made)
    made.close()
    assert not psutil.pid_exists(process)


@needs_two
def test_a_process_that_dies_is_told() -> None:
    with pytest.raises(CytoloopError, match="a working process was killed"):
        list(shared(die, range(4)))


@pytest.mark.parametrize(("quota", "most"), [("max 100000", 10**6), ("100000 100000", 1), ("50000 100000", 1)])
def test_a_containers_quota_counts(quota: str, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "QUOTA", tmp_path / "cpu.max")
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert processors() == min(most, len(os.sched_getaffinity(0)))
