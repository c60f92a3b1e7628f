"""The table at the end of a run."""

from pathlib import Path
from typing import Any

import pytest

from cytoloop.artifacts import write_json
from cytoloop.status import status

METRICS: dict[str, Any] = {
    "per_class": {"nucleus": {"dice_image_mean": 0.91234, "iou_image_mean": None, "pictures": 7}},
    "macro_dice": 0.9,
    "foreground_dice": 0.95,
    "otsu_foreground_dice": 0.5,
    "pixel_accuracy": 0.99,
    "background_accuracy": 0.92,
    "intervals": {"macro_dice": {"low": 0.85, "high": 0.93}, "foreground_dice": {"low": None, "high": None}},
    "confidence": 0.9,
    "published": [
        {"name": "dice_coef_multiclass", "value": 0.9917, "here": 0.98, "background": 0.92},
        {"name": "loss", "value": "low", "here": None, "background": None},
    ],
}
RECEIPT = {
    "name": "segmenter", "version": "2", "reigns": True, "alias": "champion", "decision": "promote", "reason": "better",
}  # fmt: skip


@pytest.fixture
def lines(tmp_path: Path) -> list[str]:
    for name, file, told in (("evaluation", "metrics.json", METRICS), ("registration", "receipt.json", RECEIPT)):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / file, told)
    return status(tmp_path / "evaluation", tmp_path / "registration").splitlines()


def test_the_level_is_that_of_the_intervals(lines: list[str]) -> None:
    assert [line for line in lines if line.startswith(("macro", "foreground"))] == [
        "macro Dice                    0.900   (90 % interval 0.850 to 0.930)",
        "foreground Dice               0.950",
    ]


def test_a_published_figure_has_a_line_with_ours_beside_it(lines: list[str]) -> None:
    assert [line for line in lines if line.startswith("published")] == [
        "published dice_coef_multiclass 0.9917, here 0.9800, background everywhere 0.9200",
        "published loss low",
    ]


def test_the_model_and_a_score_that_is_missing(lines: list[str]) -> None:
    assert "nucleus            0.912       -         7" in lines
    assert "model   segmenter version 2 @champion" in lines
