"""The loss and the seeds' metrics on a test split, by name, as `keras.Model.evaluate` gives them.

They are taken at the network's picture size, of probabilities, over the views that the network saw:
whole pictures, or tiles. What `evaluate` says beside them is at the pictures' own sizes. One thing is
not as in keras: a last, smaller batch counts by its views, in metrics too.
"""

from collections.abc import Iterable, Sequence
from typing import Any, get_args

import numpy as np

from cytoloop.model.losses import Function, loss, metric
from cytoloop.model.preprocess import mask_views
from cytoloop.params import Loss, Metric, ModelParams

Array = np.ndarray[Any, Any]

LOSSES, METRICS = get_args(Loss), get_args(Metric)
SIGMOID_ONLY = {"binary_crossentropy", "bce_dice", "bce_picture_dice", "dice_coef"}
SOFTMAX_ONLY = {"categorical_crossentropy", "cce_dice", "dice_coef_multiclass"}


def fitting(names: Iterable[str], num_classes: int) -> list[str]:
    """Those of the names that are a loss or a metric of a head with so many outputs, each once, in their order.

    >>> fitting(["bce_dice", "accuracy", "dice_coef_multiclass", "accuracy", "loss"], num_classes=1)
    ['bce_dice', 'accuracy']
    """
    foreign = SOFTMAX_ONLY if num_classes == 1 else SIGMOID_ONLY
    return [name for name in dict.fromkeys(names) if name in (*LOSSES, *METRICS) and name not in foreign]


class NamedScores:
    """Losses (without class weights) and metrics, averaged over batches by the views in each.

    A Dice of sums depends on what is summed, so that the batch size is part of it. Beside the network's,
    the metrics of the answer "background everywhere" are kept: some are high for it already.
    """

    def __init__(self, names: Sequence[str], model: ModelParams, batch_size: int) -> None:
        self._functions = {name: _function(name) for name in names}
        self._model = model
        self._batch_size = batch_size
        self._waiting: list[tuple[Array, Array]] = []
        self._views = 0
        self._sums = dict.fromkeys(names, 0.0)
        self._background_sums = {name: 0.0 for name in names if name in METRICS}

    def add(self, ids_HW: Array, said: Sequence[Array]) -> None:
        """Score one picture, of whose views the network `said` this: float32 (h, w, outputs) each."""
        if self._functions:
            self._waiting += zip(mask_views(ids_HW, self._model), said, strict=True)
            while len(self._waiting) >= self._batch_size:
                self._score(self._batch_size)

    def means(self) -> tuple[dict[str, float], dict[str, float]]:
        """By name: the network's scores, and those of background everywhere (metrics only); NaN without a view."""
        if self._waiting:
            self._score(len(self._waiting))
        views = self._views or np.nan
        return (
            {name: total / views for name, total in self._sums.items()},
            {name: total / views for name, total in self._background_sums.items()},
        )

    def _score(self, views: int) -> None:
        from keras import ops

        truths, said = zip(*self._waiting[:views], strict=True)
        del self._waiting[:views]
        truth_BHW, probability_BHWC = np.stack(truths), np.stack(said)
        tensors = ops.convert_to_tensor(truth_BHW), ops.convert_to_tensor(probability_BHWC)
        background = ops.convert_to_tensor(_background_everywhere(probability_BHWC))
        for name, function in self._functions.items():
            self._sums[name] += views * float(function(*tensors))
            if name in self._background_sums:
                self._background_sums[name] += views * float(function(tensors[0], background))
        self._views += views


def _function(name: str) -> Function:
    return loss(name) if name in LOSSES else metric(name)  # type: ignore[arg-type]


def _background_everywhere(probability_BHWC: Array) -> Array:
    answer_BHWC = np.zeros_like(probability_BHWC)
    if answer_BHWC.shape[-1] > 1:
        answer_BHWC[..., 0] = 1
    return answer_BHWC
