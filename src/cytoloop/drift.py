"""Whether a quantity is still distributed as it was: the population stability index of binned counts.

With e and a the fractions of the expected and of the recent values that lie in a bin:

    PSI = sum over the bins of (a - e) ln(a / e)

Lewis, An Introduction to Credit Scoring (1994); the divergence of Jeffreys (Proceedings of the Royal Society A 186,
1946). In credit scoring less than 0.1 is taken for no shift and 0.25 or more for a large one (Siddiqi, Credit Risk
Scorecards, 2006). These thresholds know nothing of the samples' sizes: of N and M values of one and the same
distribution in B bins, PSI / (1 / N + 1 / M) is distributed about as chi-square with B - 1 degrees of freedom
(Yurdakul, Statistical Properties of Population Stability Index, Western Michigan University, 2018).
"""

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BINS = 5
"""Between the smallest and the largest expected value, with about as many values in each."""


def bin_edges(values_N: Array) -> Array:
    """At most BINS + 1 increasing edges, the quantiles of the values; one edge where all values are the same.

    >>> bin_edges(np.arange(11.0)).tolist()
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    return np.unique(np.quantile(values_N, np.linspace(0, 1, BINS + 1), method="nearest"))


def bin_counts(values_N: Array, edges_E: Array) -> Array:
    """int64 counts of the values: below the first edge, from each edge to the next, and above the last.

    An edge belongs to the bin above it, the last edge to the last bin between edges.

    >>> bin_counts(np.array([-1.0, 0.0, 1.0, 5.0, 10.0, 11.0]), np.array([0.0, 5.0, 10.0])).tolist()
    [1, 2, 2, 1]
    >>> bin_counts(np.array([223.0, 224.0, 225.0]), np.array([224.0])).tolist()
    [1, 1, 1]
    """
    between = max(len(edges_E) - 1, 1)
    place_N = np.clip(np.searchsorted(edges_E, values_N, side="right"), 1, between)
    place_N[values_N < edges_E[0]] = 0
    place_N[values_N > edges_E[-1]] = between + 1
    return np.bincount(place_N, minlength=between + 2).astype(np.int64)


def stability_index(expected_B: Array, recent_B: Array) -> float:
    """PSI of counts in the same bins; 0 where the fractions are the same, without bound above.

    An empty bin counts as half a value of the smaller sample, since the logarithm of nothing is infinite.

    >>> round(stability_index(np.array([50, 50]), np.array([80, 20])), 4)
    0.4159
    """
    least = 0.5 / min(expected_B.sum(), recent_B.sum())
    e_B, a_B = (np.maximum(counts_B / counts_B.sum(), least) for counts_B in (expected_B, recent_B))
    return float(np.sum((a_B - e_B) * np.log(a_B / e_B)))


def chance_index(expected_B: Array, recent_B: Array, probability: float) -> float:
    """The PSI that samples of these sizes reach with this probability where nothing has shifted.

    Bins that are empty in both samples do not count.

    >>> round(chance_index(np.array([50, 50]), np.array([80, 20]), 0.05), 4)
    0.0768
    """
    from scipy.special import chdtri  # takes half a second to import

    freedom = int(np.count_nonzero(expected_B + recent_B)) - 1
    if freedom < 1:
        return 0.0
    return float(chdtri(freedom, probability) * (1 / expected_B.sum() + 1 / recent_B.sum()))
