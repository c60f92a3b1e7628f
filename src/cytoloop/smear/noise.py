"""Random textures: value noise of several octaves, and a smooth threshold."""

from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]


def fractal_noise(shape: tuple[int, int], period: float, rng: np.random.Generator, octaves: int = 3) -> Array:
    """float32 (H, W) value noise of mean 0 and standard deviation 1.

    A lattice of normal numbers, `period` pixels wide, is interpolated by cubics to the next lattice,
    of half the period and half the amplitude, and so on; the finest to pixels. Octaves finer than a
    pixel are left out.
    """
    finer = min(octaves - 1, max(0, int(np.log2(period))))
    step = max(period / 2**finer, 1.0)
    coarsest = [int(side / step) // 2**finer + 2 for side in shape]
    lattice = rng.standard_normal(coarsest, np.float32)
    for octave in range(1, finer + 1):
        lattice = cv2.resize(lattice, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
        lattice += np.float32(0.5**octave) * rng.standard_normal(lattice.shape, np.float32)
    fine = cv2.resize(lattice, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
    y, x = (int(rng.integers(have - side + 1)) for have, side in zip(fine.shape, shape, strict=True))
    noise_HW = fine[y : y + shape[0], x : x + shape[1]]
    mean, spread = (float(number[0, 0]) for number in cv2.meanStdDev(noise_HW))
    return np.asarray((noise_HW - mean) / max(spread, 1e-6))


def ramp(field: Array, low: float, high: float) -> Array:
    """0 below `low`, 1 above `high`, and a smooth cubic (3t^2 - 2t^3) between."""
    t = np.clip((field - low) / (high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t))
