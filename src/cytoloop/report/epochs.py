"""What a training makes of the same few val pictures, before its first epoch and after each: a montage an epoch.

A montage has a column a picture and three rows: the picture, its truth, and the network's answer, in the
classes' colours. It is small, so that a hundred weigh little: thumbnails in few colours, on a palette.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cytoloop.artifacts import VAL, read_facts, read_rows, read_splits
from cytoloop.beside import beside
from cytoloop.images.codec import LabelCodec
from cytoloop.images.decode import decode_ids, decode_rgb
from cytoloop.model.predict import hard_labels
from cytoloop.model.preprocess import views
from cytoloop.params import ModelParams

Array = np.ndarray[Any, Any]

SIDE = 120
"""Longest side of a thumbnail, pixels."""
COLORS = 64
"""Colours that the pictures' thumbnails are reduced to, all together."""
GAP = 4
STEP = SIDE + GAP
ROWS = ("picture", "truth", "prediction")
LINE = 20
"""Height of a line of text, pixels."""
LABELS = 68
"""Width of the rows' names, pixels."""
WIDTH = 440
"""Least width of a montage, pixels, so that its title has room."""
COLUMNS = 8
"""Pictures side by side, at most; more are divided evenly into bands of three rows."""
INK, PAPER = (32, 38, 46), (232, 234, 237)


@dataclass(frozen=True)
class Shown:
    """A picture that is shown after every epoch."""

    view_HWC: Array
    """uint8, as the network sees it: all of it, or the tile in its middle."""
    used: tuple[int, int]
    """Rows and columns of the view that are the picture; the rest is its mirrored border."""
    rgb_hw3: Array
    """uint8 thumbnail."""
    truth_hw: Array
    """uint8 class ids, of the thumbnail's size."""


class Album:
    """The montages of a training, as `epoch-0003.png`, made where they are missing.

    Args:
        folder: where they lie.
        shown: the pictures; with none, no montage is made.
        codec: gives the classes' names and colours.
    """

    def __init__(self, folder: Path, shown: Sequence[Shown], codec: LabelCodec) -> None:
        self._folder, self._shown, self._codec = folder, shown, codec

    def add(self, epoch: int, title: str, ask: Callable[[Array], Array]) -> Path | None:
        """Draw the montage of an epoch and return its file; None where no picture is shown.

        Args:
            epoch: epochs finished.
            title: its first line.
            ask: from uint8 (B, H, W, C) to float32 (B, H, W, classes).
        """
        if not self._shown:
            return None
        answers = [_answer(picture, ask) for picture in self._shown]
        path = self._folder / f"epoch-{epoch:04d}.png"
        with beside(path) as part:
            part.write_bytes(montage(title, self._shown, answers, self._codec))
        return path


def choose(raw: Path, splits: Path, model: ModelParams, count: int) -> list[Shown]:
    """Val pictures, evenly spread over the table: `count`, or all where there are fewer.

    Never test pictures: whoever tunes by what is shown here would have seen them.
    """
    assignment = read_splits(splits)
    val = [i for i in read_facts(raw, ["id"])["id"] if assignment.get(i) == VAL]
    ids = {val[place] for place in evenly(len(val), count)}
    rows = islice(read_rows(raw, ids, ["image", "mask"]), len(ids))
    return in_few_colors([_shown(decode_rgb(row.image or b""), decode_ids(row.mask or b""), model) for row in rows])


