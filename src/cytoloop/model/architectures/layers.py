"""The layers that the architectures share."""

from typing import Any

from cytoloop.errors import ModelError
from cytoloop.params import ModelParams


def picture_input(model: ModelParams) -> Any:
    """The input, (height, width, channels) with values 0..255."""
    import keras

    return keras.Input((model.image_height, model.image_width, model.image_channels), name="picture")


def scaled(picture: Any, model: ModelParams, scale: float, offset: float) -> Any:
    """The picture as the first convolution sees it.

    Args:
        picture: the input, values 0..255.
        model: standardized, its channels leave with mean 0 and deviation 1 over the training set.
        scale: the architecture's own scaling otherwise, x * scale + offset.
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
    """Batch or group normalization (groups of at most 8 channels), or nothing."""
    import keras

    if kind == "batch":
        return keras.layers.BatchNormalization(name=f"{name}_norm")(x)
    if kind == "group":
        groups = max(1, x.shape[-1] // 8)
        return keras.layers.GroupNormalization(groups, name=f"{name}_norm")(x)
    return x


def head(x: Any, num_classes: int) -> Any:
    """A 1x1 convolution to class probabilities: softmax, or sigmoid for one class; float32 always."""
    import keras

    activation = "sigmoid" if num_classes == 1 else "softmax"
    return keras.layers.Conv2D(num_classes, 1, activation=activation, dtype="float32", name="probabilities")(x)
