"""MobileNetUNet: MobileNetV2 with a light decoder of transposed convolutions, as in the dsb2018 seed.

The encoder is Sandler et al. 2018, arXiv:1801.04381, the decoder's block (transposed convolution, batch
normalization, ReLU) that of Isola et al. 2017, arXiv:1611.07004. A pixel of level i covers 2**i pixels of
the picture; the decoder has 32 * 2**i filters there, and its last layer goes from level 1 straight to the
classes.
"""

from typing import TYPE_CHECKING

from cytoloop.model.architectures.encoders import encode, encoder_input
from cytoloop.model.architectures.layers import dropout, normalized, picture_input, probabilities
from cytoloop.params import ModelParams

if TYPE_CHECKING:
    import keras


def build(model: ModelParams) -> "keras.Model":
    """A MobileNetUNet."""
    import keras

    picture = picture_input(model)
    *skips, x = encode(encoder_input(picture, model), model)
    for level in (4, 3, 2, 1):
        x = keras.layers.Conv2DTranspose(
            32 * 2**level,
            3,
            strides=2,
            padding="same",
            use_bias=False,
            kernel_initializer=keras.initializers.RandomNormal(0, 0.02),
            name=f"decoder{level}_up",
        )(x)
        x = dropout(normalized(x, "batch", f"decoder{level}"), model, level, f"decoder{level}")
        x = keras.layers.ReLU(name=f"decoder{level}_relu")(x)
        x = keras.layers.Concatenate(name=f"decoder{level}_skip")([x, skips[level - 1]])
    x = keras.layers.Conv2DTranspose(model.num_classes, 3, strides=2, padding="same", name="classes")(x)
    return keras.Model(picture, probabilities(x, model.num_classes), name="mobilenetunet")
