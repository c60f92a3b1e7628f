"""What `register` needs, small: a table, splits and receipt, and models whose Dice is as wished.

A stub's bundle is stored in and fetched from a real registry; only its network is a stand-in, which finds each class
by its colour and leaves out as many of its pixels as the Dice that it is to have asks for.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cytoloop.artifacts import METRICS, RECEIPT, read_card, write_json
from cytoloop.door import Numbers
from cytoloop.images.decode import encode_rgb_png
from cytoloop.model import predict
from cytoloop.model.bundle import read_bundle
from cytoloop.params import RegisterParams
from cytoloop.steps.register import register
from mlflow_store import write_bundle_stub
from tables import CODEC, COLORS_N3, picture_of, row, write_receipt, write_table

TEST_SET = "7e57" * 16
PICTURES = 6
CLASSES = ("nucleus", "cytoplasm")

Dice = float | Mapping[str, Sequence[float]]
"""Of all classes in all pictures, or of each class in each picture."""


def truth(classes: Sequence[str] = CLASSES) -> np.ndarray[Any, Any]:
    """uint8 (96, 96): a block of 4,230 pixels of each class."""
    mask_HW = np.zeros((96, 96), np.uint8)
    for name in classes:
        label = CODEC.names.index(name)
        mask_HW[1:95, 1 + 46 * (label - 1) : 46 * label] = label
    return mask_HW


def lay_out(folder: Path, test_digest: str = TEST_SET, classes: Sequence[str] = CLASSES) -> tuple[Path, Path, Path]:
    """raw, validated and splits: a training picture, and two test pictures of each of three groups."""
    rows = []
    for n in range(PICTURES + 1):
        image_HW3 = picture_of(truth(classes))
        image_HW3[0, 0] = n  # the stand-in tells pictures by it
        rows.append(row(f"p{n}", f"g{n // 2}", truth(classes), image=encode_rgb_png(image_HW3)))
    raw, validated, splits = (folder / name for name in ("raw", "validated", "splits"))
    write_table(raw, rows)
    write_receipt(validated, read_card(raw).digest)
    splits.mkdir()
    lines = [f"{one.id},{one.group},{'train' if n == PICTURES else 'test'}," for n, one in enumerate(rows)]
    (splits / "splits.csv").write_text("\n".join(["id,group,split,reason", *lines]) + "\n")
    write_json(splits / "splits.json", {"test_digest": test_digest})
    return raw, validated, splits


@dataclass(frozen=True)
class Prediction:
    ids_HW: np.ndarray[Any, Any]
    probability_HW: np.ndarray[Any, Any]


class StandIn:
    """In the place of `Predictor`, for stubs."""

    codec = CODEC

    def __init__(self, told: dict[str, Any]) -> None:
        self.meta: dict[str, Any] = {}
        self._told = told

    @classmethod
    def load(cls, folder: Path) -> "StandIn":
        return cls(read_bundle(folder).file.provenance)

    def ask(self, pictures: Sequence[np.ndarray[Any, Any]]) -> Iterator[list[np.ndarray[Any, Any]]]:
        return ([picture] for picture in pictures)

    def answer(self, said: Sequence[np.ndarray[Any, Any]], height: int, width: int) -> Prediction:
        (rgb_HW3,) = said
        ids_HW = np.linalg.norm(rgb_HW3[..., None, :].astype(float) - COLORS_N3, axis=-1).argmin(-1).astype(np.uint8)
        number, ids_HW[0, 0] = int(rgb_HW3[0, 0, 0]), 0
        for label, name in enumerate(CODEC.names[1:], 1):
            _leave_out(ids_HW, label, self._dice(name, number))
        return Prediction(ids_HW, np.ones((height, width), np.float32))

    def compare_sample(self, folder: Path) -> tuple[float, float]:
        return 0.0, float(self._told.get("sample", 1))

    def _dice(self, name: str, number: int) -> float:
        wished = self._told["dice"]
        return float(wished[name][number] if isinstance(wished, dict) else wished)


def _leave_out(ids_HW: np.ndarray[Any, Any], label: int, dice: float) -> None:
    """Keep so many of a class' n pixels that 2 k / (k + n) is the Dice."""
    places = np.flatnonzero(ids_HW == label)
    kept = round(dice * len(places) / (2 - dice))
    ids_HW.ravel()[places[kept:]] = 0


def stand_in() -> None:
    """For this process: models are stubs, whose networks are stand-ins."""
    predict.Predictor = StandIn  # type: ignore[assignment,misc]


def macro(dice: Dice) -> float:
    """The macro Dice that a stub has."""
    return dice if isinstance(dice, float) else float(np.mean(list(dice.values())))


class Bench:
    """Trains stubs and registers them, one folder a model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def standing(cls, folder: Path, monkeypatch: pytest.MonkeyPatch) -> "Bench":
        """With the stand-in in this test."""
        monkeypatch.setattr(predict, "Predictor", StandIn)
        return cls(folder)

    def inputs(self, test_digest: str = TEST_SET, classes: Sequence[str] = CLASSES) -> tuple[Path, Path, Path]:
        """raw, validated, splits; another folder for other pictures."""
        folder = self.folder / f"{test_digest[:8]}-{len(classes)}"
        if not folder.exists():
            return lay_out(folder, test_digest, classes)
        return folder / "raw", folder / "validated", folder / "splits"

    def paths(self, seed: int) -> tuple[Path, Path, Path]:
        """model, evaluation and registration."""
        paths = tuple(self.folder / str(seed) / name for name in ("model", "evaluation", "registration"))
        for path in paths:
            path.mkdir(parents=True, exist_ok=True)
        return paths  # type: ignore[return-value]

    def train(self, seed: int, dice: Dice, **changed: Any) -> None:
        """Model and evaluation; metrics may be given by name, and `sample`: how much of that is answered as recorded.

        A model that has the seed already keeps its Dice."""
        model, evaluation, _ = self.paths(seed)
        sample = changed.pop("sample", 1)
        metrics = {
            "model_digest": write_bundle_stub(model, seed, dice=dice, sample=sample),
            "test_digest": TEST_SET,
            "macro_dice": macro(dice),
            "foreground_dice": 0.9,
            "worst_class": {"name": "nucleus", "dice": 0.25},
            "per_class": {"nucleus": {"dice_image_mean": 0.25}, "cytoplasm": {"dice_image_mean": None}},
            "pictures": 12,
        }
        write_json(evaluation / METRICS, metrics | changed)

    def register(self, seed: int, dice: Dice, inputs: tuple[Path, Path, Path] | None = None, **changed: Any) -> Numbers:
        """Register model `seed`, trained so; params and metrics (`test_digest` is one) may be given by name."""
        settings = changed.keys() & RegisterParams.model_fields.keys() - {"test_digest"}
        params = RegisterParams(**{name: changed.pop(name) for name in settings})
        self.train(seed, dice, **changed)
        return register(*(inputs or self.inputs()), *self.paths(seed), params)

    def receipt(self, seed: int) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.paths(seed)[2] / RECEIPT).read_text())
        return told

    def failed(self, seed: int) -> dict[str, str]:
        """Comparisons that failed, and why."""
        return {c["name"]: c["reason"] for c in self.receipt(seed)["comparisons"] if not c["passed"]}
