"""DVC and Kubeflow Pipelines give byte-identical results; the compiled file is what runs."""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from clone import ORIGIN, shell
from cytoloop.door import FOLDERS, STEPS, interface
from cytoloop.packing import MOST_FILES, unpacked

OWN = {"data_docs", "registration"}
"""What holds times, random names or a store's own numbers."""

pytestmark = pytest.mark.slow


def parsed(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Kubeflow:
    """The clone's pipelines, compiled, and run by KFP's local runner."""

    def __init__(self, project: Path, params: Path, folder: Path) -> None:
        self.project, self.folder = project, folder
        self.variables = {
            "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
            "CYTOLOOP_WORK": str(folder / "work"),
        }
        shell(
            project, "python", "-m", "pipelines.compile", "--image", ORIGIN["image"], "--params", str(params),
            "--site", "infra/sites/local.yaml", "--output", str(folder / "build"),
        )  # fmt: skip

    def run(self, pipeline: str, **parameters: str) -> Path:
        """The folder of a run: one a task, with its artifacts."""
        root, compiled = self.folder / pipeline, self.folder / "build" / f"{pipeline}.yaml"
        pairs = [f"{name}={value}" for name, value in parameters.items()]
        shell(self.project, "python", "-m", "pipelines.local", str(compiled), str(root), *pairs, **self.variables)
        (run,) = root.iterdir()
        return run


@pytest.fixture(scope="module")
def kubeflow(project: Path, first_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Kubeflow:
    return Kubeflow(project, first_run / "params.yaml", tmp_path_factory.mktemp("kfp"))


@pytest.fixture(scope="module")
def tasks(kubeflow: Kubeflow, first_run: Path) -> Path:
    """A training, told the commit of the run by DVC."""
    commit = parsed(first_run / FOLDERS["model"] / "bundle.json")["provenance"]["git_commit"]
    return kubeflow.run("training", git_commit=commit, **ORIGIN)


@pytest.fixture(scope="module")
def artifacts(tasks: Path) -> Iterator[dict[str, Path]]:
    """Each artifact's folder, unpacked."""
    with ExitStack() as stack:
        written = {name: tasks / step / name for step in STEPS for name in interface(step).outputs}
        yield {name: stack.enter_context(unpacked(path)) for name, path in written.items()}


def test_artifacts_are_a_few_files_each(tasks: Path, first_run: Path) -> None:
    counts = {path.relative_to(tasks): len(content(path)) for path in tasks.glob("*/*") if path.is_dir()}
    assert len(counts) == len(FOLDERS)
    assert max(counts.values()) <= MOST_FILES
    assert len(content(first_run / FOLDERS["raw"])) > MOST_FILES  # so that one of them was packed


@pytest.mark.parametrize("name", sorted(FOLDERS.keys() - OWN))
def test_an_artifact_is_the_same_by_dvc_and_by_kubeflow(name: str, artifacts: dict[str, Path], first_run: Path) -> None:
    theirs, ours = content(artifacts[name]), content(first_run / FOLDERS[name])
    assert theirs.keys() == ours.keys()
    assert [path for path in ours if theirs[path] != ours[path]] == []


def test_the_registered_version_knows_where_it_comes_from(artifacts: dict[str, Path], first_run: Path) -> None:
    theirs = parsed(artifacts["registration"] / "receipt.json")
    ours = parsed(first_run / FOLDERS["registration"] / "receipt.json")
    assert theirs["lineage"].items() >= ORIGIN.items()
    assert {**theirs, "run_id": None} == {**ours, "run_id": None}


def test_a_retraining_on_the_same_data_has_nothing_to_do(kubeflow: Kubeflow, tasks: Path) -> None:
    run = kubeflow.run("retraining")
    assert {path.name for path in run.iterdir()} == {"ingest", "validate", "due"}
    assert content(run / "ingest/raw") == content(tasks / "ingest/raw")


def test_an_inference_divides_the_pictures_over_its_workers(
    kubeflow: Kubeflow, artifacts: dict[str, Path], tmp_path: Path
) -> None:
    pictures = sorted(path for path in artifacts["predictions"].glob("*_overlay.png"))
    for number in range(6):
        shutil.copy(pictures[number % 2], tmp_path / f"picture-{number}.png")
    output = kubeflow.folder / "masks"
    model = str(artifacts["model"])
    run = kubeflow.run("inference", model_uri=model, images=str(tmp_path), output=str(output))
    assert sorted(path.name for path in (output / "masks").iterdir()) == [f"picture-{n}.png.png" for n in range(6)]
    tables = sorted(output.glob("predictions-*.csv"))
    assert [path.name for path in tables] == ["predictions-0-of-2.csv", "predictions-1-of-2.csv"]
    assert len(list(run.rglob("executor_output.json"))) == 2
