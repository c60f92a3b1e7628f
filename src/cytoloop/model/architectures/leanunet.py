"""LeanUNet: a small U-Net behind a stem that halves the picture once, for good scores in minutes on a CPU.

The U-Net is Ronneberger, Fischer and Brox 2015, arXiv:1505.04597. Most of a
U-Net's work is at full resolution: here a strided convolution leaves it at once, and it is met again
only by one narrow convolution before the head.
"""

from typing import TYPE_CHECKING

from cytoloop.model.architectures.layers import convolution, double_convolution, head, picture_input, scaled
from cytoloop.params import ModelParams

if TYPE_CHECKING:
    import keras


def build(model: ModelParams) -> "keras.Model":
    """A LeanUNet with `num_layers` levels below its stem, the bridge included."""
    import keras

    picture = picture_input(model)
    full = scaled(picture, model, 1 / 127.5, -1)
    x = convolution(full, model.base_filters, model.normalization, "stem", model.base_kernels, strides=2)
    skips = []
    for level in range(model.num_layers):
        x = double_convolution(x, model, level, f"encoder{level}")
        if level < model.num_layers - 1:
            skips.append(x)
            x = keras.layers.MaxPooling2D(name=f"encoder{level}_pool")(x)
    for level in reversed(range(model.num_layers - 1)):
        x = keras.layers.Conv2DTranspose(model.base_filters * 2**level, 2, strides=2, name=f"decoder{level}_up")(x)
        x = keras.layers.Concatenate(name=f"decoder{level}_skip")([x, skips[level]])
        x = double_convolution(x, model, level, f"decoder{level}")
    narrow = max(model.base_filters // 2, 4)
    x = keras.layers.Conv2DTranspose(narrow, 2, strides=2, name="full_up")(x)
    x = keras.layers.Concatenate(name="full_skip")([x, full])
    x = convolution(x, narrow, model.normalization, "full")
    return keras.Model(picture, head(x, model.num_classes), name="leanunet")
