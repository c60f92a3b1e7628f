"""Several `tune` processes share one study in a real PostgreSQL; one of them is killed."""

import csv
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import optuna
import pytest

import servers
from cytoloop.artifacts import BEST_PARAMS, TRIALS, read_json
from cytoloop.errors import CytoloopError, ServerAway
from cytoloop.params import AugmentParams, ModelParams, TrainParams, TuneParams
from cytoloop.steps import tune as step
from cytoloop.tuning import study
from servers import Postgres, postgres
from tables import row, write_table

__all__ = ["postgres"]

pytestmark = pytest.mark.slow

TRIALS_ASKED = 6
WORKER = """
import os, sys, time
from pathlib import Path
from cytoloop.params import AugmentParams, ModelParams, TrainParams, TuneParams
from cytoloop.steps import tune as step
from cytoloop.tuning.limits import Cost

class Slow:
    def __init__(self, sections, data, timed):
        self.model, self.cost = sections.model, Cost(100 * sections.model.base_filters, 1.0)

    def train(self, after_epoch):
        print("trial", flush=True)
        time.sleep(float(sys.argv[2]))
        score = 1 / (self.model.base_filters + self.model.num_layers + self.model.base_kernels)
        after_epoch(1, score)
        return score

step.prepare = Slow
folder, output = Path(sys.argv[1]), Path(sys.argv[3])
output.mkdir()
print("ready", flush=True)
sys.stdin.readline()
space = {{"model.base_filters": {{"choices": [2, 4, 8]}}, "model.base_kernels": {{"choices": [3, 5]}},
         "model.num_layers": {{"low": 2, "high": 3}}}}
params = TuneParams.model_validate(
    {{"trials": {trials}, "epochs": 1, "space": space, "limits": {{"parameters": {parameters}}}}})
model = ModelParams(architecture="leanunet", num_classes=3, image_width=32, image_height=32, num_layers=2,
                    base_filters=4, base_kernels=3)
inputs = [folder / name for name in ("raw", "splits", "augmented")]
step.tune(*inputs, output, params, AugmentParams(), model, TrainParams(batch_size=2))
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [row(f"p{i:02d}", mask_HW=np.full((32, 32), i % 3, np.uint8)) for i in range(6)]
    write_table(tmp_path / "raw", rows)
    write_table(tmp_path / "augmented", [])
    (tmp_path / "splits").mkdir()
    lines = [f"{r.id},{r.id},{'val' if i % 3 == 2 else 'train'}," for i, r in enumerate(rows)]
    (tmp_path / "splits/splits.csv").write_text("\n".join(["id,group,split,reason", *lines]) + "\n")
    return tmp_path


def worker(
    data: Path, name: str, storage: str | None, seconds: float, trials: int = TRIALS_ASKED, parameters: int = 10**6
) -> subprocess.Popen[str]:
    """A process that is about to search, each of whose trials takes some seconds."""
    shared = {} if storage is None else {study.SHARED: storage, study.HEARTBEAT: "1"}
    code = WORKER.format(trials=trials, parameters=parameters)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(data), str(seconds), str(data / name)],
        env={**os.environ, "CYTOLOOP_WORK": str(data / "work"), **shared},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.stderr and process.stderr.read()
    return process


def go(*workers: subprocess.Popen[str]) -> None:
    for process in workers:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def ended(process: subprocess.Popen[str]) -> list[str]:
    """What a process printed; it must have ended well."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.splitlines()


def results(data: Path, name: str) -> tuple[bytes, bytes]:
    return (data / name / BEST_PARAMS).read_bytes(), (data / name / TRIALS).read_bytes()


def lines(data: Path, name: str) -> list[dict[str, str]]:
    with (data / name / TRIALS).open() as file:
        return list(csv.DictReader(file))


def choice(line: dict[str, str]) -> tuple[str, ...]:
    return tuple(line[f"model.{name}"] for name in ("base_filters", "base_kernels", "num_layers"))


def test_processes_that_begin_at_once_share_the_trials_also_of_one_that_is_killed(
    postgres: Postgres, data: Path
) -> None:
    storage = postgres.database("study")
    killed, *others = [worker(data, name, storage, 0.5) for name in ("one", "two")]
    go(killed, *others)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "trial\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    printed = ended(others[0])
    trials = lines(data, "two")
    done = [trial for trial in trials if trial["state"] == "complete"]
    assert TRIALS_ASKED <= len(done) <= TRIALS_ASKED + 1
    failed = [trial for trial in trials if trial["state"] == "failed"]
    assert len(failed) == 1
    (again,) = [trial for trial in done if trial["retry_of"]]  # what died was done again
    assert (again["retry_of"], choice(again)) == (failed[0]["trial"], choice(failed[0]))
    assert ("4", "3", "2") in map(choice, done)  # the sections as they are
    assert len(printed) == len({*map(choice, done)})  # a choice is trained once
    best = read_json(data / "two" / BEST_PARAMS)
    assert best["val_macro_dice"] == max(float(trial["val_macro_dice"]) for trial in done)

    last = worker(data, "last", storage, 0)
    go(last)
    assert ended(last) == []  # nothing is left to try
    assert results(data, "last") == results(data, "two")
    assert not (data / "work").exists()


