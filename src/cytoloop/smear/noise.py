"""Random textures: value noise of several octaves, and a smooth threshold."""

from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]


def fractal_noise(shape: tuple[int, int], period: float, rng: np.random.Generator, octaves: int = 3) -> Array:
    """float32 (H, W) value noise of mean 0 and standard deviation 1.

    A lattice of normal numbers, `period` pixels wide, is interpolated by cubics; each further octave
    has half the period and half the amplitude.
    """
    total_HW = np.zeros(shape, np.float32)
    for octave in range(octaves):
        step = max(period / 2**octave, 1.0)
        lattice = rng.standard_normal([int(side / step) + 4 for side in shape], np.float32)
        into = np.array([[1 / step, 0, 1 + rng.random()], [0, 1 / step, 1 + rng.random()]])
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        total_HW += 0.5**octave * cv2.warpAffine(lattice, into, shape[::-1], flags=flags, borderMode=cv2.BORDER_REFLECT)
    spread = max(float(total_HW.std()), 1e-6)
    return np.asarray((total_HW - float(total_HW.mean())) / spread)


def ramp(field: Array, low: float, high: float) -> Array:
    """0 below `low`, 1 above `high`, and a smooth cubic (3t^2 - 2t^3) between."""
    t = np.clip((field - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))
