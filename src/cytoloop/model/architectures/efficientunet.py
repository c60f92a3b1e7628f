"""EfficientUNet: a U-Net on EfficientNetB0, for pretrained weights and fine borders.

The encoder is Tan and Le 2019, arXiv:1905.11946, the U-Net Ronneberger, Fischer and Brox 2015,
arXiv:1505.04597. A pixel of level i covers 2**i pixels of the picture; the decoder has
base_filters * 2**i filters there, and the skip of level 0 is the picture itself.
"""

from typing import TYPE_CHECKING

from cytoloop.model.architectures.encoders import encode, encoder_input
from cytoloop.model.architectures.layers import convolution, dropout, head, picture_input
from cytoloop.params import ModelParams

if TYPE_CHECKING:
    import keras


def build(model: ModelParams) -> "keras.Model":
    """An EfficientUNet."""
    import keras

    picture = picture_input(model)
    full = encoder_input(picture, model)
    *skips, x = [full, *encode(full, model)]
    for level in (4, 3, 2, 1, 0):
        filters, name = model.base_filters * 2**level, f"decoder{level}"
        x = keras.layers.Conv2DTranspose(filters, 2, strides=2, name=f"{name}_up")(x)
        x = keras.layers.Concatenate(name=f"{name}_skip")([x, skips[level]])
        x = convolution(x, filters, "batch", f"{name}_conv1")
        x = dropout(x, model, level, name)
        x = convolution(x, filters, "batch", f"{name}_conv2")
    return keras.Model(picture, head(x, model.num_classes), name="efficientunet")
