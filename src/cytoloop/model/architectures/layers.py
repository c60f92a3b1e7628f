"""The layers that the architectures share."""

from collections.abc import Sequence
from typing import Any

from cytoloop.errors import ModelError
from cytoloop.params import ModelParams

MOMENTUM = 0.9
"""Of batch normalization's running statistics. Keras's 0.99 is for thousands of steps: after a few hundred,
statistics that began at 0 and 1 would still be far from the pictures'."""

HEAD = "probabilities"
"""Name of every network's last layer."""


def picture_input(model: ModelParams) -> Any:
    """The input, (height, width, channels) with values 0..255."""
    import keras

    return keras.Input((model.image_height, model.image_width, model.image_channels), name="picture")


def scaled(picture: Any, model: ModelParams, scale: float | Sequence[float], offset: float | Sequence[float]) -> Any:
    """The picture as the first convolution sees it.

    Args:
        picture: the input, values 0..255.
        model: standardized, its channels leave with mean 0 and deviation 1 over the training set.
        scale: the architecture's own scaling otherwise, x * scale + offset; for all channels or each.
        offset: see scale.
    """
    import keras

    if not model.standardize:
        return keras.layers.Rescaling(scale, offset, name="rescale")(picture)
    if model.channel_mean is None or model.channel_std is None:
        raise ModelError("model.standardize: the training set's mean and deviation are not known yet")
    deviations = [max(deviation, 1e-3) for deviation in model.channel_std]
    offsets = [-mean / deviation for mean, deviation in zip(model.channel_mean, deviations, strict=True)]
    return keras.layers.Rescaling([1 / deviation for deviation in deviations], offsets, name="rescale")(picture)


def normalized(x: Any, kind: str, name: str) -> Any:
    """Batch or group normalization (groups of 8 channels, or a few more where 8 do not divide them), or nothing."""
    import keras

    if kind == "batch":
        return keras.layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(x)
    if kind == "group":
        return keras.layers.GroupNormalization(equal_parts(x.shape[-1], 8), name=f"{name}_norm")(x)
    return x


def equal_parts(channels: int, least: int) -> int:
    """Most parts of equal size that channels can be cut into, each with at least `least` of them; or 1.

    >>> [equal_parts(channels, 8) for channels in (4, 24, 51)]
    [1, 3, 3]
    """
    return max(parts for parts in range(1, max(channels // least, 1) + 1) if channels % parts == 0)


def convolution(x: Any, filters: int, normalization: str, name: str, kernel: int = 3, strides: int = 1) -> Any:
    """Convolution, normalization, ReLU."""
    import keras

    x = linear_convolution(x, filters, normalization, name, kernel, strides)
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def linear_convolution(x: Any, filters: int, normalization: str, name: str, kernel: int = 3, strides: int = 1) -> Any:
    """Convolution, normalization; the convolution has a bias where no normalization brings one."""
    import keras

    x = keras.layers.Conv2D(
        filters,
        kernel,
        strides,
        padding="same",
        kernel_initializer="he_normal",
        use_bias=normalization == "none",
        name=name,
    )(x)
    return normalized(x, normalization, name)


def double_convolution(x: Any, model: ModelParams, level: int, name: str, kernel: int = 3) -> Any:
    """A U-Net's level of base_filters * 2**level filters: two convolutions with a dropout between."""
    filters = model.base_filters * 2**level
    x = convolution(x, filters, model.normalization, f"{name}_conv1", kernel)
    x = dropout(x, model, level, name)
    return convolution(x, filters, model.normalization, f"{name}_conv2", kernel)


def dropout(x: Any, model: ModelParams, level: int, name: str) -> Any:
    """Dropout of dropout_rate * level, at most 0.9; none at the first level."""
    import keras

    return keras.layers.Dropout(min(model.dropout_rate * level, 0.9), name=f"{name}_dropout")(x) if level else x


def kernel_of(model: ModelParams, level: int) -> int:
    """Side of a level's kernels, pixels: base_kernels, 2 less a level, to 3 (or to itself where it is smaller)."""
    return max(model.base_kernels - 2 * level, min(model.base_kernels, 3))


def head(x: Any, num_classes: int) -> Any:
    """A 1x1 convolution to class probabilities: softmax, or sigmoid for one class; float32 always."""
    import keras

    activation = "sigmoid" if num_classes == 1 else "softmax"
    return keras.layers.Conv2D(num_classes, 1, activation=activation, dtype="float32", name=HEAD)(x)


def probabilities(x: Any, num_classes: int) -> Any:
    """Scores to class probabilities, as `head` gives them, for a network that forms its scores itself."""
    import keras

    activation = "sigmoid" if num_classes == 1 else "softmax"
    return keras.layers.Activation(activation, dtype="float32", name=HEAD)(x)
