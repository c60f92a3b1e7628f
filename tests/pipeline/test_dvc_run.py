"""The whole pipeline as a user runs it: a clone, `dvc repro`, and what DVC users do with it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
SMALL = {
    "ingest": {"smear": {"train": 24, "valid": 8, "test": 8, "size": 64, "cells_per_class": 10, "seed": 7}},
    "validate": {"min_pictures": 10, "required_classes": "any"},
    "model": {"image_width": 64, "image_height": 64, "base_filters": 4, "num_layers": 2},
    "augment": {"copies": 1},
    "tune": {"trials": 2, "epochs": 1, "pictures": 16, "base_filters": [4, 8], "base_kernels": [3], "num_layers": [2]},
    "train": {"epochs": 2, "patience": 2},
    "evaluate": {"bootstrap_samples": 20, "examples": 1},
    "infer": {"limit": 2},
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the working tree with a small default, committed, in which nothing has run."""
    folder = tmp_path_factory.mktemp("a user's folder") / "cytoloop"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    for section, changes in SMALL.items():
        params[section] |= changes
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (folder / "dvc.lock").unlink(missing_ok=True)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "0"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def shell(project: Path, *command: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "GIT_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(project / "src"),
        "DVC_NO_ANALYTICS": "1",
        "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t",
    }  # fmt: skip
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def ran(project: Path) -> Path:
    shell(project, "dvc", "repro")
    return project


def test_the_run_ends_with_scores_a_registered_model_and_a_report(ran: Path) -> None:
    table = shell(ran, "python", "-m", "cytoloop", "status")
    assert "macro Dice" in table
    assert "model   smear-segmenter version 1 @champion" in table
    assert (ran / "reports/evaluation/report.html").stat().st_size > 10_000
    assert json.loads((ran / "reports/registration/receipt.json").read_text())["decision"] == "promote"


def test_a_second_run_has_nothing_to_do(ran: Path) -> None:
    assert "Data and pipelines are up to date" in shell(ran, "dvc", "repro")


def test_the_step_names_are_in_the_lock_without_an_absolute_path(ran: Path) -> None:
    lock = (ran / "dvc.lock").read_text()
    assert str(ran) not in lock
    assert "path: /" not in lock


def test_dvc_shows_metrics_and_plots(ran: Path) -> None:
    metrics = json.loads(shell(ran, "dvc", "metrics", "show", "--json"))
    assert "macro_dice" in metrics[""]["data"]["reports/evaluation/summary.json"]["data"]
    shell(ran, "dvc", "plots", "show", "--out", "plots")
    page = (ran / "plots/index.html").read_text()
    assert "val_macro_dice" in page
    assert "confusion" in page


def test_the_golden_sample_is_answered_by_the_registered_model(ran: Path) -> None:
    code = (
        "from pathlib import Path; from cytoloop.registry import fetch; from cytoloop.model.predict import Predictor\n"
        "folder = fetch('models:/smear-segmenter@champion', Path('fetched'))\n"
        "Predictor.load(folder).check_sample(folder)"
    )
    shell(ran, "python", "-c", code)


def test_an_experiment_changes_only_what_depends_on_it(ran: Path) -> None:
    shell(ran, "git", "add", "-A")
    shell(ran, "git", "commit", "-qm", "first run")
    said = shell(ran, "dvc", "exp", "run", "-S", "evaluate.bootstrap_samples=30", "--name", "more-resamples")
    assert "Stage 'train' didn't change, skipping" in said
    assert "Running stage 'evaluate'" in said
    assert "more-resamples" in shell(ran, "dvc", "exp", "show", "--csv")
    assert "params.yaml" in shell(ran, "dvc", "params", "diff")
    assert "reports/evaluation" in shell(ran, "dvc", "diff")
    # the model is the same one: it is not registered twice
    assert json.loads((ran / "reports/registration/receipt.json").read_text())["version"] == "1"


def test_predict_from_the_registry(ran: Path) -> None:
    pictures = sorted((ran / "reports/predictions").glob("*_overlay.png"))
    assert len(pictures) == 2
    shell(
        ran, "python", "-m", "cytoloop", "predict", "--model", "models:/smear-segmenter@champion",
        "--images", *map(str, pictures), "--output", "masks",
    )  # fmt: skip
    assert len(list((ran / "masks").glob("*.png"))) == 4
    assert (ran / "masks/predictions.csv").read_text().startswith("file,class,pixels,fraction\n")
