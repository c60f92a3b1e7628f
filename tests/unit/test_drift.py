"""The population stability index against arithmetic, and what any such index must do."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytoloop.drift import BINS, bin_counts, bin_edges, chance_index, stability_index

Array = np.ndarray

COUNTS = st.lists(st.integers(0, 500), min_size=2, max_size=12).filter(any)


@pytest.mark.parametrize(
    ("expected", "recent", "index"),
    [
        ([50, 50], [50, 50], 0),
        ([50, 50], [500, 500], 0),  # fractions count, not numbers
        ([50, 50], [80, 20], 0.3 * math.log(1.6) - 0.3 * math.log(0.4)),  # = 0.3 ln 4
        ([10, 20, 70], [20, 20, 60], 0.1 * math.log(2) - 0.1 * math.log(6 / 7)),
        ([100, 0], [0, 100], 2 * 0.995 * math.log(200)),  # half a picture of 100 stands for none
        ([1000, 0], [0, 100], 2 * 0.995 * math.log(200)),  # of the smaller sample
    ],
)
def test_known_answers(expected: list[int], recent: list[int], index: float) -> None:
    assert stability_index(np.array(expected), np.array(recent)) == pytest.approx(index, abs=1e-12)


@given(COUNTS)
def test_equal_counts_have_the_index_zero(counts: list[int]) -> None:
    assert stability_index(np.array(counts), np.array(counts)) == 0
    assert stability_index(np.array(counts), 3 * np.array(counts)) == pytest.approx(0, abs=1e-12)


@given(st.data())
def test_it_is_never_negative_and_knows_neither_side_nor_order(data: st.DataObject) -> None:
    one = np.array(data.draw(COUNTS))
    other = np.array(data.draw(st.lists(st.integers(0, 500), min_size=len(one), max_size=len(one)).filter(any)))
    order = data.draw(st.permutations(range(len(one))))
    index = stability_index(one, other)
    assert index >= 0
    assert stability_index(other, one) == pytest.approx(index)
    assert stability_index(one[order], other[order]) == pytest.approx(index)


def test_it_grows_with_the_shift() -> None:
    values = np.random.default_rng(0).normal(120, 10, 400)
    edges = bin_edges(values)
    expected = bin_counts(values, edges)
    indices = [stability_index(expected, bin_counts(values + shift, edges)) for shift in (0, 2, 5, 10, 20)]
    assert indices == sorted(indices)
    assert indices[0] == 0
    assert indices[1] < 0.1 < 0.25 < indices[3]  # a fifth of a deviation is little, a whole one is much


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_each_value_is_in_one_bin_and_none_of_the_edges_own_lies_outside(values: list[float]) -> None:
    edges = bin_edges(np.array(values))
    counts = bin_counts(np.array(values), edges)
    assert (np.diff(edges) > 0).all()
    assert (edges[0], edges[-1]) == (min(values), max(values))
    assert len(counts) == max(len(edges) - 1, 1) + 2
    assert counts.sum() == len(values)
    assert counts[0] == counts[-1] == 0


def test_the_bins_of_many_values_are_equally_full() -> None:
    values = np.random.default_rng(1).normal(size=1000)
    assert bin_counts(values, bin_edges(values))[1:-1].tolist() == pytest.approx([1000 / BINS] * BINS, abs=2)


def test_a_constant_fact_that_changes_is_seen() -> None:
    edges = bin_edges(np.full(50, 224.0))
    expected = bin_counts(np.full(50, 224.0), edges)
    assert stability_index(expected, bin_counts(np.full(50, 224.0), edges)) == 0
    for side in (223.0, 225.0):
        assert stability_index(expected, bin_counts(np.full(50, side), edges)) > 5


def test_chance_is_asked_for_by_its_probability() -> None:
    """Of many samples of one distribution, about as many as declared exceed what chance allows."""
    rng = np.random.default_rng(2)
    exceeded = 0
    for _ in range(400):
        edges = bin_edges(expected := rng.normal(size=300))
        counts = bin_counts(expected, edges), bin_counts(rng.normal(size=150), edges)
        exceeded += stability_index(*counts) > chance_index(*counts, 0.05)
    assert 4 <= exceeded <= 40  # 20 expected


def test_chance_allows_more_to_smaller_samples_and_nothing_where_there_is_one_bin() -> None:
    expected = np.array([0, 20, 20, 20, 0])
    allowed = [chance_index(expected, times * np.array([1, 2, 3, 4, 0]), 0.01) for times in (1, 10, 100)]
    assert allowed == sorted(allowed, reverse=True)
    # chi-square of 3 degrees of freedom is exceeded by 11.345 with probability 0.01 (any table of it)
    assert allowed[0] == pytest.approx(11.345 * (1 / 60 + 1 / 10), rel=1e-3)
    assert chance_index(np.array([0, 9, 0]), np.array([0, 5, 0]), 0.01) == 0
