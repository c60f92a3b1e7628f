"""Specks take the next likeliest class, and cells stay."""

import numpy as np

from cytoloop.images.specks import without_specks


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A cell of class 1 (10 x 10) with a speck of class 2 (2 x 2) in it, and one of class 1 outside."""
    ids_HW = np.zeros((30, 30), np.uint8)
    ids_HW[5:15, 5:15] = 1
    ids_HW[8:10, 8:10] = 2
    ids_HW[25, 25] = 1
    probability_HWC = np.eye(3, dtype=np.float32)[ids_HW] * 0.6 + 0.1
    probability_HWC[8:10, 8:10] = [0.1, 0.4, 0.5]
    probability_HWC[25, 25] = [0.4, 0.5, 0.1]
    return ids_HW, probability_HWC


def test_specks_are_filled_with_the_next_likeliest_class() -> None:
    clean_HW = without_specks(*scene(), min_pixels=5)
    assert (clean_HW[5:15, 5:15] == 1).all()
    assert clean_HW.sum() == 100


def test_a_region_of_just_the_size_stays() -> None:
    ids_HW, probability_HWC = scene()
    assert (without_specks(ids_HW, probability_HWC, min_pixels=4)[8:10, 8:10] == 2).all()


def test_zero_keeps_everything_and_the_input_is_not_changed() -> None:
    ids_HW, probability_HWC = scene()
    before = ids_HW.copy()
    assert (without_specks(ids_HW, probability_HWC, 0) == before).all()
    without_specks(ids_HW, probability_HWC, 5)
    assert (ids_HW == before).all()


def test_with_one_channel_specks_become_background() -> None:
    ids_HW = np.zeros((10, 10), np.uint8)
    ids_HW[1, 1] = ids_HW[4:8, 4:8] = 1
    clean_HW = without_specks(ids_HW, ids_HW[..., None].astype(np.float32), min_pixels=3)
    assert clean_HW[1, 1] == 0
    assert clean_HW.sum() == 16


def test_a_region_touching_by_a_corner_is_one_region() -> None:
    ids_HW = np.eye(6, dtype=np.uint8)
    assert (without_specks(ids_HW, np.eye(2, dtype=np.float32)[ids_HW], 6) == ids_HW).all()