def evenly(length: int, count: int) -> list[int]:
    """Places in a sequence, each in the middle of its share.

    >>> evenly(12, 3), evenly(2, 6)
    ([2, 6, 10], [0, 1])
    """
    count = min(length, count)
    return [(2 * i + 1) * length // (2 * count) for i in range(count)]


def montage(title: str, shown: Sequence[Shown], answers: Sequence[Array], codec: LabelCodec) -> bytes:
    """PNG bytes, the same for the same input.

    Args:
        title: the first line.
        shown: a picture a column, at least one.
        answers: the network's class ids for each, uint8 of the thumbnail's size.
        codec: gives the classes' colours, and the names in the last line.
    """
    bands = math.ceil(len(shown) / COLUMNS)
    columns = math.ceil(len(shown) / bands)
    width, rows = max(LABELS + STEP * columns, WIDTH), len(ROWS) * bands
    page = Image.new("RGB", (width, LINE + STEP * rows + LINE), PAPER)
    for place, (picture, ids_hw) in enumerate(zip(shown, answers, strict=True)):
        left, top = LABELS + STEP * (place % columns), LINE + STEP * len(ROWS) * (place // columns)
        for row, rgb_hw3 in enumerate((picture.rgb_hw3, codec.colors(picture.truth_hw), codec.colors(ids_hw))):
            page.paste(Image.fromarray(rgb_hw3), (left, top + STEP * row))
    _write(page, title, rows, codec)
    return _small_png(page)


def in_few_colors(shown: Sequence[Shown]) -> list[Shown]:
    """The same pictures, their thumbnails in COLORS colours."""
    if not shown:
        return []
    pixels_N3 = np.concatenate([picture.rgb_hw3.reshape(-1, 3) for picture in shown])
    few = Image.fromarray(pixels_N3[None]).quantize(COLORS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    ends = np.cumsum([picture.truth_hw.size for picture in shown])[:-1]
    parts = np.split(np.asarray(few.convert("RGB"))[0], ends)
    return [replace(one, rgb_hw3=part.reshape(one.rgb_hw3.shape)) for one, part in zip(shown, parts, strict=True)]


def _shown(rgb_HW3: Array, ids_HW: Array, model: ModelParams) -> Shown:
    used = (model.image_height, model.image_width)
    if model.fit == "tile":
        rgb_HW3, ids_HW = _middle(rgb_HW3, model), _middle(ids_HW, model)
        used = ids_HW.shape
    return Shown(views(rgb_HW3, model)[0], used, _thumbnail(rgb_HW3), _thumbnail(ids_HW))


def _middle(array: Array, model: ModelParams) -> Array:
    """As much of a picture as one tile holds."""
    height, width = model.image_height, model.image_width
    top, left = max(0, (array.shape[0] - height) // 2), max(0, (array.shape[1] - width) // 2)
    return array[top : top + height, left : left + width]


def _answer(picture: Shown, ask: Callable[[Array], Array]) -> Array:
    ids_HW = hard_labels(ask(picture.view_HWC[None])[0])[: picture.used[0], : picture.used[1]]
    return np.asarray(cv2.resize(ids_HW, picture.truth_hw.shape[::-1], interpolation=cv2.INTER_NEAREST))


def _thumbnail(array: Array) -> Array:
    height, width = array.shape[:2]
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(array, size, interpolation=cv2.INTER_AREA if array.ndim == 3 else cv2.INTER_NEAREST))


def _write(page: Image.Image, title: str, rows: int, codec: LabelCodec) -> None:
    """The words on a page, in eight shades, and a swatch of each class's colour."""
    words = Image.new("L", page.size)
    pen, font = ImageDraw.Draw(words), ImageFont.load_default(13)
    pen.text((GAP, 2), title, 255, font)
    for row in range(rows):
        pen.text((GAP, LINE + STEP * row), ROWS[row % len(ROWS)], 255, font)
    left, top = LABELS, page.height - LINE
    for entry in codec.classes:
        page.paste(entry.color, (left, top + 4, left + 12, top + 16))
        pen.text((left + 16, top + 2), entry.name, 255, font)
        left += 28 + round(pen.textlength(entry.name, font))
    page.paste(INK, mask=words.point(lambda level: level // 32 * 36))


def _small_png(page: Image.Image) -> bytes:
    """On a palette, where there are no more than 256 colours."""
    buffer = BytesIO()
    few = page.getcolors(256)
    if few is not None:
        colors_N3 = np.array(sorted(color for _, color in few), np.uint8)
        packed_N, packed_HW = (_packed(array) for array in (colors_N3, np.asarray(page)))
        page = Image.fromarray(np.searchsorted(packed_N, packed_HW).astype(np.uint8), mode="P")
        page.putpalette(colors_N3.tobytes())
    page.save(buffer, "PNG")
    return buffer.getvalue()


def _packed(rgb_X3: Array) -> Array:
    """uint32 (...): each colour as one number, 0xRRGGBB."""
    return rgb_X3.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
