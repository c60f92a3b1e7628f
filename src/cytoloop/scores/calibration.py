"""Whether a model that says 80 % is right 80 times out of 100.

Expected calibration error over M equal bins of the winning class's probability (Naeini et al., AAAI
2015; Guo et al., ICML 2017), with n pixels in all and n_m in a bin:

    ECE = sum over m of n_m / n * |accuracy_m - confidence_m|
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BINS = 15


def reliability(probability: Array, correct: Array, bins: int = BINS) -> Array:
    """Sums of each bin; sums of several pictures are added.

    Args:
        probability: float, any shape, 0..1: probability of the predicted class.
        correct: bool, the same shape: whether the prediction is right.

    Returns:
        float64 (3, bins): pixels, sum of probabilities, correct pixels.
    """
    flat = probability.ravel().astype(np.float64)
    place = np.clip((flat * bins).astype(np.int64), 0, bins - 1)
    weights = (None, flat, correct.ravel().astype(np.float64))
    return np.stack([np.bincount(place, weights=w, minlength=bins).astype(np.float64) for w in weights])


def expected_calibration_error(sums_3M: Array) -> float:
    """ECE, 0..1, of `reliability`'s sums; NaN when there are no pixels."""
    pixels, confidence, correct = sums_3M
    total = pixels.sum()
    return float(np.abs(correct - confidence).sum() / total) if total else float("nan")
