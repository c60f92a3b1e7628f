"""AttentionUNet: a U-Net whose skips pass through attention gates, for small objects in busy pictures.

The network is Oktay et al. 2018, arXiv:1804.03999. A gate sees a skip and the decoder's coarser feature,
and scales each pixel of the skip by a number from 0 to 1. As in the paper the full-resolution skip has
no gate: its features are too plain to judge a pixel by. Level i (0 is the full resolution) has
base_filters * 2**i filters, a kernel of base_kernels - 2 i pixels, at least 3, and a dropout of
dropout_rate * i between its two convolutions. The paper's deep supervision is left out.
"""

from typing import TYPE_CHECKING, Any

from cytoloop.model.architectures.layers import double_convolution, head, kernel_of, picture_input, scaled
from cytoloop.params import ModelParams

if TYPE_CHECKING:
    import keras


def build(model: ModelParams) -> "keras.Model":
    """An AttentionUNet with `num_layers` levels, the bridge included."""
    import keras

    picture = picture_input(model)
    x = scaled(picture, model, 1 / 255, 0)
    skips = []
    for level in range(model.num_layers):
        x = double_convolution(x, model, level, f"encoder{level}", kernel_of(model, level))
        if level < model.num_layers - 1:
            skips.append(x)
            x = keras.layers.MaxPooling2D(name=f"encoder{level}_pool")(x)
    for level in reversed(range(model.num_layers - 1)):
        skip = _gated(skips[level], x, f"gate{level}") if level else skips[level]
        x = keras.layers.Conv2DTranspose(model.base_filters * 2**level, 2, strides=2, name=f"decoder{level}_up")(x)
        x = keras.layers.Concatenate(name=f"decoder{level}_skip")([x, skip])
        x = double_convolution(x, model, level, f"decoder{level}", kernel_of(model, level))
    return keras.Model(picture, head(x, model.num_classes), name="attentionunet")


def _gated(skip: Any, signal: Any, name: str) -> Any:
    """The skip (2h, 2w, C), each pixel times its attention, from the coarser signal (h, w, D).

    Additive attention, equations 1 and 2 of the paper: sigmoid(psi(relu(W_x x + W_g g + b_g)) + b_psi), found
    at the signal's resolution and enlarged.
    """
    import keras

    channels = skip.shape[-1]
    features = keras.layers.Conv2D(channels, 2, strides=2, use_bias=False, name=f"{name}_features")(skip)
    context = keras.layers.Conv2D(channels, 1, name=f"{name}_context")(signal)
    both = keras.layers.ReLU(name=f"{name}_relu")(keras.layers.Add(name=f"{name}_sum")([features, context]))
    attention = keras.layers.Conv2D(1, 1, activation="sigmoid", name=f"{name}_attention")(both)
    attention = keras.layers.UpSampling2D(2, interpolation="bilinear", name=f"{name}_up")(attention)
    return keras.layers.Multiply(name=f"{name}_gated")([skip, attention])
