"""From a picture of any size to what the network sees, and back. One way for training and prediction.

A network sees views of one size. `model.fit: resize` makes one view of a picture, at another scale;
`model.fit: tile` cuts it, at its own scale, into views that overlap, and a picture smaller than a view
is mirrored at its right and lower border.
"""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from cytoloop.params import ModelParams
from cytoloop.threads import keep_to_one

Array = np.ndarray[Any, Any]
Corner = tuple[int, int]
"""Row and column of a tile's upper left pixel."""

QUARTERS = (0, 2, 1, 3)
"""Turns by 90 degrees, in the order of `lay`."""

keep_to_one()

CONVERSIONS = {
    "hsv": cv2.COLOR_RGB2HSV,
    "lab": cv2.COLOR_RGB2LAB,
    "xyz": cv2.COLOR_RGB2XYZ,
    "ycrcb": cv2.COLOR_RGB2YCrCb,
}


def views(rgb_HW3: Array, model: ModelParams) -> list[Array]:
    """What the network sees of a picture: each uint8 (image_height, image_width, image_channels)."""
    if model.fit == "resize":
        return [in_channels(fit_picture(rgb_HW3, model), model)]
    height, width = rgb_HW3.shape[:2]
    picture_HWC = in_channels(rgb_HW3, model)
    return [cut(picture_HWC, corner, model) for corner in corners(height, width, model)]


def mask_views(ids_HW: Array, model: ModelParams) -> list[Array]:
    """The truth of each of a picture's `views`: uint8 (image_height, image_width)."""
    if model.fit == "resize":
        return [fit_mask(ids_HW, model)]
    height, width = ids_HW.shape
    return [cut(ids_HW, corner, model) for corner in corners(height, width, model)]


def lay(view_hwC: Array, way: int) -> Array:
    """One of eight ways to lay a view, of which 0 leaves it as it is, and those below 4 keep its sides.

    >>> [lay(np.arange(4).reshape(2, 2), way).ravel().tolist() for way in (0, 1, 2, 4)]
    [[0, 1, 2, 3], [1, 0, 3, 2], [3, 2, 1, 0], [1, 3, 0, 2]]
    """
    mirrored = view_hwC[:, ::-1] if way % 2 else view_hwC
    return np.rot90(mirrored, QUARTERS[way // 2])


def lay_back(laid_hwC: Array, way: int) -> Array:
    """What `lay` has laid, as it was."""
    turned = np.rot90(laid_hwC, -QUARTERS[way // 2])
    return turned[:, ::-1] if way % 2 else turned


def join(answers_NhwC: Sequence[Array], height: int, width: int, model: ModelParams) -> Array:
    """float32 (height, width, classes): the answers to a picture's views as one, at the picture's size.

    Resized answers are stretched linearly. Tiles are averaged where they overlap, a pixel's weight
    falling linearly from a tile's middle to its border, where the network sees least around it.
    """
    if model.fit == "resize":
        return _stretched(answers_NhwC[0], height, width)
    h, w = model.image_height, model.image_width
    weight_hw1 = (_ramp(h)[:, None] * _ramp(w)[None, :])[..., None]
    sum_HWC = np.zeros((max(height, h), max(width, w), answers_NhwC[0].shape[-1]), np.float32)
    weight_HW1 = np.zeros((*sum_HWC.shape[:2], 1), np.float32)
    for (top, left), answer_hwC in zip(corners(height, width, model), answers_NhwC, strict=True):
        place = np.s_[top : top + h, left : left + w]
        sum_HWC[place] += weight_hw1 * answer_hwC
        weight_HW1[place] += weight_hw1
    return (sum_HWC / weight_HW1)[:height, :width]


def view_scale(height: int, width: int, model: ModelParams) -> float:
    """Pixels of a picture for each pixel of what the network sees of it; tiles are seen at the picture's own scale."""
    return height * width / (model.image_height * model.image_width) if model.fit == "resize" else 1


def corners(height: int, width: int, model: ModelParams) -> list[Corner]:
    """Where tiles are cut: the fewest evenly spread ones that cover the picture and overlap by `tile_overlap`.

    >>> corners(256, 600, ModelParams(num_classes=2, fit="tile", tile_overlap=0))
    [(0, 0), (0, 172), (0, 344)]
    """
    rows = _starts(height, model.image_height, model.tile_overlap)
    columns = _starts(width, model.image_width, model.tile_overlap)
    return [(top, left) for top in rows for left in columns]


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    room = max(side - tile, 0)
    count = 1 + math.ceil(room / (tile * (1 - overlap)))
    return [round(room * i / max(count - 1, 1)) for i in range(count)]


def cut(array: Array, corner: Corner, model: ModelParams) -> Array:
    """A tile of (H, W) or (H, W, C), mirrored at the border where the picture is smaller than it."""
    top, left = corner
    tile = array[top : top + model.image_height, left : left + model.image_width]
    missing = (model.image_height - tile.shape[0], model.image_width - tile.shape[1])
    if any(missing):
        around = [(0, missing[0]), (0, missing[1]), (0, 0)][: tile.ndim]
        tile = np.pad(tile, around, mode="symmetric")
    return np.ascontiguousarray(tile)


def fit_picture(rgb_HW3: Array, model: ModelParams) -> Array:
    """uint8 (image_height, image_width, 3): area-averaged when shrunk, linear when grown."""
    size = (model.image_width, model.image_height)
    if rgb_HW3.shape[1::-1] != size:
        shrinks = rgb_HW3.shape[1] * rgb_HW3.shape[0] > size[0] * size[1]
        rgb_HW3 = cv2.resize(rgb_HW3, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return rgb_HW3


def in_channels(rgb_HW3: Array, model: ModelParams) -> Array:
    """uint8 (H, W, image_channels): the picture in the model's colour space, or grey."""
    if model.image_channels == 1:
        return np.asarray(cv2.cvtColor(rgb_HW3, cv2.COLOR_RGB2GRAY))[..., None]
    if model.color_space == "rgb":
        return rgb_HW3
    return np.asarray(cv2.cvtColor(rgb_HW3, CONVERSIONS[model.color_space]))


def fit_mask(ids_HW: Array, model: ModelParams) -> Array:
    """uint8 (image_height, image_width): nearest neighbour, so that no class is invented."""
    size = (model.image_width, model.image_height)
    if ids_HW.shape[::-1] != size:
        return np.asarray(cv2.resize(ids_HW, size, interpolation=cv2.INTER_NEAREST_EXACT))
    return ids_HW


def _stretched(probability_hwC: Array, height: int, width: int) -> Array:
    if probability_hwC.shape[:2] == (height, width):
        return probability_hwC
    restored = np.asarray(cv2.resize(probability_hwC, (width, height), interpolation=cv2.INTER_LINEAR))
    return restored.reshape(height, width, probability_hwC.shape[-1])


def _ramp(side: int) -> Array:
    """float32 (side,): 1 in the middle, falling linearly to just above 0 at both ends."""
    distance = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
    return np.asarray(distance / distance.max(), np.float32)
