import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from cytoloop.scores import objects, pixels
from cytoloop.scores.bootstrap import GroupBootstrap
from cytoloop.scores.boundary import surface_dice
from cytoloop.scores.calibration import expected_calibration_error, reliability

CLASSES = 4
ids = arrays(np.uint8, (8, 9), elements=st.integers(0, CLASSES - 1))
masks = arrays(bool, (8, 9))
labels = arrays(np.int32, (7, 7), elements=st.integers(0, 5))


@given(ids, ids)
def test_dice_and_iou_are_symmetric_bounded_and_tied_to_each_other(truth, prediction):
    there, back = pixels.confusion(truth, prediction, CLASSES), pixels.confusion(prediction, truth, CLASSES)
    np.testing.assert_array_equal(there, back.T)
    dice, iou = pixels.dice(there), pixels.iou(there)
    np.testing.assert_array_equal(dice, pixels.dice(back))
    present = ~np.isnan(dice)
    assert ((dice[present] >= 0) & (dice[present] <= 1)).all()
    np.testing.assert_allclose(dice[present], 2 * iou[present] / (1 + iou[present]))


@given(ids, ids)
def test_dice_is_one_exactly_where_the_masks_are_equal_and_nan_where_both_are_empty(truth, prediction):
    dice = pixels.dice(pixels.confusion(truth, prediction, CLASSES))
    for label in range(CLASSES):
        a, b = truth == label, prediction == label
        assert np.isnan(dice[label]) == (not a.any() and not b.any())
        assert (dice[label] == 1) == (bool(a.any()) and bool((a == b).all()))


@given(ids, ids, st.permutations(range(CLASSES)))
def test_renaming_the_classes_renames_their_scores(truth, prediction, order):
    new = np.array(order, np.uint8)
    before = pixels.dice(pixels.confusion(truth, prediction, CLASSES))
    after = pixels.dice(pixels.confusion(new[truth], new[prediction], CLASSES))
    np.testing.assert_array_equal(after[new], before)


@given(ids, ids)
def test_counts_of_halves_add_up(truth, prediction):
    whole = pixels.confusion(truth, prediction, CLASSES)
    parts = [pixels.confusion(truth[rows], prediction[rows], CLASSES) for rows in (slice(0, 3), slice(3, None))]
    np.testing.assert_array_equal(whole, sum(parts))
    assert whole.sum() == truth.size


@given(ids, ids)
def test_merged_foreground_is_the_confusion_of_merged_masks(truth, prediction):
    merged = pixels.merge_foreground(pixels.confusion(truth, prediction, CLASSES))
    np.testing.assert_array_equal(merged, pixels.confusion(truth > 0, prediction > 0, 2))


@given(masks, masks, st.floats(0, 5))
def test_surface_dice_is_symmetric_and_bounded_and_grows_with_the_tolerance(a, b, tolerance):
    score = surface_dice(a, b, tolerance)
    if not a.any() and not b.any():
        assert np.isnan(score)
        return
    assert 0 <= score <= 1
    assert score == surface_dice(b, a, tolerance)
    assert surface_dice(a, b, tolerance + 1) >= score
    assert not a.any() or surface_dice(a, a, 0) == 1


@given(labels, labels)
def test_matching_is_as_good_as_the_optimal_one(truth, prediction):
    """At every threshold as many pairs as the Hungarian algorithm finds on the whole IoU matrix."""
    rows, columns = ([x == n for n in np.unique(x[x > 0])] for x in (truth, prediction))
    iou = np.array([[(r & c).sum() / (r | c).sum() for c in columns] for r in rows]).reshape(len(rows), len(columns))
    found = objects.match(truth, prediction)
    assert (found.truths, found.predictions) == iou.shape
    for threshold in objects.THRESHOLDS:
        good = iou >= threshold
        assert found.found(threshold) == good[linear_sum_assignment(-good.astype(float))].sum()


@given(labels, st.permutations(range(1, 6)))
def test_object_scores_do_not_depend_on_the_labels(truth, order):
    new = np.array([0, *order])
    found = objects.match(truth, new[truth])
    assert found.found(0.95) == found.truths == found.predictions


@given(labels, labels)
def test_object_scores_are_bounded(truth, prediction):
    found = objects.match(truth, prediction)
    for score in (objects.average_precision(found), objects.f1(found), objects.panoptic_quality(found)):
        assert np.isnan(score) or 0 <= score <= 1
    assert np.isnan(objects.f1(found)) or objects.panoptic_quality(found) <= objects.f1(found) + 1e-12


@given(arrays(np.float32, 40, elements=st.floats(0, 1, width=32)), arrays(bool, 40))
def test_calibration_error_is_bounded(probability, correct):
    assert 0 <= expected_calibration_error(reliability(probability, correct)) <= 1


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0, 1)), min_size=1, max_size=12), st.integers(0, 5))
def test_resampled_means_stay_within_the_scores_whatever_the_order_of_pictures(pairs, seed):
    groups, scores = [g for g, _ in pairs], np.array([[s] for _, s in pairs])
    means = GroupBootstrap(groups, 50, seed=seed).image_means(scores)
    assert (means >= scores.min() - 1e-12).all()
    assert (means <= scores.max() + 1e-12).all()
    turned = GroupBootstrap(groups[::-1], 50, seed=seed).image_means(scores[::-1])
    np.testing.assert_allclose(means, turned)
