"""FlexUNet: a U-Net whose kernels and dilations are large at the first level and shrink with depth.

The network of the seed projects, layer by layer. The U-Net is Ronneberger, Fischer and Brox 2015,
arXiv:1505.04597. Level i (0 is the full resolution) has

- base_filters * 2**i filters,
- a kernel of base_kernels - 2 i pixels, at least 3 (or base_kernels where that is smaller),
- a dilation of dilation - i pixels, at least 1,
- a dropout of dropout_rate * i between its two convolutions.
"""

from typing import TYPE_CHECKING, Any

from cytoloop.model.architectures.layers import head, kernel_of, normalized, picture_input, scaled
from cytoloop.params import ModelParams

if TYPE_CHECKING:
    import keras


def build(model: ModelParams) -> "keras.Model":
    """A FlexUNet with `num_layers` levels, the bridge included."""
    import keras

    picture = picture_input(model)
    x = scaled(picture, model, 1 / 255, 0)
    skips = []
    for level in range(model.num_layers):
        x = _level(x, model, level, f"encoder{level}")
        if level < model.num_layers - 1:
            skips.append(x)
            x = keras.layers.MaxPooling2D(name=f"encoder{level}_pool")(x)
    for level in reversed(range(model.num_layers - 1)):
        filters = model.base_filters * 2**level
        x = keras.layers.Conv2DTranspose(filters, 2, strides=2, name=f"decoder{level}_up")(x)
        x = keras.layers.Concatenate(name=f"decoder{level}_skip")([x, skips[level]])
        x = _level(x, model, level, f"decoder{level}")
    return keras.Model(picture, head(x, model.num_classes), name="flexunet")


def _level(x: Any, model: ModelParams, level: int, name: str) -> Any:
    """Convolution, dropout, convolution."""
    import keras

    for half in (1, 2):
        x = keras.layers.Conv2D(
            model.base_filters * 2**level,
            kernel_of(model, level),
            padding="same",
            dilation_rate=max(model.dilation - level, 1),
            activation="relu",
            kernel_initializer="he_normal",
            name=f"{name}_conv{half}",
        )(x)
        x = normalized(x, model.normalization, f"{name}_conv{half}")
        if half == 1:
            x = keras.layers.Dropout(min(model.dropout_rate * level, 0.9), name=f"{name}_dropout")(x)
    return x
