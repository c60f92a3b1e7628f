"""Variants with known answers: where marked pixels go, and the map against the exact chain of functions."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from cytoloop.images.augment import (
    Sample,
    Variant,
    brightened,
    mirror,
    quarter_turn,
    rotation,
    sharpened,
    shearing,
    shrinking,
)
from cytoloop.images.warps import Displacement, Lens, Linear, Warp, coordinate_map
from cytoloop.params import AugmentParams
from cytoloop.variation import chance, draw
from tables import mask_of, picture_of

Array = np.ndarray[Any, Any]

BENT = ("shear", "shrink", "rotation", "barrel", "pincushion", "distortion", "elastic")


def marked(height: int, width: int, y: int, x: int) -> Sample:
    """All zero but for one pixel."""
    mask_HW = np.zeros((height, width), np.uint8)
    mask_HW[y, x] = 1
    return Sample(np.repeat(mask_HW[..., None] * 200, 3, -1), mask_HW, mask_HW.astype(np.uint16) * 700)


def sample_of(mask_HW: Array) -> Sample:
    return Sample(picture_of(mask_HW), mask_HW, mask_HW.astype(np.uint16))


def centre(mask_HW: Array) -> tuple[float, float]:
    """x to the right and y upwards of the middle."""
    height, width = mask_HW.shape
    y, x = (where.mean() for where in np.nonzero(mask_HW))
    return x - (width - 1) / 2, (height - 1) / 2 - y


def dot(y: int, x: int) -> Sample:
    """3 x 3 pixels in 81 x 81, whose middle is (40, 40)."""
    mask_HW = np.zeros((81, 81), np.uint8)
    mask_HW[y - 1 : y + 2, x - 1 : x + 2] = 1
    return Sample(picture_of(mask_HW), mask_HW)


@pytest.mark.parametrize(
    ("matrix_22", "y", "x"),
    [
        (mirror(False, False), 1, 2),
        (mirror(True, False), 1, 4),
        (mirror(False, True), 3, 2),
        (mirror(True, True), 3, 4),
        (quarter_turn(2), 3, 4),
        (mirror(True, False) @ quarter_turn(2), 3, 2),
    ],
)
def test_flips_and_half_turns_move_whole_pixels(matrix_22: Array, y: int, x: int) -> None:
    moved = Variant(matrix_22).apply(marked(5, 7, 1, 2))
    for found, wanted in zip(moved, marked(5, 7, y, x), strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("mirrored", [False, True])
def test_flips_come_before_counter_clockwise_turns(turns: int, mirrored: bool) -> None:
    mask_HW = mask_of(33, 33)
    expected = np.rot90(np.fliplr(mask_HW) if mirrored else mask_HW, turns)
    found = Variant(mirror(mirrored, False) @ quarter_turn(turns)).apply(sample_of(mask_HW))
    np.testing.assert_array_equal(found.mask_HW, expected)
    np.testing.assert_array_equal(found.image_HWC, picture_of(expected))


def test_a_rectangle_is_turned_within_its_frame() -> None:
    turned = Variant(quarter_turn(1)).apply(marked(5, 9, 2, 6), border=0)
    assert turned.image_HWC.shape == (5, 9, 3)
    assert np.argwhere(turned.mask_HW).tolist() == [[0, 4]]


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_rotation_through_the_map_agrees_with_the_exact_turn(turns: int) -> None:
    sample = sample_of(mask_of(33, 33))
    turned, rotated = (Variant(m).apply(sample) for m in (quarter_turn(turns), rotation(90 * turns)))
    np.testing.assert_array_equal(rotated.mask_HW, turned.mask_HW)
    np.testing.assert_allclose(rotated.image_HWC, turned.image_HWC, atol=1)


@pytest.mark.parametrize(
    ("matrix_22", "x", "y"),
    [
        (rotation(30), 30 * np.cos(np.pi / 6), 15),
        (rotation(-90), 0, -30),
        (shrinking(0.5), 15, 0),
        (shearing(0.1, 0), 30, 0),
        (shearing(0, 0.1), 30, 3),  # what has its source at y = 0 is where y + 0.1 x = 0, above
    ],
)
def test_a_dot_on_the_right_goes_where_arithmetic_says(matrix_22: Array, x: float, y: float) -> None:
    moved = Variant(matrix_22).apply(dot(40, 70), border=0)
    assert centre(moved.mask_HW) == pytest.approx((x, y), abs=0.6)
    assert moved.instances_HW is None


def test_the_leftmost_matrix_of_a_product_happens_first() -> None:
    """Turned to the top and then sheared along x, a dot moves aside; sheared first, it would not."""
    first_turned = Variant(quarter_turn(1) @ shearing(0.2, 0)).apply(dot(40, 70), border=0)
    assert centre(first_turned.mask_HW) == pytest.approx((6, 30), abs=0.6)
    first_sheared = Variant(shearing(0.2, 0) @ quarter_turn(1)).apply(dot(40, 70), border=0)
    assert centre(first_sheared.mask_HW) == pytest.approx((0, 30), abs=0.6)


def at(warp: Warp, x: float, y: float) -> tuple[float, float]:
    """The source of one point, by the map of a picture of 201 x 201."""
    points = coordinate_map([warp], 201, 201)
    return float(points.x[int(y), int(x)]), float(points.y[int(y), int(x)])


def test_a_barrel_magnifies_its_middle_and_leaves_the_rest() -> None:
    lens = Lens(100, 100, 60, 0.3)
    assert at(lens, 100, 100) == pytest.approx((100, 100), abs=1e-3)
    # by the formula at half the radius: 30 (1 - 0.3 (3/4)^2)
    assert at(lens, 130, 100) == pytest.approx((100 + 30 * 0.83125, 100), abs=0.02)
    assert at(lens, 101, 100) == pytest.approx((100.7, 100), abs=0.02)
    for x, y in ((161, 100), (100, 39), (0, 0), (145, 145)):
        assert at(lens, x, y) == pytest.approx((x, y), abs=0.01)


def test_a_pincushion_is_the_other_way_round() -> None:
    lens = Lens(100, 100, 60, -0.3)
    assert at(lens, 130, 100) == pytest.approx((100 + 30 * 1.16875, 100), abs=0.02)
    assert at(lens, 100, 99) == pytest.approx((100, 98.7), abs=0.02)


def test_equal_coefficients_displace_all_points_alike() -> None:
    coefficients_2NM = np.ones((2, *Displacement.lattice(201, 201, 8)), np.float32) * np.float32([5, -3])[:, None, None]
    assert at(Displacement(coefficients_2NM, 8), 90, 120) == pytest.approx((95, 117), abs=1e-3)


def test_one_coefficient_makes_one_bump() -> None:
    """A cubic B-spline is 2/3 at its knot, 1/6 a spacing away and 0 two spacings away; across, it is at its knot."""
    sigma = 10 / 3**0.5  # spacing 10: the coefficient 12 stands at pixel 100
    coefficients_2NM = np.zeros((2, *Displacement.lattice(201, 201, sigma)), np.float32)
    coefficients_2NM[0, 12, 12] = 4.5
    bump = Displacement(coefficients_2NM, sigma)
    for x, moved in ((100, 2), (110, 0.5), (90, 0.5), (120, 0), (150, 0)):
        assert at(bump, x, 100) == pytest.approx((x + moved, 100), abs=0.08)


@pytest.mark.parametrize("largest", [0.846, 2])
def test_displacements_fold_only_beyond_the_bound(largest: float) -> None:
    """The determinant of the map's derivative is positive wherever no two points have the same source."""
    sigma, rng = 8.0, np.random.default_rng(0)
    signs = rng.choice([-1, 1], (20, 2, *Displacement.lattice(200, 200, sigma))).astype(np.float32)
    maps = [coordinate_map([Displacement(s * np.float32(largest * sigma), sigma)], 200, 200) for s in signs]
    derivatives = [(np.gradient(points.x), np.gradient(points.y)) for points in maps]
    least = min((x_x * y_y - x_y * y_x).min() for (x_y, x_x), (y_y, y_x) in derivatives)
    assert (least > 0) == (largest < 1)


