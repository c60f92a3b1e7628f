"""Three weeks of a model's life, by `cytoloop retrain --if-needed` alone, on two stains that are told apart at once.

Day 1: the first champion, trained on dark cells of the laboratory; the test set was frozen with pictures of a second
one, whose cells are bright. Week 2: nothing new. Week 3: pictures of the second laboratory are predicted, they have
drifted, and some were labelled. Then a bad batch, then a rollback. The steps run in this process, as `dvc repro` would
run them; tests/pipeline/test_retrain_command.py has the real one.
"""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from cytoloop import ledger, registry, retraining
from cytoloop.cli import run
from cytoloop.door import FOLDERS, STEPS, run_step
from cytoloop.params import load_params
from drawn import CLASSES, cells, colored, save
from mlflow_store import store

__all__ = ["store"]

pytestmark = pytest.mark.slow

NAME = "cells"
PARAMS: dict[str, Any] = {
    "classes": CLASSES["image_mask"],
    "ingest": {
        "layout": "image_mask",
        "source": "source",
        "group_pattern": r"(?P<group>.+)_\d+",
        "licence": "CC0-1.0",
        "citation": "drawn for tests",
    },
    "validate": {"min_side": 32},
    "augment": {"copies": 0},
    "model": {
        "architecture": "leanunet", "num_classes": 2, "image_width": 48, "image_height": 48,
        "base_filters": 4, "num_layers": 2,
    },
    "tune": {"trials": 0},
    "train": {"epochs": 14, "batch_size": 4, "learning_rate": 0.02, "epoch_pictures": 0, "ema_momentum": None},
    "evaluate": {"bootstrap_samples": 50, "examples": 1},
    "infer": {"limit": 1},
    "register": {"name": NAME},
    "retrain": {"recent": "recent.csv", "min_recent": 20, "min_new_groups": 2, "start": "warm"},
}  # fmt: skip
STAINS = {"dark": ((210, 190, 200), (70, 50, 90)), "bright": ((110, 60, 120), (240, 220, 150))}
"""Ground and cell."""


def painted(stain: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (48, 48, 3), and its mask in the classes' colours."""
    ids_HW = cells(seed=seed).ids_HW
    noise_HW3 = np.random.default_rng(seed).normal(0, 6, (*ids_HW.shape, 3)) + 4 * (seed % 7)
    image_HW3 = np.array(STAINS[stain], float)[ids_HW] + noise_HW3
    return np.clip(image_HW3, 0, 255).astype(np.uint8), colored(ids_HW, "image_mask")


def label(split: str, stain: str, patients: range) -> None:
    """Add two labelled pictures of each patient to the source."""
    for patient in patients:
        for n in range(2):
            image, mask = painted(stain, 100 * patient + n)
            for kind, pixels in (("images", image), ("masks", mask)):
                save(Path(f"source/Cells/{split}/{kind}/{stain}-{patient}_{n}.png"), pixels)


def predict(stain: str, seeds: range) -> None:
    """What the laboratory asks of the champion in a week."""
    for seed in seeds:
        save(Path(f"week/{stain}/{seed}.png"), painted(stain, seed)[0])
    asked = ["--images", f"week/{stain}", "--output", "masks", "--profile", "recent.csv"]
    assert run(["predict", "--model", f"models:/{NAME}@champion", *asked]) == 0


def repro(*stages: str, ran: list[str]) -> None:
    """The pipeline's steps in order, up to a stage or all."""
    params = load_params(Path("params.yaml"))
    last = STEPS.index(stages[0]) if stages else len(STEPS) - 1
    folders = {name: Path(folder) for name, folder in FOLDERS.items()}
    for step in STEPS[: last + 1]:
        ran.append(step)
        run_step(step, folders, params)


@pytest.fixture
def week(store: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that does what the timer does; returns the exit code, the steps that ran, and the decision."""
    Path("params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))

    def retrain_if_needed() -> tuple[int, list[str], dict[str, Any]]:
        ran: list[str] = []
        real = functools.partial(retraining.retrain, repro=functools.partial(repro, ran=ran))
        with monkeypatch.context() as patch:
            patch.setattr(retraining, "retrain", real)
            code = run(["retrain", "--if-needed"])
        return code, ran, json.loads(Path("reports/retraining/decision.json").read_text())

    return retrain_if_needed


def champion() -> str:
    version = registry.current(NAME, "champion")
    assert version is not None
    return version.version


def test_three_weeks(week: Any, capsys: pytest.CaptureFixture[str]) -> None:
    label("train", "dark", range(8))
    label("valid", "dark", range(8, 11))
    label("test", "dark", range(11, 14))
    label("test", "bright", range(14, 17))
    code, ran, decision = week()
    assert (code, decision["reason"]) == (0, "no version of cells reigns yet")
    assert ran[-1] == "register"
    assert champion() == "1"
    first = json.loads(Path("models/segmenter/bundle.json").read_text())

    predict("dark", range(3000, 3024))
    code, ran, decision = week()
    assert (code, decision["decision"], ran) == (0, "nothing to do", ["ingest", "validate"])
    assert decision["triggers"]["drift"]["figures"]["pictures"] == 24
    assert (
        max(s["index"] / s["allowed"] for s in decision["triggers"]["drift"]["figures"]["stability_index"].values()) < 1
    )

    predict("bright", range(4000, 4040))
    label("train", "bright", range(20, 28))
    label("valid", "bright", range(28, 31))
    code, ran, decision = week()
    assert (code, decision["champion"]) == (0, "1")
    fired = {name for name, trigger in decision["triggers"].items() if trigger["fired"]}
    assert fired == {"data", "drift"}
    assert decision["triggers"]["data"]["figures"]["new_groups"] == 11
    assert decision["outcome"]["decision"] == "promote", decision["outcome"]
    assert champion() == "2"
    assert (decision["outcome"]["champion"], decision["outcome"]["start"]) == ("2", "warm")
    assert load_params(Path("params.yaml")).train.start_from == f"models:/{NAME}/1"
    second = json.loads(Path("models/segmenter/bundle.json").read_text())
    assert second["provenance"]["digests"]["start_from"] == first["arrays_sha256"]

    save(Path("source/Cells/train/images/bright-40_0.png"), np.zeros((8, 8, 3), np.uint8))  # and no mask
    capsys.readouterr()
    code, ran, decision = week()
    assert (code, decision["decision"], ran) == (1, "refused", ["ingest", "validate"])
    assert "version 2 reigns on" in capsys.readouterr().err
    assert champion() == "2"

    by_hand = ["--reason", "the second laboratory has stopped", "--actor", "ann@example.org"]
    assert run(["models", "rollback", *by_hand]) == 0
    assert run(["models", "audit"]) == 0
    acts = [(entry.act.what, entry.act.version, entry.act.actor) for entry in ledger.read(NAME)]
    gate = "cytoloop register"
    assert acts == [
        ("register", "1", gate), ("promote", "1", gate), ("register", "2", gate), ("promote", "2", gate),
        ("rollback", "1", "ann@example.org"),
    ]  # fmt: skip
    Path("source/Cells/train/images/bright-40_0.png").unlink()
    assert champion() == "1"
    predict("dark", range(5000, 5002))  # by the version that reigns again
    digests = [line.split(",")[2] for line in Path("recent.csv").read_text().splitlines()[1:]]
    assert digests[0] == digests[-1]
