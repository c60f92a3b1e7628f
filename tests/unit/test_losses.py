"""Losses and the seeds' metrics, with answers worked out by hand."""

import numpy as np
import pytest

from cytoloop.model.losses import class_weights, keras_loss, loss, metric, picture_dice

# one 2 x 2 picture, three classes: half background, a pixel each of the others
TRUTH = np.array([[[0, 0], [1, 2]]], np.uint8)


def sure_of(ids_BHW: np.ndarray, classes: int = 3) -> np.ndarray:
    return np.eye(classes, dtype=np.float32)[ids_BHW]


def value(tensor: object) -> float:
    return float(np.asarray(tensor))


def test_a_perfect_answer_costs_nothing() -> None:
    for name in ("categorical_crossentropy", "dice", "cce_dice"):
        assert value(loss(name)(TRUTH, sure_of(TRUTH))) == pytest.approx(0, abs=1e-5)
    foreground = (TRUTH > 0)[..., None].astype(np.float32)
    for name in ("binary_crossentropy", "dice", "bce_dice", "bce_picture_dice"):
        assert value(loss(name)(TRUTH, foreground)) == pytest.approx(0, abs=1e-5)


def test_crossentropy_of_even_odds_is_the_logarithm() -> None:
    even = np.full((1, 2, 2, 3), 1 / 3, np.float32)
    assert value(loss("categorical_crossentropy")(TRUTH, even)) == pytest.approx(np.log(3), rel=1e-5)
    half = np.full((1, 2, 2, 1), 0.5, np.float32)
    assert value(loss("binary_crossentropy")(TRUTH, half)) == pytest.approx(np.log(2), rel=1e-5)


def test_dice_by_arithmetic() -> None:
    # class 1: right (1); class 2 answered as background: (2 * 0 + 1) / (1 + 0 + 1) = 0.5
    answer = np.array([[[0, 0], [1, 0]]])
    assert value(loss("dice")(TRUTH, sure_of(answer))) == pytest.approx(1 - (1 + 0.5) / 2, rel=1e-5)


def test_an_absent_class_that_is_not_predicted_costs_nothing() -> None:
    truth = np.array([[[0, 0], [1, 1]]], np.uint8)
    assert value(loss("dice")(truth, sure_of(truth))) == pytest.approx(0, abs=1e-6)


def test_all_background_is_expensive_where_there_are_cells() -> None:
    truth = np.zeros((1, 20, 20), np.uint8)
    truth[:, :10, :10] = 1
    everything_background = sure_of(np.zeros_like(truth), 2)
    assert value(loss("dice")(truth, everything_background)) > 0.95


def test_dice_sums_a_class_over_the_batch() -> None:
    # class 1: right in the first picture, its one pixel of the second missed: (2 * 1 + 1) / (2 + 1 + 1);
    # class 2: right in both
    truth = np.concatenate([TRUTH, TRUTH])
    answer = truth.copy()
    answer[1, 1, 0] = 0
    assert value(loss("dice")(truth, sure_of(answer))) == pytest.approx((1 - 3 / 4) / 2, rel=1e-5)


def test_sums_of_losses_are_sums() -> None:
    half = np.full((1, 2, 2, 1), 0.5, np.float32)
    parts = value(loss("binary_crossentropy")(TRUTH, half)) + value(loss("dice")(TRUTH, half))
    assert value(loss("bce_dice")(TRUTH, half)) == pytest.approx(parts)


def test_picture_dice_hears_every_picture_alike() -> None:
    # a full picture that is found, and one of four pixels of which none is: 1 - (1 + 1 / 5) / 2 = 0.4
    truth = np.zeros((2, 4, 4), np.uint8)
    truth[0], truth[1, :2, :2] = 1, 1
    answer = np.zeros((2, 4, 4, 1), np.float32)
    answer[0] = 1
    assert value(picture_dice(truth, answer)) == pytest.approx(0.4)
    assert value(loss("dice")(truth, answer)) == pytest.approx(1 - 33 / 37)


def test_dice_coef_by_arithmetic() -> None:
    # p = 0.5 everywhere: (2 * 0.5 * 2 + 1) / (2 + 4 * 0.5 + 1) = 3 / 5
    half = np.full((1, 2, 2, 1), 0.5, np.float32)
    assert value(metric("dice_coef")(TRUTH, half)) == pytest.approx(3 / 5)


def test_dice_coef_multiclass_of_hard_answers_is_nearly_the_pixel_accuracy() -> None:
    # 3 of 4 pixels right: (2 * 3 + 1) / (4 + 4 + 1)
    answer = np.array([[[0, 0], [1, 1]]])
    assert value(metric("dice_coef_multiclass")(TRUTH, sure_of(answer))) == pytest.approx(7 / 9)
    assert value(metric("accuracy")(TRUTH, sure_of(answer))) == pytest.approx(3 / 4)


def test_accuracy_of_a_sigmoid_head_uses_half_as_threshold() -> None:
    probability = np.array([[[0.4, 0.5], [0.5, 0.4]]], np.float32)[..., None]
    assert value(metric("accuracy")(TRUTH, probability)) == pytest.approx(2 / 4)


def test_weights_make_a_rare_class_cost_more() -> None:
    even = np.full((1, 2, 2, 3), 1 / 3, np.float32)
    weighed = loss("categorical_crossentropy", (1.0, 3.0, 5.0))
    assert value(weighed(TRUTH, even)) == pytest.approx(np.log(3) * (1 + 1 + 3 + 5) / 4, rel=1e-5)


def test_class_weights_by_arithmetic() -> None:
    # frequencies 0.64, 0.32, 0.04, median 0.32: roots 0.7071, 1, 2.828 capped at 2; mean over pixels 0.8525
    weights = class_weights([64, 32, 4], cap=2)
    assert weights == pytest.approx((0.7071 / 0.8525, 1 / 0.8525, 2 / 0.8525), rel=1e-3)


def test_the_keras_object_gives_the_functions_value() -> None:
    half = np.full((1, 2, 2, 3), 1 / 3, np.float32)
    assert value(keras_loss("cce_dice")(TRUTH, half)) == pytest.approx(value(loss("cce_dice")(TRUTH, half)), rel=1e-6)
