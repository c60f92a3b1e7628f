import numpy as np
import pytest

from cytoloop.scores.boundary import outline, surface_dice, surface_dice_per_class
from drawn import disc, square


def test_the_outline_of_a_square_is_its_rim():
    rim = outline(square(32, (4, 4), 10))
    assert rim.sum() == 36
    assert not rim[5:13, 5:13].any()


def test_the_edge_of_the_picture_is_outside():
    assert outline(np.ones((10, 10), bool)).sum() == 36


def test_a_shift_within_the_tolerance_costs_nothing():
    assert surface_dice(square(32, (4, 4), 10), square(32, (6, 4), 10), tolerance=2) == 1
    assert surface_dice(square(32, (4, 4), 10), square(32, (7, 4), 10), tolerance=3) == 1


def test_a_shifted_square_by_counting():
    """10 x 10 squares, one 4 pixels lower, tolerance 0: the outlines share parts of two columns only.

    Each column of 10 overlaps the other's in 6 rows, so that 2 x 6 of 36 pixels agree; in the row
    where one square begins (or ends) the other shows no more than these.
    """
    assert surface_dice(square(32, (4, 4), 10), square(32, (8, 4), 10), tolerance=0) == pytest.approx(2 * 12 / 72)


def test_far_apart_is_zero_and_equal_is_one():
    assert surface_dice(square(32, (0, 0), 5), square(32, (20, 20), 5)) == 0
    assert surface_dice(disc(32, (16, 16), 9), disc(32, (16, 16), 9), tolerance=0) == 1


def test_absent_in_both_is_nan_and_in_one_is_zero():
    nothing, one_pixel = np.zeros((32, 32), bool), square(32, (5, 5), 1)
    assert np.isnan(surface_dice(nothing, nothing))
    assert surface_dice(nothing, one_pixel) == 0
    assert surface_dice(one_pixel, nothing) == 0


def test_a_wholly_filled_picture_that_was_missed_is_zero():
    assert surface_dice(np.ones((8, 8), bool), np.zeros((8, 8), bool)) == 0


def test_each_class_for_itself():
    truth = square(32, (0, 0), 5) + 2 * square(32, (20, 20), 5).astype(np.uint8)
    prediction = square(32, (0, 0), 5).astype(np.uint8)
    np.testing.assert_array_equal(surface_dice_per_class(truth, prediction, 4), [np.nan, 1, 0, np.nan])