def test_one_process_alone_finds_the_same_in_a_database_as_in_its_work_folder(postgres: Postgres, data: Path) -> None:
    alone, shared = worker(data, "alone", None, 0), worker(data, "shared", postgres.database("study"), 0)
    go(alone, shared)
    ended(alone), ended(shared)
    assert results(data, "shared") == results(data, "alone")


def test_a_search_killed_again_and_again_ends_as_one_that_was_left_alone(data: Path) -> None:
    left_alone = worker(data, "alone", None, 0, parameters=500)
    go(left_alone)
    tried = ended(left_alone)
    printed = 0
    for part in range(2):
        killed = worker(data, f"killed{part}", None, 0.5, parameters=500)
        go(killed)
        assert killed.stdout is not None
        assert [killed.stdout.readline() for _ in range(2)] == ["trial\n"] * 2
        printed += 2
        os.kill(killed.pid, signal.SIGKILL)
        killed.communicate()
    last = worker(data, "last", None, 0, parameters=500)
    go(last)
    printed += len(ended(last))
    assert (data / "last" / BEST_PARAMS).read_bytes() == (data / "alone" / BEST_PARAMS).read_bytes()
    undisturbed, resumed = lines(data, "alone"), lines(data, "last")
    assert [t["state"] for t in undisturbed].count("skipped") > 0
    counted = [(choice(t), t["state"], t["reason"]) for t in resumed if t["state"] != "failed"]
    assert counted == [(choice(t), t["state"], t["reason"]) for t in undisturbed]
    assert printed == len(tried) + 2  # each kill cost the trial that it met, and no other
    assert not [*(data / "work").iterdir()]


def test_processes_that_open_a_study_at_once_queue_its_first_trial_once(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(study.SHARED, postgres.database("opened"))
    at_once = threading.Barrier(6)

    def queued(_: int) -> list[dict[str, object]]:
        at_once.wait()
        with study.open_study("this", ["maximize"], {"x": 1}) as opened:
            return [trial.system_attrs["fixed_params"] for trial in opened.get_trials()]

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(queued, range(6))) == 6 * [[{"x": 1}]]


def test_a_study_whose_maker_died_before_its_first_trial_gets_one(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv(study.SHARED, postgres.database("left"))
    with monkeypatch.context() as dying:
        dying.setattr(optuna.Study, "enqueue_trial", die)
        with pytest.raises(KeyboardInterrupt):
            study.open_study("this", ["maximize"], {"x": 1}).__enter__()
    monkeypatch.setattr(study, "OPENING", 1)
    with study.open_study("this", ["maximize"], {"x": 1}) as opened:
        (first,) = opened.get_trials()
        assert first.system_attrs["fixed_params"] == {"x": 1}


def search(data: Path) -> None:
    output = data / "best_params"
    output.mkdir()
    inputs = [data / name for name in ("raw", "splits", "augmented")]
    params = TuneParams.model_validate({"trials": 1, "epochs": 1, "space": {"model.base_filters": {"choices": [16]}}})
    step.tune(*inputs, output, params, AugmentParams(), ModelParams(num_classes=3), TrainParams())


@pytest.mark.parametrize("password", ["s3cr%40t", "s3c@r3t"])
def test_a_database_that_does_not_answer_is_told_in_a_line_without_its_password(
    data: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.setattr(study, "OPENING", 2)
    port = servers.free_port()
    monkeypatch.setenv(
        study.SHARED, f"postgresql+psycopg://ann:{password}@127.0.0.1:{port}/studies?application_name=hush"
    )
    with pytest.raises(ServerAway, match=rf"//127\.0\.0\.1:{port}/studies does not answer \(.+\)") as told:
        search(data)
    assert "\n" not in str(told.value)
    assert not any(secret in str(told.value) for secret in ("ann", "s3c", "r3t", "hush"))


@pytest.mark.parametrize(
    "address", ["nonsense", "postgresql+nodriver://ann:s3cret@127.0.0.1/studies", "mydb://a:s3cret@h"]
)
def test_what_is_no_address_is_told(data: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv(study.SHARED, address)
    with pytest.raises(CytoloopError, match=r"CYTOLOOP_STUDY_STORAGE: not an address.*postgresql\+psycopg") as told:
        search(data)
    assert "s3cret" not in str(told.value)


@pytest.mark.parametrize("heartbeat", ["0", "soon", "1.5", "-1"])
def test_a_heartbeat_is_whole_seconds(data: Path, monkeypatch: pytest.MonkeyPatch, heartbeat: str) -> None:
    monkeypatch.setenv(study.SHARED, "postgresql+psycopg://127.0.0.1/studies")
    monkeypatch.setenv(study.HEARTBEAT, heartbeat)
    with pytest.raises(CytoloopError, match="CYTOLOOP_STUDY_HEARTBEAT"):
        search(data)
