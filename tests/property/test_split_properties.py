"""A split is a partition by group that depends on nothing but the group."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cytoloop.artifacts import Row
from cytoloop.params import SplitParams
from cytoloop.steps.split import Groups, _exclude, _score, place

names = st.lists(st.text(max_size=8), min_size=1, max_size=30, unique=True)
seeds = st.integers(0, 2**31)
fractions = st.tuples(*[st.integers(1, 98)] * 3).map(lambda parts: [part / sum(parts) for part in parts])


def assigned(groups: Sequence[str], params: SplitParams) -> dict[str, str]:
    pictures = [Row(id=name, group=name, source_file=name, class_pixels=[1, 1]) for name in groups]
    divided = Groups.of(pictures, True, 2)
    return dict(zip(divided.names, divided.assign(divided.shares(params), params.seed), strict=True))


def params_of(fractions: Sequence[float], seed: int) -> SplitParams:
    return SplitParams(train=fractions[0], val=fractions[1], test=1 - fractions[0] - fractions[1], seed=seed)


@given(names, names, fractions, seeds)
def test_adding_pictures_in_any_order_never_moves_old_ones(
    old: list[str], new: list[str], fractions: list[float], seed: int
) -> None:
    params = params_of(fractions, seed)
    before = assigned(old, params)
    after = assigned([*[name for name in new if name not in old], *reversed(old)], params)
    assert {name: after[name] for name in before} == before


@given(names, fractions, seeds)
def test_every_group_is_in_one_of_the_three(groups: list[str], fractions: list[float], seed: int) -> None:
    found = assigned(groups, params_of(fractions, seed))
    assert set(found) == set(groups)
    assert set(found.values()) <= {"train", "val", "test"}


@given(st.text(), seeds)
def test_places_are_in_the_unit_interval(group: str, seed: int) -> None:
    assert 0 <= place(seed, group) < 1


def test_places_are_spread_evenly() -> None:
    places = [place(0, f"group {n}") for n in range(5000)]
    counts, _ = np.histogram(places, bins=10, range=(0, 1))
    # 500 expected in each tenth, standard deviation 21
    assert abs(counts - 500).max() < 100


parts = st.lists(st.sampled_from(["train", "val", "test"]), min_size=1, max_size=12)


@given(parts, st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=20))
def test_no_near_duplicates_face_each_other_and_test_never_leaves(
    parts: list[str], pairs: set[tuple[int, int]]
) -> None:
    pictures = [Row(id=str(n), group=str(n), source_file="") for n in range(len(parts))]
    placed = {str(n): (part, "") for n, part in enumerate(parts)}
    inside = sorted((a, b) for a, b in pairs if a < b < len(parts))
    kept, reasons = _exclude(pictures, placed, inside)
    for a, b in inside:
        assert "excluded" in (kept[a], kept[b]) or kept[a] == kept[b]
    for before, after, reason in zip(parts, kept, reasons, strict=True):
        assert after in (before, "excluded")
        assert before != "test" or after == "test"
        assert (after == "excluded") == reason.startswith("near-duplicate of ")


@given(names, seeds)
def test_the_score_counts_empty_splits(groups: list[str], seed: int) -> None:
    params = SplitParams(seed=seed)
    pictures = [Row(id=name, group=name, source_file=name, class_pixels=[1, 1]) for name in groups]
    divided = Groups.of(pictures, True, 2)
    empty = 3 - len(set(assigned(groups, params).values()))
    assert _score(divided, divided.shares(params), seed)[0] == empty
