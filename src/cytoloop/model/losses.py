"""Losses and the seeds' metrics, by name.

All take class ids `truth_BHW` (integer) and probabilities `probability_BHWC`: softmax over classes, or
sigmoid with one channel, the foreground's. All are means over the batch, 0 for a perfect answer
(losses) or 1 (metrics).
"""

from collections.abc import Callable, Sequence
from typing import Any

from cytoloop.params import Loss, Metric

Function = Callable[[Any, Any], Any]
Weights = Sequence[float] | None

SMOOTH = 1.0
"""Pixels added to both sides of a soft Dice, so that a class absent from both scores a perfect 1."""


def loss(name: Loss, class_weights: Weights = None) -> Function:
    """The loss of that name, a function of (truth_BHW, probability_BHWC).

    Args:
        name: one of `params.Loss`.
        class_weights: a weight a class for the categorical cross-entropy's pixels, or None.
    """

    def categorical(truth: Any, probability: Any) -> Any:
        return categorical_crossentropy(truth, probability, class_weights)

    return {
        "categorical_crossentropy": categorical,
        "binary_crossentropy": binary_crossentropy,
        "dice": dice,
        "bce_dice": lambda truth, probability: binary_crossentropy(truth, probability) + dice(truth, probability),
        "bce_picture_dice": lambda truth, probability: (
            binary_crossentropy(truth, probability) + picture_dice(truth, probability)
        ),
        "cce_dice": lambda truth, probability: categorical(truth, probability) + dice(truth, probability),
    }[name]


def keras_loss(name: Loss, class_weights: Weights = None) -> Any:
    """The loss of that name for `compile`: an object, since keras squeezes the arguments of plain functions."""
    import keras

    class NamedLoss(keras.losses.Loss):  # type: ignore[misc]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return loss(name, class_weights)(y_true, y_pred)

    return NamedLoss(name=name)


def metric(name: Metric) -> Function:
    """The metric of that name."""
    return {"accuracy": accuracy, "dice_coef": dice_coef, "dice_coef_multiclass": dice_coef_multiclass}[name]


def class_weights(pixels_C: Sequence[int], cap: float) -> tuple[float, ...]:
    """Weights that let rare classes be heard: sqrt(median frequency / frequency), at most `cap`.

    Scaled so that the mean over all pixels is 1. A class without pixels has the cap's weight. Median
    frequency balancing is Eigen and Fergus 2015, arXiv:1411.4734; the root and the cap temper it.

    >>> [round(w, 3) for w in class_weights([900, 100, 0], cap=3.0)]
    [0.833, 2.5, 3.354]
    """
    import numpy as np

    frequency_C = np.asarray(pixels_C, float) / max(sum(pixels_C), 1)
    median = np.median(frequency_C[frequency_C > 0])
    weights_C = np.minimum(np.sqrt(median / np.maximum(frequency_C, 1e-12)), cap)
    return tuple((weights_C / (weights_C * frequency_C).sum()).tolist())


def categorical_crossentropy(truth_BHW: Any, probability_BHWC: Any, weights: Weights = None) -> Any:
    """Mean over pixels of -log p[true class], each weighed by its true class."""
    import keras

    each_BHW = keras.losses.sparse_categorical_crossentropy(truth_BHW, probability_BHWC)
    if weights is not None:
        each_BHW = each_BHW * keras.ops.take(keras.ops.array(weights, "float32"), keras.ops.cast(truth_BHW, "int32"))
    return keras.ops.mean(each_BHW)


def binary_crossentropy(truth_BHW: Any, probability_BHW1: Any) -> Any:
    """Mean over pixels of -log p where foreground, -log(1 - p) elsewhere; any id above 0 is foreground."""
    import keras

    foreground_BHW1 = _foreground(truth_BHW, probability_BHW1)
    return keras.ops.mean(keras.losses.binary_crossentropy(foreground_BHW1, probability_BHW1))


