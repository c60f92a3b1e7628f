"""LeanUNet: a small U-Net behind a stem that halves the picture once, for good scores in minutes on a CPU.

The U-Net is Ronneberger, Fischer and Brox 2015, arXiv:1505.04597. Most of a
U-Net's work is at full resolution: here a strided convolution leaves it at once, and it is met again
only by one narrow convolution before the head.
"""

from typing import TYPE_CHECKING, Any

from cytoloop.model.architectures.layers import head, normalized, picture_input, scaled
from cytoloop.params import ModelParams

if TYPE_CHECKING:
    import keras


def build(model: ModelParams) -> "keras.Model":
    """A LeanUNet with `num_layers` levels below its stem, the bridge included."""
    import keras

    picture = picture_input(model)
    full = scaled(picture, model, 1 / 127.5, -1)
    x = _convolution(full, model.base_filters, model, "stem", kernel=model.base_kernels, strides=2)
    skips = []
    for level in range(model.num_layers):
        x = _level(x, model, level, f"encoder{level}")
        if level < model.num_layers - 1:
            skips.append(x)
            x = keras.layers.MaxPooling2D(name=f"encoder{level}_pool")(x)
    for level in reversed(range(model.num_layers - 1)):
        x = keras.layers.Conv2DTranspose(model.base_filters * 2**level, 2, strides=2, name=f"decoder{level}_up")(x)
        x = keras.layers.Concatenate(name=f"decoder{level}_skip")([x, skips[level]])
        x = _level(x, model, level, f"decoder{level}")
    narrow = max(model.base_filters // 2, 4)
    x = keras.layers.Conv2DTranspose(narrow, 2, strides=2, name="full_up")(x)
    x = keras.layers.Concatenate(name="full_skip")([x, full])
    x = _convolution(x, narrow, model, "full")
    return keras.Model(picture, head(x, model.num_classes), name="leanunet")


def _level(x: Any, model: ModelParams, level: int, name: str) -> Any:
    """Two convolutions with a dropout between."""
    import keras

    filters = model.base_filters * 2**level
    x = _convolution(x, filters, model, f"{name}_conv1")
    if level:
        x = keras.layers.Dropout(min(model.dropout_rate * level, 0.9), name=f"{name}_dropout")(x)
    return _convolution(x, filters, model, f"{name}_conv2")


def _convolution(x: Any, filters: int, model: ModelParams, name: str, kernel: int = 3, strides: int = 1) -> Any:
    import keras

    x = keras.layers.Conv2D(
        filters,
        kernel,
        strides,
        padding="same",
        kernel_initializer="he_normal",
        use_bias=model.normalization == "none",
        name=name,
    )(x)
    return keras.layers.ReLU(name=f"{name}_relu")(normalized(x, model.normalization, name))
