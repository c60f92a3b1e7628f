"""Small tables for tests: pictures of one square cell, with facts that are true of their pixels."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cytoloop.artifacts import Card, Row, TableWriter, write_json
from cytoloop.images.codec import LabelClass, LabelCodec
from cytoloop.images.decode import encode_instances_png, encode_rgb_png

CODEC = LabelCodec(
    (LabelClass("background", (0, 0, 0)), LabelClass("nucleus", (255, 0, 0)), LabelClass("cytoplasm", (0, 0, 255)))
)
COLORS_N3 = np.array([(230, 220, 200), (90, 40, 120), (170, 130, 190)], np.uint8)


def card(**changes: Any) -> Card:
    """The card of a small dataset whose licence and source are recorded."""
    told = {"name": "squares", "classes": CODEC.to_json(), "licence": "CC0-1.0", "citation": "drawn for tests"}
    return Card(**{**told, **changes})


def mask_of(width: int = 40, height: int = 40, cell: int = 12) -> np.ndarray[Any, Any]:
    """uint8 (H, W): a square of cytoplasm with a nucleus in it, off the centre; empty when `cell` is 0."""
    mask_HW = np.zeros((height, width), np.uint8)
    mask_HW[4 : 4 + cell, 6 : 6 + cell] = 2
    mask_HW[7 : 4 + cell // 2, 9 : 6 + cell // 2] = 1
    return mask_HW


def picture_of(mask_HW: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """uint8 (H, W, 3): the picture as a function of its mask."""
    return COLORS_N3[mask_HW]


def row(name: str, group: str | None = None, mask_HW: np.ndarray[Any, Any] | None = None, **changes: Any) -> Row:
    """A good row; `changes` are written over its facts.

    Two rows differ in their sha256 and perceptual hash, which are those of the name.
    """
    mask_HW = mask_of() if mask_HW is None else mask_HW
    height, width = mask_HW.shape
    facts = {
        "id": name,
        "group": name if group is None else group,
        "source_file": f"images/{name}.png",
        "mask_file": f"masks/{name}.png",
        "sha256": hashlib.sha256(name.encode()).hexdigest(),
        "width": width,
        "height": height,
        "mode": "RGB",
        "mask_width": width,
        "mask_height": height,
        "image": encode_rgb_png(picture_of(mask_HW)),
        "mask": CODEC.encode_png(mask_HW),
        "instances": encode_instances_png(mask_HW > 0),
        "class_pixels": np.bincount(mask_HW.ravel(), minlength=3).tolist(),
        "unknown_pixels": 0,
        "phash": hashlib.sha256(b"looks of " + name.encode()).digest(),
    }
    return Row(**{**facts, **changes})


def write_table(folder: Path, rows: Sequence[Row], **card_changes: Any) -> Path:
    """A finished table in `folder`."""
    with TableWriter(folder, card(**card_changes)) as table:
        for one in rows:
            table.write(one)
    return folder


def write_receipt(folder: Path, digest: str, passed: bool = True) -> Path:
    """As much of a validation receipt as the split reads."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "receipt.json", {"passed": passed, "raw_digest": digest})
    return folder
