"""Heat maps: where a map is high, alone and laid over its picture."""

from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]

INK, PAPER = (29, 39, 51), (255, 255, 255)


def stretched(map_HW: Array) -> Array:
    """float32 (H, W) in 0..1: linear from the lowest to the highest value; a flat map is all 0.

    >>> stretched(np.array([[-2.0, 0.0], [2.0, 1.0]])).tolist()
    [[0.0, 0.5], [1.0, 0.75]]
    """
    low, high = float(map_HW.min()), float(map_HW.max())
    return ((map_HW - low) / max(high - low, 1e-12)).astype(np.float32)


def heat(map_HW: Array) -> Array:
    """uint8 (H, W, 3): the stretched map from dark blue (low) over green to red (high)."""
    return np.asarray(cv2.applyColorMap(np.rint(255 * stretched(map_HW)).astype(np.uint8), cv2.COLORMAP_TURBO))[
        ..., ::-1
    ]


def superimposed(rgb_HW3: Array, map_HW: Array, opacity: float) -> Array:
    """uint8 (H, W, 3): the picture under its heat map; opacity 0 shows the picture alone, 1 the heat alone."""
    return np.rint(rgb_HW3 * (1 - opacity) + heat(map_HW) * opacity).astype(np.uint8)


def captioned(rgb_HW3: Array, text: str, width: int = 256) -> Array:
    """uint8: the picture, enlarged to at least `width` and to the text's width, under a strip with the text."""
    (text_width, text_height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.6, 1)
    scale = max(1.0, width / rgb_HW3.shape[1], (text_width + 16) / rgb_HW3.shape[1])
    size = (round(rgb_HW3.shape[1] * scale), round(rgb_HW3.shape[0] * scale))
    large_HW3 = cv2.resize(rgb_HW3, size, interpolation=cv2.INTER_LINEAR)
    strip_HW3 = np.full((text_height + below + 16, size[0], 3), PAPER, np.uint8)
    cv2.putText(strip_HW3, text, (8, text_height + 8), cv2.FONT_HERSHEY_SIMPLEX, 0.6, INK, 1, cv2.LINE_AA)
    return np.concatenate([strip_HW3, large_HW3])


def outlined(rgb_HW3: Array, cell_HW: Array | None, color: tuple[int, int, int] = PAPER) -> Array:
    """uint8 (H, W, 3): the picture with the cell's border, one pixel wide, in a colour."""
    if cell_HW is None:
        return rgb_HW3
    inner_HW = cv2.erode(cell_HW.astype(np.uint8), np.ones((3, 3), np.uint8))
    return np.where((cell_HW & (inner_HW == 0))[..., None], np.array(color, np.uint8), rgb_HW3)


def pointed(rgb_HW3: Array, map_HW: Array) -> Array:
    """uint8 (H, W, 3): the picture with a cross at the map's highest place."""
    row, column = np.unravel_index(int(map_HW.argmax()), map_HW.shape)
    marked_HW3, size = np.array(rgb_HW3, order="C"), max(rgb_HW3.shape[0] // 10, 7)
    for color, thickness in ((PAPER, 3), (INK, 1)):
        cv2.drawMarker(marked_HW3, (int(column), int(row)), color, cv2.MARKER_CROSS, size, thickness)
    return marked_HW3