def exact_source(warp: Warp, x: Array, y: Array) -> tuple[Array, Array]:
    """float64 sources of points, by the formulas in the warps' own docstrings."""
    if isinstance(warp, Linear):
        middle = np.array(warp.middle).reshape(2, 1, 1)
        found = np.einsum("ij,jyx->iyx", warp.matrix_22, np.stack([x, y]) - middle) + middle
        return found[0], found[1]
    if isinstance(warp, Lens):
        t = np.minimum(np.hypot(x - warp.x, y - warp.y) / warp.radius, 1)
        scale = 1 - warp.amount * (1 - t**2) ** 2
        return warp.x + scale * (x - warp.x), warp.y + scale * (y - warp.y)
    assert isinstance(warp, Displacement)
    _, rows, columns = warp.coefficients_2NM.shape
    spacing = np.sqrt(3) * warp.sigma
    knots = [np.clip(y / spacing, -1, rows - 4) + 2, np.clip(x / spacing, -1, columns - 4) + 2]
    by_x, by_y = (
        map_coordinates(c.astype(float), knots, order=3, prefilter=False, mode="nearest") for c in warp.coefficients_2NM
    )
    return x + by_x, y + by_y


def worst_distance(variant: Variant, height: int, width: int) -> float:
    """Pixels between the map and the chain f1(f2(...(p))), at the worst pixel."""
    warps = (*variant.bends, Linear(variant.matrix_22, ((width - 1) / 2, (height - 1) / 2)))
    y, x = np.mgrid[:height, :width].astype(np.float64)
    for warp in warps:
        x, y = exact_source(warp, x, y)
    found = coordinate_map(warps, height, width)
    return float(np.hypot(found.x - x, found.y - y).max())


