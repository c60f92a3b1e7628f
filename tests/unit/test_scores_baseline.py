import numpy as np
import pytest

from cytoloop.scores.baseline import otsu_foreground
from drawn import disc


def picture(mask, inside, outside):
    return np.where(mask[..., None], np.uint8(inside), np.uint8(outside)).repeat(3, -1)


@pytest.mark.parametrize(("inside", "outside"), [(60, 220), (220, 60)])
def test_the_minority_is_foreground_on_bright_and_on_dark_fields(inside, outside):
    cell = disc(32, (16, 16), 8)
    np.testing.assert_array_equal(otsu_foreground(picture(cell, inside, outside)), cell)


def test_only_the_green_channel_counts():
    cell = disc(32, (16, 16), 8)
    rgb = picture(cell, 60, 220)
    rgb[..., 0], rgb[..., 2] = 7, 200
    np.testing.assert_array_equal(otsu_foreground(rgb), cell)


def test_at_a_tie_the_darker_side_is_foreground():
    rgb = np.full((4, 4, 3), 200, np.uint8)
    rgb[:2] = 50
    assert otsu_foreground(rgb)[:2].all()
    assert not otsu_foreground(rgb)[2:].any()


def test_a_constant_picture_has_no_foreground():
    assert not otsu_foreground(np.full((8, 8, 3), 90, np.uint8)).any()
