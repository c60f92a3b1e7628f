"""DeepLabV3Plus: MobileNetV2 under a pyramid of dilated convolutions, for objects of many sizes.

The network is Chen et al. 2018, arXiv:1802.02611, its encoder Sandler et al. 2018, arXiv:1801.04381; a
pixel of its coarse feature covers 16 of the picture, one of its fine feature 4. At the default
base_filters = 16 the widths are the paper's: 256 filters in the pyramid and in the decoder, 48 for the
fine feature. The branch of the whole picture has a bias and no batch normalization, which would have one
value a channel to work on in a batch of one picture.
"""

from typing import TYPE_CHECKING, Any

from cytoloop.model.architectures.encoders import encode, encoder_input
from cytoloop.model.architectures.layers import convolution, dropout, normalized, picture_input, probabilities
from cytoloop.params import ModelParams

if TYPE_CHECKING:
    import keras

RATES = (6, 12, 18)
"""Dilations of the pyramid, pixels of the coarse feature."""


def build(model: ModelParams) -> "keras.Model":
    """A DeepLabV3+ whose scores are formed at a quarter of the picture's size."""
    import keras

    picture = picture_input(model)
    filters = 16 * model.base_filters
    fine, coarse = encode(encoder_input(picture, model), model)
    x = dropout(_pyramid(coarse, filters), model, 4, "pyramid")
    x = keras.layers.UpSampling2D(4, interpolation="bilinear", name="pyramid_up")(x)
    fine = convolution(fine, 3 * model.base_filters, "batch", "decoder_fine", kernel=1)
    x = keras.layers.Concatenate(name="decoder_skip")([x, fine])
    x = _separable(x, filters, 1, "decoder_conv1")
    x = _separable(x, filters, 1, "decoder_conv2")
    x = keras.layers.Conv2D(model.num_classes, 1, name="classes")(dropout(x, model, 2, "decoder"))
    x = keras.layers.UpSampling2D(4, interpolation="bilinear", name="classes_up")(x)
    return keras.Model(picture, probabilities(x, model.num_classes), name="deeplabv3plus")


def _pyramid(x: Any, filters: int) -> Any:
    """Atrous spatial pyramid pooling: a pixel, its surroundings at three dilations, and the whole picture."""
    import keras

    whole = keras.layers.GlobalAveragePooling2D(keepdims=True, name="pyramid_mean")(x)
    whole = keras.layers.Conv2D(filters, 1, activation="relu", name="pyramid_mean_conv")(whole)
    branches = [
        convolution(x, filters, "batch", "pyramid_pixel", kernel=1),
        *(_separable(x, filters, rate, f"pyramid_rate{rate}") for rate in RATES),
        keras.layers.UpSampling2D(x.shape[1:3], name="pyramid_mean_up")(whole),
    ]
    x = keras.layers.Concatenate(name="pyramid")(branches)
    return convolution(x, filters, "batch", "pyramid_merge", kernel=1)


def _separable(x: Any, filters: int, dilation: int, name: str) -> Any:
    """A 3x3 convolution in two: dilated, each channel for itself; then all channels of a pixel."""
    import keras

    x = keras.layers.DepthwiseConv2D(3, padding="same", dilation_rate=dilation, use_bias=False, name=f"{name}_depth")(x)
    x = keras.layers.ReLU(name=f"{name}_depth_relu")(normalized(x, "batch", f"{name}_depth"))
    return convolution(x, filters, "batch", name, kernel=1)