def only(**operations: dict[str, Any]) -> AugmentParams:
    never = {"horizontal_flip": None, "vertical_flip": None, "quarter_turns": None}
    return AugmentParams.model_validate({**never, **operations})


@pytest.mark.parametrize(("name", "size"), product(BENT, [(512, 512), (120, 333)]))
def test_the_map_of_each_operation_is_close_to_the_exact_one(name: str, size: tuple[int, int]) -> None:
    params = only(**{name: {"probability": 1}})
    assert max(worst_distance(draw(params, *size, chance(seed)), *size) for seed in range(3)) < 0.3


@pytest.mark.parametrize("size", [(512, 512), (97, 64), (300, 417), (31, 700)])
def test_the_map_of_all_operations_together_is_within_a_pixel(size: tuple[int, int]) -> None:
    params = only(**{name: {"probability": 1} for name in BENT})
    assert max(worst_distance(draw(params, *size, chance(seed)), *size) for seed in range(4)) < 0.6


@pytest.mark.parametrize("seed", range(12))
def test_the_map_is_within_a_pixel_at_the_most_that_params_allow(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(16, 600, 2))
    sigmas = np.exp(rng.uniform(np.log(0.002), np.log(0.2), 2))
    smooth = [{"probability": 1, "sigma": s, "displacement": min(0.2, 0.845 * s)} for s in sigmas]
    lenses = [{"probability": 1, "amount": 0.5, "radius": radius} for radius in rng.uniform(0.02, 1, 2)]
    params = only(
        shear={"probability": 1, "slope": 0.3},
        shrink={"probability": 1, "factor": 0.4},
        rotation={"probability": 1, "degrees": 180},
        barrel=lenses[0],
        pincushion=lenses[1],
        distortion=smooth[0],
        elastic=smooth[1],
    )
    assert worst_distance(draw(params, height, width, chance(seed)), height, width) < 1


def test_the_mirrored_border_shows_what_lies_inside() -> None:
    """Corners that come from outside the picture: no black, no new class."""
    mask_HW = np.full((40, 60), 2, np.uint8)
    rotated = Variant(rotation(45)).apply(sample_of(mask_HW))
    assert (rotated.mask_HW == 2).all()
    assert (rotated.image_HWC == picture_of(mask_HW)).all()


