"""How far a score could have been from what it is, had other groups been in the test split.

The percentile bootstrap (Efron, Annals of Statistics 7, 1979) over *groups*: pictures of one patient
or slide resemble each other, so that resampling pictures, or even pixels, would promise too much.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class GroupBootstrap:
    """Resamples of the test groups, drawn once and used for every score.

    How it works: a resample draws as many groups as there are, with replacement. A row of
    `draws_SG` says how often each group was drawn; multiplied with each group's sums it gives the
    sums of the whole resample, so that no picture is touched again.
    """

    def __init__(self, groups: Sequence[str], samples: int, confidence: float = 0.95, seed: int = 0) -> None:
        """
        Args:
            groups: the group of each picture, N names, at least one.
            samples: resamples; 0 gives no intervals.
            confidence: level of the intervals, 0..1.
            seed: seed of the draws.
        """
        names, self._group_N = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        self.groups = len(names)
        self.confidence = confidence
        even = np.full(self.groups, 1 / self.groups)
        self.draws_SG = np.random.default_rng(seed).multinomial(self.groups, even, size=samples)

    def sums(self, values_NX: Array) -> Array:
        """float64 (S, ...): for each resample the sum of the pictures' (N, ...) values; exact for counts."""
        flat_NX = values_NX.reshape(len(values_NX), -1).astype(np.float64)
        sums_GX = np.zeros((self.groups, flat_NX.shape[1]))
        np.add.at(sums_GX, self._group_N, flat_NX)
        return (self.draws_SG @ sums_GX).reshape(-1, *values_NX.shape[1:])

    def image_means(self, scores_NC: Array) -> Array:
        """float64 (S, C): for each resample the mean over its pictures of (N, C) scores, NaN left out."""
        present_NC = ~np.isnan(scores_NC)
        sums_SC, counts_SC = self.sums(np.where(present_NC, scores_NC, 0.0)), self.sums(present_NC)
        return np.where(counts_SC > 0, sums_SC / np.maximum(counts_SC, 1), np.nan)

    def interval(self, values_S: Array) -> tuple[float, float]:
        """Lower and upper percentile of a score's resamples.

        (NaN, NaN) where there is nothing to tell: fewer than two groups, no resamples, no score.
        """
        values = values_S[~np.isnan(values_S)]
        if self.groups < 2 or not len(values):
            return float("nan"), float("nan")
        tail = 50 * (1 - self.confidence)
        low, high = np.percentile(values, (tail, 100 - tail))
        return float(low), float(high)
