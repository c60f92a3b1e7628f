"""Variants with known answers: one marked pixel, and where it must go."""

import numpy as np
import pytest

from cytoloop.images.augment import Geometry, Sample, Variations, resample, rotation_map
from tables import mask_of, picture_of


def marked(height: int, width: int, y: int, x: int) -> Sample:
    """All zero but for one pixel."""
    mask_HW = np.zeros((height, width), np.uint8)
    mask_HW[y, x] = 1
    return Sample(np.repeat(mask_HW[..., None] * 200, 3, -1), mask_HW, mask_HW.astype(np.uint16) * 700)


@pytest.mark.parametrize(
    ("geometry", "y", "x"),
    [
        (Geometry(), 1, 2),
        (Geometry(mirrored=True), 1, 4),
        (Geometry(quarter_turns=2), 3, 4),
        (Geometry(mirrored=True, quarter_turns=2), 3, 2),
    ],
)
def test_flips_and_half_turns_move_whole_pixels(geometry: Geometry, y: int, x: int) -> None:
    moved = geometry.apply(marked(5, 7, 1, 2))
    expected = marked(5, 7, y, x)
    for found, wanted in zip(moved, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_quarter_turn_is_counter_clockwise() -> None:
    np.testing.assert_array_equal(
        Geometry(quarter_turns=1).apply(marked(7, 7, 1, 2)).mask_HW, marked(7, 7, 4, 1).mask_HW
    )


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_a_rotation_through_the_map_agrees_with_the_exact_turn(degrees: int) -> None:
    mask_HW = mask_of(33, 33)
    sample = Sample(picture_of(mask_HW), mask_HW, mask_HW.astype(np.uint16))
    turned, rotated = Geometry(quarter_turns=degrees // 90).apply(sample), Geometry(degrees=degrees).apply(sample)
    np.testing.assert_array_equal(rotated.mask_HW, turned.mask_HW)
    np.testing.assert_allclose(rotated.image_HW3, turned.image_HW3, atol=1)


def test_a_small_rotation_turns_as_far_as_it_says() -> None:
    """A pixel 30 to the right of the centre, turned by 30 degrees, is 26 to the right and 15 up."""
    mask_HW = np.zeros((81, 81), np.uint8)
    mask_HW[39:42, 69:72] = 1
    rotated = Geometry(degrees=30).apply(Sample(picture_of(mask_HW), mask_HW))
    y, x = (where.mean() for where in np.nonzero(rotated.mask_HW))
    assert (x - 40, 40 - y) == pytest.approx((26, 15), abs=0.6)
    assert rotated.instances_HW is None


def test_the_border_is_mirrored_and_not_filled() -> None:
    """Corners that come from outside the picture show what lies inside: no black, no new class."""
    mask_HW = np.full((40, 60), 2, np.uint8)
    rotated = Geometry(degrees=45).apply(Sample(picture_of(mask_HW), mask_HW))
    assert (rotated.mask_HW == 2).all()
    assert (rotated.image_HW3 == picture_of(mask_HW)).all()


def test_no_rotation_is_the_identity_map() -> None:
    map_HW2 = rotation_map(4, 5, 0)
    assert map_HW2.shape == (4, 5, 2)
    assert map_HW2.dtype == np.float32
    assert map_HW2[3, 1].tolist() == [1, 3]
    mask_HW = mask_of()
    sample = Sample(picture_of(mask_HW), mask_HW, mask_HW.astype(np.uint16))
    for found, wanted in zip(resample(sample, rotation_map(40, 40, 0)), sample, strict=True):
        np.testing.assert_array_equal(found, wanted)


def drawn(variations: Variations, square: bool) -> set[Geometry]:
    return {variations.draw(square, np.random.default_rng(seed)) for seed in range(200)}


def test_every_exact_variant_but_the_original_is_drawn() -> None:
    """The symmetries of a square are eight, those of a rectangle four."""
    everything = Variations(flips=True, rotation=180, exact=True)
    assert len(drawn(everything, square=True)) == 7
    assert drawn(everything, square=False) == {
        Geometry(mirrored=True),
        Geometry(quarter_turns=2),
        Geometry(mirrored=True, quarter_turns=2),
    }


def test_the_largest_rotation_limits_quarter_turns_too() -> None:
    assert drawn(Variations(flips=False, rotation=90, exact=True), square=True) == {
        Geometry(quarter_turns=1),
        Geometry(quarter_turns=3),
    }
    assert drawn(Variations(flips=False, rotation=89, exact=True), square=True) == {Geometry()}


def test_free_rotations_stay_within_the_largest() -> None:
    degrees = [geometry.degrees for geometry in drawn(Variations(flips=False, rotation=20, exact=False), square=True)]
    assert len(degrees) == 200
    assert -20 <= min(degrees) < -15
    assert 15 < max(degrees) <= 20
