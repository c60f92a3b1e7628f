"""The whole pipeline as a user runs it: a clone, `dvc repro`, and what DVC users do with it."""

import json
from pathlib import Path

import pytest

from clone import shell

pytestmark = pytest.mark.slow


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
