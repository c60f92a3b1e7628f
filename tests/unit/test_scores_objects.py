import numpy as np
import pytest

from cytoloop.scores import objects
from drawn import disc, square, touching_discs

EMPTY = np.zeros((32, 32), np.uint8)
PIXEL = square(32, (5, 5), 1)


def labels(*masks):
    return sum((n * mask.astype(np.int32) for n, mask in enumerate(masks, 1)), np.zeros((32, 32), np.int32))


def test_touching_discs_become_one_object():
    truth = touching_discs().instances_HW
    joined = objects.label_foreground(touching_discs().ids_HW)
    assert joined.max() == 1
    found = objects.match(truth, joined)
    assert (found.truths, found.predictions) == (2, 1)
    # either disc is exactly half of the whole: IoU 0.5, and only one of them may be counted
    assert found.iou_K.tolist() == [0.5]
    assert objects.average_precision(found, 0.5) == pytest.approx(1 / 2)
    assert objects.average_precision(found, 0.55) == 0


def test_an_object_split_in_halves_is_found_once():
    truth = labels(square(32, (4, 4), 10))
    halves = truth * np.where(np.arange(32) < 9, 1, 2)
    assert objects.match(truth, halves).iou_K.tolist() == [0.5]


def test_diagonal_neighbours_are_two_objects():
    assert objects.label_foreground((PIXEL | square(32, (6, 6), 1)).astype(np.uint8)).max() == 2


def test_scores_by_arithmetic():
    """Three truths: one found whole, one with IoU 80 / 100, one missed; and one invented."""
    truth = labels(disc(32, (5, 5), 4), square(32, (12, 12), 10), square(32, (0, 20), 4))
    shrunk = square(32, (12, 12), 10)
    shrunk[20:] = False
    prediction = labels(shrunk, disc(32, (5, 5), 4), square(32, (26, 2), 3))
    found = objects.match(truth, prediction)
    assert sorted(found.iou_K) == [0.8, 1.0]
    assert (found.truths, found.predictions) == (3, 3)
    assert objects.average_precision(found, 0.5) == 2 / 4
    assert objects.average_precision(found, 0.8) == 2 / 4
    assert objects.average_precision(found, 0.85) == 1 / 5
    assert objects.f1(found, 0.5) == 4 / 6
    assert objects.panoptic_quality(found) == pytest.approx(1.8 / (2 + 0.5 + 0.5))


def test_nothing_against_nothing_is_nan_and_against_something_zero():
    nothing = objects.match(EMPTY, EMPTY)
    assert np.isnan(objects.average_precision(nothing))
    assert np.isnan(objects.panoptic_quality(nothing))
    assert objects.average_precision(objects.match(labels(PIXEL), EMPTY)) == 0
    assert objects.average_precision(objects.match(EMPTY, labels(PIXEL))) == 0


def test_pictures_are_pooled_and_their_counts_compared():
    whole, missed = (
        objects.match(labels(disc(32, (9, 9), 5)), labels(disc(32, (9, 9), 5))),
        objects.match(touching_discs().instances_HW, EMPTY),
    )
    pooled = objects.pool([whole, missed])
    assert objects.average_precision(pooled) == 1 / 3
    assert objects.count_error([whole, missed]) == 1
    assert objects.pool([]).truths == 0


def test_labels_may_be_any_numbers_and_many():
    truth = np.arange(1, 1025, dtype=np.uint16).reshape(32, 32) * 3
    found = objects.match(truth, truth[::-1, ::-1])
    assert found.truths == found.predictions == 1024
    assert objects.average_precision(found) == 1
