"""MultiResUNet: a U-Net whose levels see three scales at once, for objects of many sizes.

The network is Ibtehaz and Rahman 2019, arXiv:1902.04049. A level is a MultiRes block of about
W = 1.67 * base_filters * 2**i filters: three 3x3 convolutions in a row with W/6, W/3 and W/2 of them, whose
outputs (what one 3x3, 5x5 and 7x7 convolution would see) stand side by side, beside a shortcut. A skip
is a Res path of residual convolutions, one at the coarsest skip and one more each level up. The paper has
`normalization: batch` and no dropout; here a dropout of dropout_rate * i ends a level.
"""

from typing import TYPE_CHECKING, Any

from cytoloop.model.architectures.layers import (
    convolution,
    dropout,
    head,
    linear_convolution,
    normalized,
    picture_input,
    scaled,
)
from cytoloop.params import ModelParams

if TYPE_CHECKING:
    import keras

ALPHA = 1.67
"""Filters of a MultiRes block to those of a U-Net's convolution."""
SHARES = (0.167, 0.333, 0.5)
"""W/6, W/3 and W/2 as the authors round them."""


def build(model: ModelParams) -> "keras.Model":
    """A MultiResUNet with `num_layers` levels, the bridge included."""
    import keras

    picture = picture_input(model)
    x = scaled(picture, model, 1 / 255, 0)
    skips = []
    for level in range(model.num_layers):
        x = _multires_block(x, model, level, f"encoder{level}")
        if level < model.num_layers - 1:
            skips.append(_res_path(x, model, level))
            x = keras.layers.MaxPooling2D(name=f"encoder{level}_pool")(x)
    for level in reversed(range(model.num_layers - 1)):
        x = keras.layers.Conv2DTranspose(model.base_filters * 2**level, 2, strides=2, name=f"decoder{level}_up")(x)
        x = keras.layers.Concatenate(name=f"decoder{level}_skip")([x, skips[level]])
        x = _multires_block(x, model, level, f"decoder{level}")
    return keras.Model(picture, head(x, model.num_classes), name="multiresunet")


def _multires_block(x: Any, model: ModelParams, level: int, name: str) -> Any:
    """Three convolutions in a row, side by side, plus a shortcut; then the level's dropout."""
    import keras

    width = ALPHA * model.base_filters * 2**level
    filters = [max(int(width * share), 1) for share in SHARES]
    shortcut = linear_convolution(x, sum(filters), model.normalization, f"{name}_shortcut", kernel=1)
    scales = []
    for i, count in enumerate(filters, start=1):
        x = convolution(x, count, model.normalization, f"{name}_conv{i}")
        scales.append(x)
    x = keras.layers.Concatenate(name=f"{name}_scales")(scales)
    x = normalized(x, model.normalization, f"{name}_scales")
    return dropout(_residual(shortcut, x, model, name), model, level, name)


def _res_path(x: Any, model: ModelParams, level: int) -> Any:
    """As many residual convolutions as levels lie below."""
    filters = model.base_filters * 2**level
    for i in range(1, model.num_layers - level):
        name = f"skip{level}_part{i}"
        shortcut = linear_convolution(x, filters, model.normalization, f"{name}_shortcut", kernel=1)
        x = convolution(x, filters, model.normalization, f"{name}_conv")
        x = _residual(shortcut, x, model, name)
    return x


def _residual(shortcut: Any, x: Any, model: ModelParams, name: str) -> Any:
    """Sum, ReLU, normalization."""
    import keras

    x = keras.layers.Add(name=f"{name}_sum")([shortcut, x])
    return normalized(keras.layers.ReLU(name=f"{name}_relu")(x), model.normalization, name)