def test_the_border_is_a_mirror() -> None:
    """Half as large, a picture of 41 is followed by its own mirror image: pixel 30 + n equals pixel 30 - n."""
    mask_HW = np.random.default_rng(0).integers(0, 3, (41, 41), np.uint8)
    small_HW = Variant(shrinking(0.5)).apply(sample_of(mask_HW)).mask_HW
    np.testing.assert_array_equal(small_HW[10:31, 10:31], mask_HW[::2, ::2])
    np.testing.assert_array_equal(small_HW[:, 31:], small_HW[:, 29:19:-1])
    np.testing.assert_array_equal(small_HW[31:], small_HW[29:19:-1])
    np.testing.assert_array_equal(small_HW[:10], small_HW[20:10:-1])


def test_a_constant_border_is_the_value_and_no_class() -> None:
    mask_HW = np.full((41, 41), 2, np.uint8)
    small = Variant(shrinking(0.5)).apply(sample_of(mask_HW), border=230)
    assert small.instances_HW is not None
    assert (small.mask_HW[10:31, 10:31] == 2).all()
    assert (small.mask_HW == 2).sum() == (small.instances_HW == 2).sum() == 21 * 21
    assert (small.image_HWC[small.mask_HW == 0][:, None] == 230).any(axis=-1).all()
    assert (small.image_HWC[:8] == 230).all()


def test_nothing_is_nothing() -> None:
    sample = sample_of(mask_of())
    for found, wanted in zip(Variant().apply(sample), sample, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert not Variant().changes
    assert not Variant(mirror(True, True) @ quarter_turn(2)).changes
    assert Variant(mirror(True, False)).changes
    assert Variant(bends=(Lens(5, 5, 3, 0.1),)).changes
    assert Variant(offset=1).changes


@pytest.mark.parametrize("matrix_22", [mirror(True, False), quarter_turn(1), rotation(20)])
def test_a_grey_picture_moves_as_a_colour_one(matrix_22: Array) -> None:
    mask_HW = mask_of(40, 40)
    colour, grey = (Sample(picture_of(mask_HW)[..., :channels], mask_HW) for channels in (3, 1))
    variant = Variant(matrix_22, sharpening=0.5, gain=1.1)
    moved = variant.apply(grey)
    assert moved.image_HWC.shape == (40, 40, 1)
    np.testing.assert_array_equal(moved.image_HWC, variant.apply(colour).image_HWC[..., :1])


def test_sharpening_adds_what_the_mean_leaves_over() -> None:
    image_HW3 = np.full((5, 5, 3), 100, np.uint8)
    image_HW3[2, 2] = 118  # the mean of its 3 x 3 pixels is 102
    sharp = sharpened(image_HW3, 1)
    assert sharp[2, 2].tolist() == [134] * 3  # 118 + (118 - 102)
    assert sharp[1, 1].tolist() == [98] * 3  # 100 + (100 - 102)
    assert sharp[0, 4].tolist() == [100] * 3
    assert sharpened(image_HW3, 10)[2, 2].tolist() == [255] * 3


def test_brightening_is_a_gain_and_an_offset_within_the_range() -> None:
    image_HW3 = np.uint8([[[0, 100, 250]]])
    assert brightened(image_HW3, 1.2, 10).tolist() == [[[10, 130, 255]]]
    assert brightened(image_HW3, 0.5, -10).tolist() == [[[0, 40, 115]]]


def test_colours_change_after_the_geometry_and_in_the_picture_only() -> None:
    sample = sample_of(mask_of(40, 40))
    plain, coloured = (Variant(rotation(20), **light).apply(sample) for light in ({}, {"gain": 1.1, "offset": 5}))
    np.testing.assert_array_equal(coloured.image_HWC, brightened(plain.image_HWC, 1.1, 5))
    np.testing.assert_array_equal(coloured.mask_HW, plain.mask_HW)
    np.testing.assert_array_equal(coloured.instances_HW, plain.instances_HW)
