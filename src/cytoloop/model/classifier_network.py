"""The classifier: four levels of pooling, global max pooling, one dense layer; and what it looks at.

How it works. Each of the last 512 feature maps is reduced to its largest value, wherever it lies, and
the dense layer adds up these values with a weight for each class. The same weights applied to the
maps themselves tell which places speak for a class: its class activation map.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cytoloop.model import quiet_start
from cytoloop.params import ClassifierParams

if TYPE_CHECKING:
    import keras

Array = np.ndarray[Any, Any]

POOLED = (32, 64, 128, 256)
"""Filters of layers 1 to 4, each followed by a 2 x 2 pooling."""
LAST = ((512, 3), (256, 1), (512, 3))
"""Filters and kernel of layers 5 to 7."""
FEATURES, HEAD = "layer_7_norm", "layer_8"
MOMENTUM = 0.9
"""Of batch normalization's running statistics: they settle within the few steps of a small data set."""


class Scaling(NamedTuple):
    """Mean and standard deviation of each channel over the training pictures, 0..255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Answer(NamedTuple):
    """What the network says of a batch."""

    probability_BC: Array
    """float32, each row adds up to 1."""
    maps_BhwC: Array
    """float32 class activation maps, a value for each 16 x 16 pixels; larger speaks for the class."""


def build(params: ClassifierParams, scaling: Scaling, classes: int) -> "keras.Model":
    """The network of eight layers: pictures (B, S, S, 3) of 0..255 to probabilities (B, classes).

    Dropout acts on the pooled features, before the dense layer: behind it, it would silence whole
    classes at random, and the probabilities of a training step would say little.
    """
    with quiet_start():
        import keras
    from keras import layers

    pictures = keras.Input((params.image_size, params.image_size, 3), name="pictures")
    # less than a grey level of deviation is noise, not contrast to be stretched
    variance = np.square(np.maximum(scaling.std, 1.0))
    x = layers.Normalization(mean=scaling.mean, variance=variance, name="scaling")(pictures)
    for number, filters in enumerate(POOLED, 1):
        x = _layer(x, number, filters, 3)
        x = layers.MaxPooling2D(2, name=f"layer_{number}_pool")(x)
    for number, (filters, kernel) in enumerate(LAST, len(POOLED) + 1):
        x = _layer(x, number, filters, kernel)
    x = layers.GlobalMaxPooling2D(name="layer_7_pool")(x)
    x = layers.Dropout(1 - params.keep, name="layer_8_dropout")(x)
    return keras.Model(pictures, layers.Dense(classes, activation="softmax", name=HEAD)(x), name="classifier")


def _layer(x: Any, number: int, filters: int, kernel: int) -> Any:
    from keras import layers

    x = layers.Conv2D(filters, kernel, padding="same", activation="relu", name=f"layer_{number}_conv")(x)
    return layers.BatchNormalization(momentum=MOMENTUM, name=f"layer_{number}_norm")(x)


def compiled(network: "keras.Model") -> Callable[[Array], Answer]:
    """The network as a function of pictures (B, S, S, 3), uint8 or float, that also gives the maps."""
    import keras
    import tensorflow as tf

    both = keras.Model(network.input, [network.get_layer(FEATURES).output, network.output])
    weights_FC = network.get_layer(HEAD).kernel

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def ask(pictures: Any) -> Any:
        features_BhwF, probability_BC = both(tf.cast(pictures, tf.float32), training=False)
        return probability_BC, features_BhwF @ weights_FC

    def answer(pictures: Array) -> Answer:
        return Answer(*(np.asarray(part) for part in ask(tf.constant(pictures))))

    return answer
