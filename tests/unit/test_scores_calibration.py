import numpy as np
import pytest

from cytoloop.scores.calibration import expected_calibration_error, reliability


def test_a_calibrated_model_has_no_error():
    probability = np.full((10, 10), 0.8)
    correct = np.arange(100).reshape(10, 10) < 80
    assert expected_calibration_error(reliability(probability, correct)) == pytest.approx(0)


def test_over_confidence_by_arithmetic():
    """100 pixels: 50 said with 0.9 and right 30 times, 50 said with 0.5 and right 25 times."""
    probability = np.repeat([0.9, 0.5], 50)
    correct = np.concatenate([np.arange(50) < 30, np.arange(50) < 25])
    assert expected_calibration_error(reliability(probability, correct)) == pytest.approx(0.5 * (0.9 - 0.6))


def test_sums_of_pictures_are_added():
    rng = np.random.default_rng(0)
    probability, correct = rng.random(100), rng.random(100) < 0.5
    parts = reliability(probability[:30], correct[:30]) + reliability(probability[30:], correct[30:])
    np.testing.assert_allclose(parts, reliability(probability, correct))


def test_certainty_falls_in_the_last_bin():
    sums = reliability(np.array([1.0, 0.0]), np.array([True, False]), bins=4)
    assert sums[0].tolist() == [1, 0, 0, 1]


def test_no_pixels_no_error():
    assert np.isnan(expected_calibration_error(np.zeros((3, 15))))
