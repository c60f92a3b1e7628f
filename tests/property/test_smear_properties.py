from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cytoloop.smear
from cytoloop.smear import SmearPicture, read_protocol
from cytoloop.smear.backgrounds import Near, Scene, scatter
from cytoloop.smear.bank import SPLITS, shares
from cytoloop.smear.cells import Cell
from cytoloop.smear.compose import combination, free_spot, truth
from cytoloop.smear.crops import divide_groups, in_turn
from cytoloop.smear.noise import fractal_noise, ramp
from cytoloop.smear.protocol import CLASSES
from cytoloop.smear.shapes import Canvas, coverage, granules, outline
from cytoloop.smear.threshold import cell_mask
from drawn import disc

PROTOCOL = read_protocol(Path(cytoloop.smear.__file__).with_name("protocol.yaml"))
SEEDS = st.integers(0, 2**31)
DISC = Cell("lymphocyte", np.repeat(disc(61, (30, 30), 20)[..., None], 4, -1).astype(np.float32), 3.8)
"""Radius 20 at twice the resolution: 10 pixels, absorbance and coverage 1."""


@settings(deadline=None)
@given(SEEDS, st.integers(4, 60), st.integers(4, 60), st.floats(1, 80), st.integers(1, 4))
def test_noise_is_centred_and_of_unit_spread(seed: int, height: int, width: int, period: float, octaves: int) -> None:
    noise = fractal_noise((height, width), period, np.random.default_rng(seed), octaves)
    assert noise.shape == (height, width)
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 1e-3
    assert noise.std() == pytest.approx(1, abs=1e-2)


@settings(deadline=None)
@given(st.floats(-5, 5), st.floats(0.01, 5))
def test_a_ramp_rises_from_0_to_1(low: float, width: float) -> None:
    values = ramp(np.linspace(low - 1, low + width + 1, 200), low, low + width)
    assert (np.diff(values) >= -1e-12).all()
    assert (values[0], values[-1]) == (0, 1)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(2, 18), st.floats(0, 0.15), st.floats(1, 1.5))
def test_an_outline_encloses_the_area_of_its_diameter(
    seed: int, diameter: float, roughness: float, elongation: float
) -> None:
    canvas = Canvas(diameter, 0.095, {}, np.random.default_rng(seed), 0.8)
    depth, rho = outline(canvas, roughness, elongation)
    area = float(coverage(depth).sum()) * 0.095**2
    assert 2 * np.sqrt(area / np.pi) == pytest.approx(diameter, rel=0.02)
    np.testing.assert_array_equal(depth > 0, rho < 1)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(0.4, 2.5))
def test_granules_are_between_nothing_and_full(seed: int, spacing: float) -> None:
    thick, strength = granules(Canvas(10, 0.1, {}, np.random.default_rng(seed)), spacing, (0.2, 0.5))
    assert thick.min() >= 0
    assert thick.max() <= 1
    assert strength.min() >= 0.55
    assert strength.max() <= 1


@settings(deadline=None)
@given(st.integers(3, 500))
def test_shares_part_the_cells(count: int) -> None:
    parts = shares(count)
    assert tuple(parts) == SPLITS
    assert sum(parts.values()) == count
    assert min(parts.values()) >= 1
    assert count < 10 or parts["train"] >= 0.7 * count


@settings(deadline=None)
@given(SEEDS, st.sets(st.text("abc", min_size=1, max_size=4), min_size=1))
def test_each_group_goes_to_one_split(seed: int, groups: set[str]) -> None:
    split_of = divide_groups(sorted(groups), shares(10), np.random.default_rng(seed))
    assert set(split_of) == groups
    assert len(groups) < 3 or set(split_of.values()) == set(SPLITS)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.sampled_from(SPLITS), st.integers(0, 3))
def test_combinations_are_in_balance(seed: int, split: str, repeat: int) -> None:
    drawn = Counter(combination(PROTOCOL, seed, split, repeat * 360 + k) for k in range(360))
    assert len(drawn) == 360


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(100, 300))
def test_few_red_cells_overlap(seed: int, side: int) -> None:
    radii = np.array([16.0, 18.0, 20.0])
    centres, which = scatter(PROTOCOL, side, radii, np.full(3, 1 / 3), np.random.default_rng(seed))
    assert len(centres) == len(which) > 0
    away = np.linalg.norm(centres[:, None] - centres[None], axis=-1) / (radii[which][:, None] + radii[which][None])
    np.fill_diagonal(away, 9)
    assert away.min() >= 0.62


@settings(deadline=None)
@given(SEEDS, st.integers(1, 60), st.sampled_from([0.62, 1.02]))
def test_overlaps_are_those_of_all_pairs(seed: int, number: int, least: float) -> None:
    circles = np.random.default_rng(seed).uniform((-9, -9, 1), (99, 99, 6), (number, 3)).tolist()
    near = Near(13)
    for circle in circles[1:]:
        near.add(*circle)
    x, y, radius = circles[0]
    pairs = [np.hypot(x - cx, y - cy) <= least * (radius + r) for cx, cy, r in circles[1:]]
    assert near.overlapped(x, y, radius, least) == any(pairs)


