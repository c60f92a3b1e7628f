"""The contact sheet: single pictures beside their truth, the model's answer, and where they differ."""

import base64
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from PIL import Image

from cytoloop.images.codec import LabelCodec

Array = np.ndarray[Any, Any]

SIDE = 256
"""Longest side of a thumbnail, pixels."""

ERRORS = {
    "missed": (230, 97, 0),
    "false": (0, 114, 230),
    "wrong class": (204, 41, 160),
}
"""RGB: foreground taken for background, background for foreground, one class for another.

Told apart by people with any of the common colour vision deficiencies, and on grey."""

_GREYS = 64


@dataclass(frozen=True)
class Example:
    """One line of the sheet; pictures as `data:` addresses."""

    part: str
    """best, median or worst."""
    id: str
    group: str
    dice: float
    """Mean Dice of the picture's foreground classes."""
    image: str
    truth: str
    prediction: str
    error: str


@dataclass(frozen=True)
class Sample:
    """A picture of the training split with its truth; pictures as `data:` addresses."""

    id: str
    image: str
    truth: str


def choose(scores_N: Array, examples: int) -> dict[str, list[int]]:
    """Places of the best, median and worst pictures; each picture at most once, NaN never.

    Fewer than `examples` each when there are fewer than three times as many pictures; equal scores
    keep their order.

    >>> choose(np.array([0.3, 0.9, np.nan, 0.5]), 1)
    {'best': [1], 'median': [3], 'worst': [0]}
    """
    order = [int(place) for place in np.argsort(-scores_N, kind="stable") if not np.isnan(scores_N[place])]
    count = min(examples, max(1, len(order) // 3))
    best, rest = order[:count], order[count:]
    worst, middle = rest[-count:][::-1], rest[:-count]
    start = max(0, (len(middle) - count) // 2)
    return {"best": best, "median": middle[start : start + count], "worst": worst}


def thumbnails(rgb_HW3: Array, truth_HW: Array, prediction_HW: Array, codec: LabelCodec) -> dict[str, str]:
    """`image`, `truth`, `prediction` and `error` of one picture as `data:` addresses.

    Args:
        rgb_HW3: uint8 (H, W, 3).
        truth_HW: uint8 (H, W) class ids.
        prediction_HW: uint8 (H, W) class ids.
        codec: gives the classes' colours.
    """
    rgb, truth, prediction = _small(rgb_HW3), _small(truth_HW), _small(prediction_HW)
    return {
        **picture_and_truth(rgb_HW3, truth_HW, codec),
        "prediction": _address("png", codec.encode_png(prediction)),
        "error": _address("png", _error_png(rgb, truth, prediction)),
    }


def picture_and_truth(rgb_HW3: Array, truth_HW: Array, codec: LabelCodec) -> dict[str, str]:
    """`image` and `truth` of one picture, as `thumbnails` gives them."""
    return {
        "image": _address("jpeg", _jpeg(_small(rgb_HW3))),
        "truth": _address("png", codec.encode_png(_small(truth_HW))),
    }


def errors(truth_HW: Array, prediction_HW: Array) -> Array:
    """uint8 (H, W): 0 where right, else 1 + the place of the kind in ERRORS."""
    kinds = (
        (truth_HW > 0) & (prediction_HW == 0),
        (truth_HW == 0) & (prediction_HW > 0),
        (truth_HW > 0) & (prediction_HW > 0) & (truth_HW != prediction_HW),
    )
    return np.select(kinds, range(1, 4), 0).astype(np.uint8)


def _small(picture: Array) -> Array:
    """At most SIDE pixels on the longest side; averaged in colour, nearest for class ids."""
    height, width = picture.shape[:2]
    scale = min(1, SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    by = cv2.INTER_AREA if picture.ndim == 3 else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(picture, size, interpolation=by))


def _error_png(rgb_HW3: Array, truth_HW: Array, prediction_HW: Array) -> bytes:
    """The picture in pale grey with the errors in colour, on a palette."""
    grey_HW = cv2.cvtColor(rgb_HW3, cv2.COLOR_RGB2GRAY) // (256 // _GREYS)
    wrong_HW = errors(truth_HW, prediction_HW)
    picture = Image.fromarray(np.where(wrong_HW > 0, _GREYS - 1 + wrong_HW, grey_HW).astype(np.uint8), mode="P")
    greys = np.linspace(110, 255, _GREYS).round().astype(int).repeat(3).tolist()
    picture.putpalette(greys + [part for color in ERRORS.values() for part in color])
    buffer = BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _jpeg(rgb_HW3: Array) -> bytes:
    return bytes(cv2.imencode(".jpg", rgb_HW3[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1])


def _address(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
