"""How well whole pictures were labelled, and whether the classifier looked at the cell.

Shape suffixes: N pictures, C classes. A class without a true picture has no recall: it is NaN and
left out of means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cytoloop.scores.bootstrap import GroupBootstrap
from cytoloop.scores.pixels import mean_present, true_positives

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Labelled:
    """A test picture, its true class, and the classifier's answer."""

    id: str
    group: str
    truth: int
    predicted: int
    probability: float
    """Of the predicted class, 0..1."""
    pointing: "Pointing"

    @property
    def right(self) -> bool:
        """Whether the predicted class is the true one."""
        return self.truth == self.predicted


@dataclass(frozen=True)
class Pointing:
    """The pointing game on one picture, each 0 or 1 (a share in 0..1 for `area`), NaN without a cell mask."""

    hit: float
    """The highest place of the class activation map lies on the cell."""
    middle: float
    """The middle of the picture does: what pointing blindly at the middle gets."""
    area: float
    """Share of the picture that is cell: what pointing anywhere at random gets on average."""


def pointing(map_HW: Array, cell_HW: Array | None) -> Pointing:
    """The pointing game of Zhang et al. 2016, arXiv:1608.00507, without a margin around the cell.

    Args:
        map_HW: the class activation map, at the picture's size.
        cell_HW: bool, True on the cell; None or nowhere True: not known where the cell is.

    >>> pointing(np.array([[0.1, 0.9]]), np.array([[False, True]]))
    Pointing(hit=1.0, middle=1.0, area=0.5)
    """
    if cell_HW is None or not cell_HW.any():
        return Pointing(np.nan, np.nan, np.nan)
    height, width = cell_HW.shape
    highest = np.unravel_index(int(map_HW.argmax()), map_HW.shape)
    return Pointing(float(cell_HW[highest]), float(cell_HW[height // 2, width // 2]), float(cell_HW.mean()))


def confusion(pictures: Sequence[Labelled], classes: int) -> Array:
    """int64 (N, C, C): for each picture a 1 at row = true class, column = predicted class."""
    counts_NCC = np.zeros((len(pictures), classes, classes), np.int64)
    for counts_CC, picture in zip(counts_NCC, pictures, strict=True):
        counts_CC[picture.truth, picture.predicted] = 1
    return counts_NCC


def accuracy(confusion_CC: Array) -> Array:
    """Share of right answers, of (..., C, C) counts; NaN without any."""
    return _ratio(true_positives(confusion_CC).sum(-1), confusion_CC.sum((-2, -1)))


def recall(confusion_CC: Array) -> Array:
    """float64 (..., C): of each class' pictures the share that was recognised; NaN for a class without any.

    >>> recall(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]])).tolist()
    [0.75, 1.0, nan]
    """
    return _ratio(true_positives(confusion_CC), confusion_CC.sum(-1))


def balanced_accuracy(confusion_CC: Array) -> Array:
    """The mean recall of the classes that have test pictures, of (..., C, C) counts."""
    return mean_present(recall(confusion_CC))


def _ratio(part: Array, whole: Array) -> Array:
    return np.asarray(np.where(whole > 0, part / np.maximum(whole, 1), np.nan))


def metrics(
    pictures: Sequence[Labelled], names: Sequence[str], constant: int, bootstrap: GroupBootstrap
) -> dict[str, Any]:
    """All figures by name, nested; NaN where there was nothing to score.

    `given` and `pointing` of a class are of the pictures that were given its label, right or wrong: it is
    that label's map which points.

    Args:
        pictures: at least one.
        names: of the classes.
        constant: the class that the constant answer gives: the most frequent one in training.
        bootstrap: over the pictures' groups.
    """
    counts_NCC = confusion(pictures, len(names))
    total_CC = counts_NCC.sum(0)
    constant_CC = np.zeros_like(total_CC)
    constant_CC[:, constant] = total_CC.sum(1)
    points_N3 = np.array([[p.pointing.hit, p.pointing.middle, p.pointing.area] for p in pictures])
    hits, middle, area = mean_present(points_N3, axis=0).tolist()
    return {
        "accuracy": float(accuracy(total_CC)),
        "balanced_accuracy": float(balanced_accuracy(total_CC)),
        "constant_answer": names[constant],
        "constant_accuracy": float(accuracy(constant_CC)),
        "constant_balanced_accuracy": float(balanced_accuracy(constant_CC)),
        "pointing": {
            "hits": hits,
            "middle": middle,
            "area": area,
            "pictures": int((~np.isnan(points_N3[:, 0])).sum()),
        },
        "pictures": len(pictures),
        "groups": bootstrap.groups,
        "per_class": {name: _of_class(pictures, total_CC, place) for place, name in enumerate(names)},
        "intervals": _intervals(counts_NCC, points_N3[:, :1], bootstrap),
        "confusion": total_CC.tolist(),
    }


def _of_class(pictures: Sequence[Labelled], total_CC: Array, place: int) -> dict[str, float]:
    hits = np.array([p.pointing.hit for p in pictures if p.predicted == place])
    return {
        "recall": float(recall(total_CC)[place]),
        "pictures": int(total_CC[place].sum()),
        "given": len(hits),
        "pointing": float(mean_present(hits)),
    }


def _intervals(counts_NCC: Array, hits_N1: Array, bootstrap: GroupBootstrap) -> dict[str, dict[str, float]]:
    sums_SCC = bootstrap.sums(counts_NCC)
    # a draw without any picture of a class that the test has would be scored on other classes than the whole
    complete_S = ((sums_SCC.sum(-1) > 0) == (counts_NCC.sum((0, 2)) > 0)).all(-1)
    drawn = {
        "accuracy": accuracy(sums_SCC),
        "balanced_accuracy": np.where(complete_S, balanced_accuracy(sums_SCC), np.nan),
        "pointing": bootstrap.image_means(hits_N1)[:, 0],
    }
    return {
        name: dict(zip(("low", "high"), bootstrap.interval(values_S), strict=True)) for name, values_S in drawn.items()
    }
