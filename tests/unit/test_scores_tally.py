import numpy as np
import pytest

from cytoloop.scores.bootstrap import GroupBootstrap
from cytoloop.scores.tally import Judged, Tally, metrics, plain
from drawn import square

NAMES = ("background", "nucleus", "cytoplasm")


def judged(truth, prediction, instances=None):
    """A picture whose green channel shows class 1 dark; the model is sure of everything."""
    rgb = np.where((truth == 1)[..., None], np.uint8(50), np.uint8(220)).repeat(3, -1)
    return Judged(rgb, truth, prediction, np.ones(truth.shape, np.float32), instances)


@pytest.fixture
def told():
    """Two pictures: nucleus (100 pixels) found whole, then half; cytoplasm invented in the second."""
    nucleus = square(32, (4, 4), 10).astype(np.uint8)
    other = square(32, (4, 9), 10).astype(np.uint8)
    other[0, :4] = 2
    tally = Tally(NAMES)
    tally.add("a", "one", judged(nucleus, nucleus))
    tally.add("b", "two", judged(nucleus, other))
    return metrics(tally, GroupBootstrap(tally.groups, 100))


def test_metrics_by_arithmetic(told):
    assert told["per_class"]["nucleus"]["dice_image_mean"] == pytest.approx((1 + 0.5) / 2)
    assert told["per_class"]["nucleus"]["dice_pooled"] == pytest.approx(300 / 400)
    assert told["per_class"]["nucleus"]["iou_pooled"] == pytest.approx(150 / 250)
    assert told["per_class"]["nucleus"]["pictures"] == 2
    assert told["per_class"]["cytoplasm"].pop("pictures") == 1
    assert set(told["per_class"]["cytoplasm"].values()) == {0}
    assert told["macro_dice"] == pytest.approx(0.75 / 2)
    assert told["worst_class"] == {"name": "cytoplasm", "dice": 0}
    assert told["foreground_dice"] == pytest.approx((1 + 100 / (100 + 104)) / 2)
    assert told["pixel_accuracy"] == pytest.approx(1 - 104 / 2048)
    assert told["background_accuracy"] == pytest.approx(1 - 200 / 2048)
    assert told["ece"] == pytest.approx(104 / 2048)
    assert told["otsu_foreground_dice"] == 1
    assert (told["pictures"], told["groups"]) == (2, 2)


def test_the_background_is_no_class_of_the_table(told):
    assert set(told["per_class"]) == {"nucleus", "cytoplasm"}


def test_intervals_hold_the_scores(told):
    assert told["intervals"]["per_class"]["nucleus"] == {"low": 0.5, "high": 1.0}
    for name in ("macro_dice", "macro_dice_pooled", "foreground_dice"):
        assert told["intervals"][name]["low"] <= told[name] <= told["intervals"][name]["high"]


def test_objects_only_where_the_truth_has_instances(told):
    assert "objects" not in told
    tally = Tally(NAMES)
    nucleus = square(32, (4, 4), 10).astype(np.uint8)
    tally.add("a", "one", judged(nucleus, nucleus, nucleus))
    found = metrics(tally, GroupBootstrap(tally.groups, 0))["objects"]
    assert found["ap_50"] == found["ap_95"] == found["f1_50"] == found["panoptic_quality"] == 1
    assert found["count_error"] == 0


def test_without_any_foreground_every_score_is_nan():
    nothing = np.zeros((32, 32), np.uint8)
    tally = Tally(NAMES)
    for name in "ab":
        tally.add(name, name, judged(nothing, nothing))
    found = plain(metrics(tally, GroupBootstrap(tally.groups, 50)))
    assert found["macro_dice"] is found["foreground_dice"] is found["macro_iou"] is found["boundary_nsd"] is None
    assert found["worst_class"] == {"name": None, "dice": None}
    assert found["intervals"]["macro_dice"] == {"low": None, "high": None}
    assert found["pixel_accuracy"] == 1
