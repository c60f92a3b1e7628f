"""Views of a picture and back: what the network sees is cut, converted and joined the same way everywhere."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytoloop.model.preprocess import CONVERSIONS, corners, cut, fit_mask, join, views
from cytoloop.params import ModelParams


def tiles(overlap: float) -> ModelParams:
    return TILES.model_copy(update={"tile_overlap": overlap})


TILES = ModelParams(num_classes=2, num_layers=2, image_width=32, image_height=16, fit="tile", tile_overlap=0.25)
sides = st.integers(1, 150)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@given(sides, sides, st.floats(0, 0.75))
def test_tiles_lie_inside_and_cover_the_picture(height: int, width: int, overlap: float) -> None:
    covered_HW = np.zeros((max(height, 16), max(width, 32)), bool)
    for top, left in corners(height, width, tiles(overlap)):
        assert 0 <= top <= max(height - 16, 0)
        assert 0 <= left <= max(width - 32, 0)
        covered_HW[top : top + 16, left : left + 32] = True
    assert covered_HW.all()


@given(sides, st.floats(0, 0.75))
def test_neighbouring_tiles_overlap_as_much_as_asked_for(width: int, overlap: float) -> None:
    lefts = [left for _, left in corners(16, width, tiles(overlap))]
    steps = np.diff(lefts)
    assert (steps <= 32 * (1 - overlap) + 1).all()  # whole pixels


def test_the_fewest_tiles_are_cut() -> None:
    assert corners(16, 32, tiles(0.5)) == [(0, 0)]
    assert corners(16, 64, tiles(0)) == [(0, 0), (0, 32)]
    assert corners(17, 32, tiles(0)) == [(0, 0), (1, 0)]


@given(sides, sides)
def test_tiles_joined_again_are_the_picture(height: int, width: int) -> None:
    rgb_HW3 = picture(height, width)
    joined = join([view.astype(np.float32) for view in views(rgb_HW3, TILES)], height, width, TILES)
    np.testing.assert_allclose(joined, rgb_HW3, atol=1e-3)


def test_a_pixel_in_two_tiles_is_weighed_by_its_distance_to_their_borders() -> None:
    model = TILES.model_copy(update={"image_height": 1, "image_width": 4})
    first, second = (np.full((1, 4, 1), value, np.float32) for value in (0.0, 1.0))
    # tiles at 0 and 2 of a picture of 6: columns 2 and 3 are in both; ramps are 1/3, 1, 1, 1/3
    joined = join([first, second], 1, 6, model)[0, :, 0]
    np.testing.assert_allclose(joined, [0, 0, 0.25, 0.75, 1, 1])


def test_a_picture_smaller_than_a_tile_is_mirrored_at_its_end() -> None:
    tile = cut(np.arange(20 * 3).reshape(3, 20), (0, 0), TILES)
    assert tile.shape == (16, 32)
    assert (tile[:6] == tile[:6][::-1]).all()
    assert (tile[0, 20:] == np.arange(20)[:7:-1]).all()


@pytest.mark.parametrize("space", sorted(CONVERSIONS))
@pytest.mark.parametrize("fit", ["resize", "tile"])
def test_the_colour_space_is_the_models(space: str, fit: str) -> None:
    model = ModelParams.model_validate({**TILES.model_dump(), "color_space": space, "fit": fit})
    rgb_HW3 = picture(16, 32)
    expected = cv2.cvtColor(rgb_HW3, CONVERSIONS[space])
    np.testing.assert_array_equal(views(rgb_HW3, model)[0], expected)
    assert (expected != rgb_HW3).any()


def test_grey_has_one_channel() -> None:
    model = TILES.model_copy(update={"image_channels": 1})
    assert views(picture(16, 32), model)[0].shape == (16, 32, 1)


@given(sides, sides)
def test_a_resized_mask_has_no_new_label(height: int, width: int) -> None:
    ids_HW = np.random.default_rng(1).choice(np.array([0, 7, 200], np.uint8), (height, width))
    assert set(np.unique(fit_mask(ids_HW, TILES))) <= {0, 7, 200}
