"""A version is made again from its commit and data, byte for byte; what differs is named; nothing is left behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from clone import clone, shell
from cytoloop import registry, reproduction, tracking
from cytoloop.artifacts import ARRAYS, read_card, sha256_file
from cytoloop.cli import run
from cytoloop.errors import CytoloopError
from cytoloop.lineage import gather
from cytoloop.reproduction import STEPS, Workplace
from drawn import params, write
from mlflow_store import store, write_bundle_stub
from recorded import evidence
from tables import row, write_table

__all__ = ["store"]

pytestmark = pytest.mark.slow

SMALL = {
    "validate": {"min_pictures": 6},
    "augment": {"copies": 1},
    "model": {"num_classes": 2, "image_width": 16, "image_height": 16, "base_filters": 2, "num_layers": 2},
    "tune": {"trials": 1, "epochs": 1, "pictures": 4, "space": {"model.base_filters": {"choices": [2]}}},
    "train": {"epochs": 2, "batch_size": 2, "epoch_pictures": 1},
    "evaluate": {"bootstrap_samples": 20, "examples": 1},
    "register": {"name": "cells"},
}  # fmt: skip
ALL = "import sys; from cytoloop.cli import run; [run([step]) and sys.exit(1) for step in sys.argv[1:]]"
URI = "models:/cells/1"


class Project:
    """A clone with one version, whose pictures are gone from the folder: DVC alone has them."""

    def __init__(self, folder: Path, passing: Path) -> None:
        self.folder, self.passing = folder, passing
        self.store = f"sqlite:///{folder / 'mlflow.db'}"

    def reproduce(self, *flags: str) -> "subprocess.CompletedProcess[str]":
        with self.started(*flags) as process:
            out, error = process.communicate(timeout=600)
        return subprocess.CompletedProcess(process.args, process.returncode, out, error)

    def started(self, *flags: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "cytoloop", "models", "reproduce", "@champion", *flags]
        environment = {**os.environ, "TMPDIR": str(self.passing), "MLFLOW_TRACKING_URI": self.store}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(command, cwd=self.folder, env=environment, text=True, **pipes)  # type: ignore[call-overload, no-any-return]

    def worktrees(self) -> int:
        return len(shell(self.folder, "git", "worktree", "list").splitlines())

    def nothing_is_left(self) -> bool:
        return self.worktrees() == 1 and not list(self.passing.glob("cytoloop-reproduce-*"))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = clone(tmp_path_factory.mktemp("a user's folder") / "cells")
    write("image_mask", folder / "pictures", number=9)
    tree = params("image_mask", "pictures").model_dump(mode="json", by_alias=True)
    tree = {name: section | SMALL.get(name, {}) if name != "classes" else section for name, section in tree.items()}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    shell(folder, "dvc", "add", "pictures")
    shell(folder, "git", "add", "-A")
    shell(folder, "git", "commit", "-qm", "pictures")
    shell(folder, "python", "-c", ALL, *STEPS, "register")
    shutil.rmtree(folder / "pictures")
    return Project(folder, tmp_path_factory.mktemp("passing"))


@pytest.fixture
def tagged(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Tags to be set on the version, which has its own again afterwards."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", project.store)
    monkeypatch.chdir(project.folder)
    version = registry.find(URI)

    class Tags(dict[str, str]):
        def __setitem__(self, name: str, value: str) -> None:
            registry.tag_version(version, {name: value})

    yield Tags(version.tags)
    registry.tag_version(version, version.tags)


def test_a_version_is_made_again_byte_for_byte(project: Project) -> None:
    runs = "import mlflow; print(len(mlflow.search_runs(search_all_experiments=True)))"
    before = shell(project.folder, "python", "-c", runs, MLFLOW_TRACKING_URI=project.store).splitlines()[-1]
    done = project.reproduce()
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == list(STEPS.values())
    assert all(line.endswith("  identical") for line in lines[1:-1])
    assert lines[-1] == f"byte-identical: {', '.join(STEPS.values())}"
    assert shell(project.folder, "python", "-c", runs, MLFLOW_TRACKING_URI=project.store).splitlines()[-1] == before
    assert project.nothing_is_left()
    assert not (project.folder / "pictures").exists()


def test_the_first_artifact_that_differs_is_named(project: Project, tagged: dict[str, str]) -> None:
    tagged["splits_digest"] = "9" * 64
    tagged["git_commit"] = f"{tagged['git_commit']}-dirty"
    done = project.reproduce()
    assert done.returncode == 1
    assert "note: the version was made with changes that were never committed" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines() if line.endswith("identical")] == ["raw", "validated"]
    assert f"{URI} is not reproduced: splits differs first: 999999999999 then" in done.stderr
    assert project.nothing_is_left()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_rerun_leaves_nothing(project: Project, number: signal.Signals, code: int) -> None:
    with project.started() as process:
        while project.worktrees() == 1 and process.poll() is None:
            time.sleep(0.2)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
    assert process.returncode == code, error
    assert project.nothing_is_left()


def test_a_commit_that_is_not_there_is_said(
    project: Project, tagged: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    tagged["git_commit"] = "0" * 40
    assert run(["models", "reproduce", "1"]) == 1
    assert "is not in the git repository" in capsys.readouterr().err
    tagged["git_commit"] = "unknown"
    assert run(["models", "reproduce", "1"]) == 1
    assert "its commit was not recorded" in capsys.readouterr().err


def test_a_table_is_found_by_its_digest_in_the_history_of_dvc(tmp_path: Path) -> None:
    """As where the source is gone, or has changed: each table that `dvc.lock` ever named is looked at."""
    project = tmp_path / "project"
    project.mkdir()
    shell(project, "git", "init", "-q")
    shell(project, "dvc", "init", "-q")
    digests = []
    for names in (["a"], ["a", "b"]):
        write_table(project / "table", [row(name) for name in names])
        shell(project, "dvc", "add", "-q", "table")
        (out,) = yaml.safe_load((project / "table.dvc").read_text())["outs"]
        outs = [{"path": "data/raw", "md5": out["md5"]}]
        (project / "dvc.lock").write_text(
            yaml.safe_dump({"schema": "2.0", "stages": {"ingest": {"cmd": "x", "outs": outs}}})
        )
        shell(project, "git", "add", "dvc.lock")
        shell(project, "git", "commit", "-qm", "a run")
        digests.append(read_card(project / "table").digest)
    shell(project, "git", "rm", "-q", "dvc.lock")
    shell(project, "git", "commit", "-qm", "no lock")
    place = Workplace(project, tmp_path / "tree", tmp_path)
    assert not reproduction._raw_by_digest(place, "0" * 64)
    assert reproduction._raw_by_digest(place, digests[0])
    assert read_card(tmp_path / "tree/data/raw").digest == digests[0] != digests[1]
    shell(project, "dvc", "remote", "add", "--default", "away", "../remote")
    shell(project, "dvc", "push", "-q")
    shutil.rmtree(project / ".dvc/cache")
    assert reproduction._raw_by_digest(place, digests[1])
    assert read_card(tmp_path / "tree/data/raw").digest == digests[1]
    assert not reproduction._raw_by_digest(place, digests[0])  # it was never pushed


def test_a_difference_of_models_is_told_in_arrays(store: Path, tmp_path: Path) -> None:
    digest = write_bundle_stub(tmp_path / "then", 1)
    other = write_bundle_stub(tmp_path / "tree/models/segmenter", 2)
    version = registry.register_version("cells", tmp_path / "then", _a_run(), {"model_digest": digest})
    assert digest != other
    said = reproduction._how("model", gather(version.uri), Workplace(tmp_path, tmp_path / "tree", tmp_path))
    assert said.startswith("1 of 1 arrays differ, by 0.")
    assert said.endswith("at most, in weights")


def test_the_weights_that_it_started_from_are_found_by_their_digest(store: Path, tmp_path: Path) -> None:
    place = Workplace(tmp_path, tmp_path / "tree", tmp_path / "scratch")
    for seed in (1, 2):
        digest = write_bundle_stub(tmp_path / f"model{seed}", seed)
        registry.register_version("cells", tmp_path / f"model{seed}", _a_run(), {"model_digest": digest})
    wanted = sha256_file(tmp_path / "model1" / ARRAYS)
    provenance = {"digests": {"start_from": wanted}}
    found = replace(evidence(), bundle={"provenance": provenance})
    assert reproduction._start(found, "model1", place) == str(tmp_path / "model1")
    elsewhere = reproduction._start(found, "model2", place)  # what lies there now is another model
    assert sha256_file(Path(elsewhere or "") / ARRAYS) == wanted
    unknown = replace(found, bundle={"provenance": {"digests": {"start_from": "0" * 64}}})
    with pytest.raises(CytoloopError, match="neither there nor a version"):
        reproduction._start(unknown, "model2", place)


def _a_run() -> str:
    return tracking.make_run("cells", "a run", {"work": "test"})