@settings(deadline=None)
@given(SEEDS, st.floats(2, 300), st.integers(0, 4))
def test_a_spot_lies_in_the_picture(seed: int, radius: float, taken: int) -> None:
    rng = np.random.default_rng(seed)
    spots = np.column_stack([rng.uniform(0, 128, (taken, 2)), np.full(taken, 10.0)])
    x, y, kept = free_spot(radius, spots, 128, rng)
    assert 0 <= x <= 128
    assert 0 <= y <= 128
    assert kept == radius


@settings(deadline=None)
@given(SEEDS, st.integers(1, 12))
def test_truth_renumbers_the_owners_that_show(seed: int, number: int) -> None:
    rng = np.random.default_rng(seed)
    owners = rng.integers(0, number + 1, (9, 7)).astype(np.uint16)
    classes = np.concatenate([[0], rng.integers(1, len(CLASSES), number)]).astype(np.uint8)
    ids, instances, names = truth(owners, classes)
    np.testing.assert_array_equal(ids, classes[owners])
    assert len(names) == instances.max() == len(set(owners.ravel()) - {0})
    objects = SmearPicture("", "train", owners, ids, instances, names).objects
    for label, (name, (x, y, width, height)) in enumerate(objects, 1):
        box = instances[y : y + height, x : x + width]
        assert (box == label).sum() == (instances == label).sum()
        assert (box[[0, -1]] == label).any(1).all()
        assert (box[:, [0, -1]] == label).any(0).all()
        assert set(ids[instances == label]) == {CLASSES.index(name)}


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.floats(-60, 90), st.floats(-60, 90), st.floats(0, 1))
def test_affixing_keeps_to_the_picture_and_to_the_cell(seed: int, x: float, y: float, opacity: float) -> None:
    scene = Scene(np.full((30, 40, 3), 0.5, np.float32), np.zeros((30, 40), np.uint16))
    scene.affix(DISC, np.array([x, y]), opacity, np.random.default_rng(seed))
    assert scene.classes == [0, CLASSES.index("lymphocyte")]
    rows, columns = np.mgrid[:30, :40]
    away = np.hypot(columns - x, rows - y)
    np.testing.assert_array_equal(scene.owners_HW[away < 9], 1)
    np.testing.assert_array_equal(scene.owners_HW[away > 11], 0)
    np.testing.assert_allclose(scene.absorbance_HW3[away < 8.5], 1 + 0.5 * (1 - opacity), rtol=1e-4)
    np.testing.assert_array_equal(scene.absorbance_HW3[away > 13], np.float32(0.5))


@settings(deadline=None)
@given(SEEDS, st.integers(0, 3), st.integers(0, 5), st.integers(0, 5))
def test_a_mirrored_block_has_the_same_pixels(seed: int, mirrored: int, x: int, y: int) -> None:
    owners = np.random.default_rng(seed).integers(0, 9, (12, 12)).astype(np.uint16)
    scene = Scene(np.repeat(owners[..., None], 3, -1).astype(np.float32), owners.copy())
    block = scene.block(x, y, 7, mirrored)
    np.testing.assert_array_equal(block.absorbance_HW3[..., 0], block.owners_HW)
    expected = owners[y : y + 7, x : x + 7]
    expected = expected[:, ::-1] if mirrored % 2 else expected
    np.testing.assert_array_equal(block.owners_HW, expected[::-1] if mirrored >= 2 else expected)
    block.owners_HW[:] = 99
    np.testing.assert_array_equal(scene.owners_HW, owners)  # it is a copy


PAIR = st.tuples(*[st.floats(0.05, 1.5)] * 3)


@settings(deadline=None)
@given(PAIR, PAIR)
def test_another_stain_is_the_cells_mean_absorbance(own: tuple[float, ...], other: tuple[float, ...]) -> None:
    """Of a cell that is stained evenly, whatever the two stains are."""
    even = DISC.layers_HW4[..., 3:] * np.array([*own, 1], np.float32)
    cell = Cell("healthy_rbc", even, 3.8)
    np.testing.assert_allclose(cell.stain_3, own, rtol=1e-4)
    changed = cell.stained(np.array(own), np.array(other))
    np.testing.assert_allclose(changed.stain_3, other, rtol=1e-3)
    np.testing.assert_array_equal(changed.layers_HW4[..., 3], even[..., 3])


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 99), max_size=5), max_size=4))
def test_lists_are_taken_in_turn(lists: list[list[int]]) -> None:
    taken = list(in_turn(lists))  # type: ignore[arg-type]
    assert sorted(taken) == sorted(number for numbers in lists for number in numbers)
    assert taken[: len(lists)] == [numbers[0] for numbers in lists if numbers][: len(lists)] or not all(lists)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(8, 20), st.tuples(*[st.integers(0, 255)] * 3), st.tuples(*[st.integers(0, 255)] * 3))
def test_a_disc_is_found_on_any_ground_that_is_not_its_own(
    seed: int, radius: int, light: tuple[int, ...], dark: tuple[int, ...]
) -> None:
    where = disc(64, (30, 33), radius)
    noise = np.random.default_rng(seed).integers(-2, 3, (64, 64, 3))
    image = np.clip(np.where(where[..., None], dark, light) + noise, 0, 255).astype(np.uint8)
    mask = cell_mask(image)
    apart = np.linalg.norm(np.subtract(light, dark))
    if apart > 30:
        assert (mask != where).sum() <= 0.06 * where.sum()
    if apart < 4:
        assert not mask.any()
