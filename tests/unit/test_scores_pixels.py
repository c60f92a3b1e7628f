import numpy as np
import pytest

from cytoloop.scores import pixels
from drawn import disc_and_its_half, nested_discs, square

NAN = float("nan")
EMPTY = np.zeros((32, 32), bool)
PIXEL = square(32, (5, 5), 1)


def of_masks(truth, prediction):
    return pixels.confusion(truth.astype(np.uint8), prediction.astype(np.uint8), 2)


def test_confusion_counts_every_pair_of_classes():
    truth = np.array([[0, 0, 1], [2, 2, 2]], np.uint8)
    prediction = np.array([[0, 1, 1], [2, 0, 1]], np.uint8)
    assert pixels.confusion(truth, prediction, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 1, 1]]


def test_confusion_holds_the_last_of_255_classes():
    ids = np.full((4, 4), 254, np.uint8)
    assert pixels.confusion(ids, ids, 255)[254, 254] == 16


@pytest.mark.parametrize(
    ("truth", "prediction", "complaint"),
    [
        (np.zeros((2, 2), int), np.zeros((2, 3), int), "they must be equal"),
        (np.full((2, 2), 2), np.zeros((2, 2), int), r"truth has ids 2..2; allowed: 0..1"),
        (np.zeros((2, 2), int), np.full((2, 2), -1), r"prediction has ids -1..-1"),
    ],
)
def test_confusion_refuses_what_is_no_pair_of_class_ids(truth, prediction, complaint):
    with pytest.raises(ValueError, match=complaint):
        pixels.confusion(truth, prediction, 2)


def test_half_shifted_squares():
    counts = of_masks(square(32, (4, 4), 10), square(32, (4, 9), 10))  # 50 of 100 pixels in common
    assert pixels.dice(counts)[1] == 0.5
    assert pixels.iou(counts)[1] == pytest.approx(50 / 150)


@pytest.mark.parametrize("drawn", [nested_discs, disc_and_its_half])
def test_discs_of_known_iou(drawn):
    one, other, iou = drawn()
    assert pixels.iou(of_masks(one, other))[1] == iou
    assert pixels.dice(of_masks(one, other))[1] == pytest.approx(2 * iou / (1 + iou))


def test_a_missed_and_a_found_pixel():
    assert pixels.dice(of_masks(PIXEL, PIXEL))[1] == 1
    assert pixels.dice(of_masks(PIXEL, square(32, (5, 6), 1)))[1] == 0


def test_absent_in_both_is_nan_and_invented_is_zero():
    assert np.isnan(pixels.dice(of_masks(EMPTY, EMPTY))[1])
    assert pixels.dice(of_masks(EMPTY, PIXEL))[1] == 0
    assert pixels.dice(of_masks(PIXEL, EMPTY))[1] == 0


def test_nan_is_left_out_of_means_and_the_pictures_are_counted():
    scores_NC = np.array([[1.0, NAN, NAN], [0.0, 0.5, NAN]])
    np.testing.assert_array_equal(pixels.image_mean(scores_NC), [0.5, 0.5, NAN])
    assert pixels.pictures_scored(scores_NC).tolist() == [2, 1, 0]


def test_image_mean_and_pooled_differ_as_they_should():
    # a large object of 90 pixels found whole, a small one of 10 missed
    found, missed = of_masks(square(32, (0, 0), 9), square(32, (0, 0), 9)), of_masks(square(32, (0, 0), 3), EMPTY)
    both = np.stack([found, missed])
    assert pixels.image_mean(pixels.dice(both))[1] == 0.5
    assert pixels.dice(both.sum(0))[1] == pytest.approx(2 * 81 / (2 * 81 + 9))


def test_macro_is_over_declared_classes_without_background():
    assert pixels.macro(np.array([0.99, 0.8, 0.4])) == pytest.approx(0.6)
    assert pixels.macro(np.array([0.99, 0.8, NAN])) == 0.8
    assert np.isnan(pixels.macro(np.array([0.99, NAN, NAN])))


def test_classes_folded_into_another_cost_the_macro_score():
    """Two of five classes predicted as a third: accuracy hardly sees it, macro Dice does."""
    truth = np.repeat(np.arange(6, dtype=np.uint8), [950, 10, 10, 10, 10, 10])[None]
    prediction = np.where(truth >= 4, 1, truth)
    counts = pixels.confusion(truth, prediction, 6)
    assert pixels.pixel_accuracy(counts) == 0.98
    assert pixels.macro(pixels.dice(counts)) == pytest.approx((0.5 + 1 + 1 + 0 + 0) / 5)


def test_worst_class_is_a_foreground_class_that_was_scored():
    assert pixels.worst_class(np.array([0.1, 0.9, 0.7, NAN]), ("bg", "a", "b", "c")) == ("b", 0.7)
    name, score = pixels.worst_class(np.array([1.0, NAN]), ("bg", "a"))
    assert name is None
    assert np.isnan(score)


def test_merged_foreground_forgives_a_wrong_class():
    truth, prediction = np.array([[0, 1, 2, 1]]), np.array([[0, 2, 1, 0]])
    merged = pixels.merge_foreground(pixels.confusion(truth, prediction, 3))
    assert merged.tolist() == [[1, 0], [1, 2]]


def test_accuracy_beside_the_constant_background():
    counts = of_masks(square(20, (0, 0), 10), np.zeros((20, 20)))
    assert pixels.pixel_accuracy(counts) == pixels.background_accuracy(counts) == 0.75
