"""Losses and the seeds' metrics, by name.

All take class ids `truth_BHW` (integer) and probabilities `probability_BHWC`: softmax over classes, or
sigmoid with one channel, the foreground's. All are means over the batch, 0 for a perfect answer
(losses) or 1 (metrics).
"""

from collections.abc import Callable
from typing import Any

from cytoloop.params import Loss, Metric

Function = Callable[[Any, Any], Any]

SMOOTH = 1.0
"""Pixels added to both sides of a soft Dice, so that a class absent from both scores a perfect 1."""


def loss(name: Loss) -> Function:
    """The loss of that name, a function of (truth_BHW, probability_BHWC)."""
    return {
        "categorical_crossentropy": categorical_crossentropy,
        "binary_crossentropy": binary_crossentropy,
        "dice": dice,
        "bce_dice": lambda truth, probability: binary_crossentropy(truth, probability) + dice(truth, probability),
        "cce_dice": lambda truth, probability: categorical_crossentropy(truth, probability) + dice(truth, probability),
    }[name]


def keras_loss(name: Loss) -> Any:
    """The loss of that name for `compile`: an object, since keras squeezes the arguments of plain functions."""
    import keras

    class NamedLoss(keras.losses.Loss):  # type: ignore[misc]
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return loss(name)(y_true, y_pred)

    return NamedLoss(name=name)


def metric(name: Metric) -> Function:
    """The metric of that name."""
    return {"accuracy": accuracy, "dice_coef": dice_coef, "dice_coef_multiclass": dice_coef_multiclass}[name]


def categorical_crossentropy(truth_BHW: Any, probability_BHWC: Any) -> Any:
    """Mean over pixels of -log p[true class]."""
    import keras

    return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(truth_BHW, probability_BHWC))


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