def dice(truth_BHW: Any, probability_BHWC: Any) -> Any:
    """1 - soft Dice, per foreground class over the whole batch, then averaged over classes.

    Background is left out: it would reward an answer of background everywhere. A class's sums are
    taken over the batch, not per picture: most pictures lack most classes, and a picture's absent
    classes would drown its present ones. SMOOTH is added, so that a class absent from the batch and
    not predicted costs nothing. Soft Dice is Milletari, Navab and Ahmadi 2016, arXiv:1606.04797, with
    plain sums in the denominator.
    """
    from keras import ops

    truth_BHWF, probability_BHWF = _foreground_channels(truth_BHW, probability_BHWC)
    both_F = ops.sum(truth_BHWF * probability_BHWF, axis=(0, 1, 2))
    either_F = ops.sum(truth_BHWF, axis=(0, 1, 2)) + ops.sum(probability_BHWF, axis=(0, 1, 2))
    return 1 - ops.mean((2 * both_F + SMOOTH) / (either_F + SMOOTH))


def picture_dice(truth_BHW: Any, probability_BHW1: Any) -> Any:
    """1 - soft Dice of the foreground, per picture, then averaged over pictures.

    As `evaluate` counts: a picture with little foreground is heard as loudly as one that is full of it.
    SMOOTH is added, so that an empty picture that is found empty costs nothing.
    """
    from keras import ops

    foreground_BHW1 = _foreground(truth_BHW, probability_BHW1)
    both_B = ops.sum(foreground_BHW1 * probability_BHW1, axis=(1, 2, 3))
    either_B = ops.sum(foreground_BHW1, axis=(1, 2, 3)) + ops.sum(probability_BHW1, axis=(1, 2, 3))
    return 1 - ops.mean((2 * both_B + SMOOTH) / (either_B + SMOOTH))


def accuracy(truth_BHW: Any, probability_BHWC: Any) -> Any:
    """Fraction of pixels whose likeliest class (threshold 0.5 for one class) is the true one."""
    from keras import ops

    if probability_BHWC.shape[-1] == 1:
        predicted_BHW = ops.cast(probability_BHWC[..., 0] >= 0.5, "int32")
        truth_BHW = ops.cast(truth_BHW, "int32") > 0
        return ops.mean(ops.cast(ops.equal(predicted_BHW, ops.cast(truth_BHW, "int32")), "float32"))
    predicted_BHW = ops.cast(ops.argmax(probability_BHWC, -1), "int32")
    return ops.mean(ops.cast(ops.equal(predicted_BHW, ops.cast(truth_BHW, "int32")), "float32"))


def dice_coef(truth_BHW: Any, probability_BHW1: Any) -> Any:
    """The seeds' `dice_coef`: soft Dice of the foreground, summed over the whole batch.

    It is a dice of probabilities, so an under-confident network scores low although its hard masks are
    right: read it beside the hard Dice of `evaluate`.
    """
    return _micro_dice(_foreground(truth_BHW, probability_BHW1), probability_BHW1)


def dice_coef_multiclass(truth_BHW: Any, probability_BHWC: Any) -> Any:
    """The seeds' `dice_coef_multiclass`: soft Dice summed over all pixels and classes, background included.

    With hard answers this is the pixel accuracy, flattered by the background: read it beside the macro
    foreground Dice of `evaluate`.
    """
    return _micro_dice(_one_hot(truth_BHW, probability_BHWC), probability_BHWC)


def _micro_dice(truth: Any, probability: Any) -> Any:
    from keras import ops

    both = ops.sum(truth * probability)
    return (2 * both + SMOOTH) / (ops.sum(truth) + ops.sum(probability) + SMOOTH)


def _foreground_channels(truth_BHW: Any, probability_BHWC: Any) -> tuple[Any, Any]:
    if probability_BHWC.shape[-1] == 1:
        return _foreground(truth_BHW, probability_BHWC), probability_BHWC
    return _one_hot(truth_BHW, probability_BHWC)[..., 1:], probability_BHWC[..., 1:]


def _foreground(truth_BHW: Any, probability_BHW1: Any) -> Any:
    from keras import ops

    return ops.cast(ops.expand_dims(truth_BHW, -1) > 0, probability_BHW1.dtype)


def _one_hot(truth_BHW: Any, probability_BHWC: Any) -> Any:
    from keras import ops

    return ops.one_hot(ops.cast(truth_BHW, "int32"), probability_BHWC.shape[-1], dtype=probability_BHWC.dtype)
