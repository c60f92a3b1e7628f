"""A small labelled table for tests: red and blue cells, anywhere in the picture, on a pale ground."""

from pathlib import Path

import numpy as np

from cytoloop.artifacts import write_json
from cytoloop.images.facts import picture_facts
from cytoloop.params import ClassifierParams, EvaluateParams, Params
from tables import row, write_table

COLORS = {"blue": (40, 60, 200), "red": (200, 50, 60)}
GROUND = (235, 225, 215)


def cell_picture(label: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (40, 40, 3) and its mask: a square cell of its label's colour, elsewhere for each number."""
    mask_HW = np.zeros((40, 40), np.uint8)
    top, left = 3 + 5 * number % 23, 2 + 7 * number % 24
    mask_HW[top : top + 14, left : left + 14] = 1
    colors = np.array([GROUND, COLORS[label]], np.uint8)
    return colors[mask_HW], mask_HW


def write_labelled(folder: Path, splits: dict[str, int]) -> tuple[Path, Path]:
    """`raw` and `splits` with so many pictures in each split, labels in turn; the table's folder and the splits'."""
    assigned = [name for name, count in splits.items() for _ in range(count)]
    rows = []
    for number, _ in enumerate(assigned):
        label = sorted(COLORS)[number % 2]
        picture_HW3, mask_HW = cell_picture(label, number)
        rows.append(row(f"p{number:02d}", mask_HW=mask_HW, label=label, **picture_facts(picture_HW3)))
    raw = write_table(folder / "raw", rows)
    (folder / "splits").mkdir()
    lines = [f"{one.id},{one.group},{split}," for one, split in zip(rows, assigned, strict=True)]
    (folder / "splits" / "splits.csv").write_text("\n".join(["id,group,split,reason", *lines]) + "\n")
    write_json(folder / "splits" / "splits.json", {"test_digest": "ab" * 32})
    return raw, folder / "splits"


def params(settings: ClassifierParams) -> Params:
    """A params tree with the classifier's section."""
    return Params.model_validate(
        {
            "classes": [{"name": n, "color": [i, 0, 0]} for i, n in enumerate(["background", "nucleus", "cytoplasm"])],
            "ingest": {"layout": "image_mask", "source": "nowhere"},
            "model": {"num_classes": 3},
            "classifier": settings.model_dump(),
            "evaluate": EvaluateParams(bootstrap_samples=50, examples=1).model_dump(),
        }
    )
