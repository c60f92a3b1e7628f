"""SwinUNet: a U-Net of attention within windows instead of convolutions, for large data sets.

The network is Cao et al. 2021, arXiv:2105.05537, its attention Liu et al. 2021, arXiv:2103.14030. A token
is a square of 4x4 pixels. Level i has base_filters * 2**i channels and two blocks: attention within windows
of `window` tokens a side (or the whole level where that is smaller), then within windows that are shifted
by half of one. A head has 32 channels, or the next larger number that divides a level's: at the paper's
base_filters = 96, num_layers = 4 and window = 7 these are its 3, 6, 12 and 24 heads. Dropout is stochastic
depth, as in the papers: dropout_rate * i for both branches of a level's blocks.

How it works. All tensors are (batch, height, width, channels). `windowed` cuts one into windows and
`unwindowed` puts it together again: with large windows for attention, with windows of 2x2 to merge four
tokens into one and to expand one into four, with windows of 4x4 to come from tokens to pixels. A level
whose side is not a multiple of the window's is padded for the attention; nothing attends to the padding.
"""

import functools
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cytoloop.model.architectures.layers import equal_parts, head, picture_input, scaled
from cytoloop.params import ModelParams

if TYPE_CHECKING:
    import keras

Array = np.ndarray[Any, Any]

PATCH = 4
"""Side of a token, pixels."""
HEAD_CHANNELS = 32
MLP_RATIO = 4
"""Channels within a block's perceptron to those outside."""
FAR = -1e4
"""A logit that softmax makes 0, within float16's range."""


def build(model: ModelParams) -> "keras.Model":
    """A SwinUNet with `num_layers` levels, the bottleneck included."""
    import keras

    picture = picture_input(model)
    x = scaled(picture, model, 1 / 127.5, -1)
    x = keras.layers.Conv2D(model.base_filters, PATCH, strides=PATCH, name="tokens")(x)
    x = _normalized(x, "tokens")
    skips = []
    for level in range(model.num_layers):
        x = _level(x, model, level, f"encoder{level}")
        if level < model.num_layers - 1:
            skips.append(x)
            x = _merged(x, f"encoder{level}_merge")
    x = _normalized(x, "encoder")
    for level in reversed(range(model.num_layers - 1)):
        channels = model.base_filters * 2**level
        x = _expanded(x, 2, channels, f"decoder{level}_expand")
        x = keras.layers.Concatenate(name=f"decoder{level}_skip")([x, skips[level]])
        x = _linear(x, channels, f"decoder{level}_join")
        x = _level(x, model, level, f"decoder{level}")
    x = _normalized(x, "decoder")
    x = _expanded(x, PATCH, model.base_filters, "pixels_expand")
    return keras.Model(picture, head(x, model.num_classes), name="swinunet")


def _level(x: Any, model: ModelParams, level: int, name: str) -> Any:
    """A block with whole windows, a block with shifted ones."""
    for number, shifted in ((1, False), (2, True)):
        attention, mlp = f"{name}_attention{number}", f"{name}_mlp{number}"
        windows = Windows.of(x.shape[1:3], model.window, shifted)
        x = _residual(x, _attended(x, windows, attention), model, level, attention)
        x = _residual(x, _transformed(x, mlp), model, level, mlp)
    return x


def _residual(x: Any, branch: Any, model: ModelParams, level: int, name: str) -> Any:
    """The sum of both; training leaves the branch out for pictures at random (stochastic depth)."""
    import keras

    if level:
        rate = min(model.dropout_rate * level, 0.9)
        branch = keras.layers.Dropout(rate, noise_shape=(None, 1, 1, 1), name=f"{name}_dropout")(branch)
    return keras.layers.Add(name=f"{name}_sum")([x, branch])


def _attended(x: Any, windows: "Windows", name: str) -> Any:
    """What each token gathers in its window."""
    channels = x.shape[-1]
    x = _linear(_normalized(x, name), 3 * channels, f"{name}_qkv")
    x = window_attention()(windows, equal_parts(channels, HEAD_CHANNELS), name=name)(x)
    return _linear(x, channels, f"{name}_out")


def _transformed(x: Any, name: str) -> Any:
    """What a perceptron of two layers makes of each token."""
    channels = x.shape[-1]
    x = _linear(_normalized(x, name), MLP_RATIO * channels, f"{name}_in", activation="gelu")
    return _linear(x, channels, f"{name}_out")


def _merged(x: Any, name: str) -> Any:
    """Four tokens to one of twice the channels."""
    import keras

    channels = x.shape[-1]
    x = keras.layers.Lambda(_stacked, name=f"{name}_stack")(x)
    return _linear(_normalized(x, name), 2 * channels, name, use_bias=False)


def _expanded(x: Any, factor: int, channels: int, name: str) -> Any:
    """Each token to factor**2 tokens of `channels`."""
    import keras

    x = _linear(x, factor**2 * channels, name, use_bias=False)
    x = keras.layers.Lambda(functools.partial(_spread, factor=factor), name=f"{name}_spread")(x)
    return _normalized(x, name)


def _normalized(x: Any, name: str) -> Any:
    import keras

    return keras.layers.LayerNormalization(epsilon=1e-5, name=f"{name}_norm")(x)


def _linear(x: Any, channels: int, name: str, **settings: Any) -> Any:
    import keras

    return keras.layers.Dense(channels, kernel_initializer=_small_values(), name=name, **settings)(x)


def _small_values() -> Any:
    """What the papers' matrices and biases of attention start from."""
    import keras

    return keras.initializers.TruncatedNormal(stddev=0.02)


def _stacked(x: Any) -> Any:
    """(B, 2h, 2w, C) to (B, h, w, 4 C)."""
    from keras import ops

    _, height, width, channels = x.shape
    return ops.reshape(windowed(x, (2, 2)), (-1, height // 2, width // 2, 4 * channels))


def _spread(x: Any, factor: int) -> Any:
    """(B, h, w, factor**2 C) to (B, factor h, factor w, C)."""
    from keras import ops

    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, height * width, factor**2, channels // factor**2))
    return unwindowed(x, (factor, factor), (factor * height, factor * width))


def windowed(x: Any, size: tuple[int, int]) -> Any:
    """(B, n h, m w, C) to (B, n m, h w, C): windows of size (h, w) by rows, the tokens of each by rows."""
    from keras import ops

    _, height, width, channels = x.shape
    x = ops.reshape(x, (-1, height // size[0], size[0], width // size[1], size[1], channels))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, height * width // prod(size), prod(size), channels))


def unwindowed(x: Any, size: tuple[int, int], sides: tuple[int, int]) -> Any:
    """The inverse of `windowed`, for a map of (height, width) = sides."""
    from keras import ops

    x = ops.reshape(x, (-1, sides[0] // size[0], sides[1] // size[1], *size, x.shape[-1]))
    return ops.reshape(ops.transpose(x, (0, 1, 3, 2, 4, 5)), (-1, *sides, x.shape[-1]))


class Windows(NamedTuple):
    """How a map of tokens is cut for attention; each pair is (vertical, horizontal), tokens."""

    size: tuple[int, int]
    shift: tuple[int, int]

    @classmethod
    def of(cls, sides: tuple[int, int], window: int, shifted: bool) -> "Windows":
        """Windows no larger than the map; a side that one window covers is not shifted."""
        height, width = (min(window, side) for side in sides)
        up, left = (window // 2 if shifted and side > window else 0 for side in sides)
        return cls((height, width), (up, left))

    def padding(self, sides: tuple[int, int]) -> tuple[int, int]:
        """Tokens to add below and to the right, so that whole windows fit."""
        return -sides[0] % self.size[0], -sides[1] % self.size[1]

    def offsets_TT(self) -> Array:
        """For each two tokens of a window the number of the offset between them, 0 to (2h - 1) (2w - 1) - 1."""
        height, width = self.size
        rows_T, columns_T = (axis.ravel() for axis in np.indices(self.size))
        down_TT = rows_T[:, None] - rows_T + height - 1
        right_TT = columns_T[:, None] - columns_T + width - 1
        return np.asarray(down_TT * (2 * width - 1) + right_TT)

    def regions_HW(self, sides: tuple[int, int]) -> Array:
        """The map as it is cut, padded and shifted: tokens in one window may see each other where numbers agree.

        A shift brings the first rows and columns behind the last ones, which they do not touch in the
        picture: they have numbers of their own, and so has the padding.
        """
        down, right = self.padding(sides)
        wrapped_H = np.arange(sides[0] + down) < self.shift[0]
        wrapped_W = np.arange(sides[1] + right) < self.shift[1]
        regions_HW = 2 * wrapped_H[:, None] + wrapped_W
        regions_HW[sides[0] :] = 4
        regions_HW[:, sides[1] :] = 4
        return np.roll(regions_HW, (-self.shift[0], -self.shift[1]), axis=(0, 1))


@functools.cache
def window_attention() -> Any:
    """The class of the attention layer, made at its first use: keras is imported within functions only."""
    import keras
    from keras import ops

    class WindowAttention(keras.layers.Layer):  # type: ignore[misc]
        """Queries, keys and values (B, H, W, 3 C) to what each token gathers in its window, (B, H, W, C).

        By heads of d channels, softmax(query key / sqrt(d) + bias of the two tokens' offset) value:
        equation 4 of Liu et al. 2021.
        """

        def __init__(self, windows: Windows, heads: int, **settings: Any) -> None:
            super().__init__(**settings)
            self.windows = windows
            self.heads = heads

        def build(self, shape: tuple[int, ...]) -> None:
            offsets = int(self.windows.offsets_TT().max()) + 1
            self.bias = self.add_weight((self.heads, offsets), _small_values(), name="bias")

        def call(self, qkv: Any) -> Any:
            (height, width), (up, left) = qkv.shape[1:3], self.windows.shift
            down, right = self.windows.padding((height, width))
            x = ops.pad(qkv, ((0, 0), (0, down), (0, right), (0, 0)))
            x = windowed(ops.roll(x, (-up, -left), (1, 2)), self.windows.size)
            x = self._gathered(x, self.windows.regions_HW((height, width)))
            x = unwindowed(x, self.windows.size, (height + down, width + right))
            return ops.roll(x, (up, left), (1, 2))[:, :height, :width]

        def _gathered(self, qkv: Any, regions_HW: Array) -> Any:
            """(B, N, T, 3 C) to (B, N, T, C), for N windows of T tokens."""
            _, number, tokens, channels = qkv.shape
            depth = channels // (3 * self.heads)
            qkv = ops.reshape(qkv, (-1, number, tokens, 3, self.heads, depth))
            query, key, value = (qkv[..., part, :, :] for part in range(3))
            logits = ops.einsum("bnthd,bnshd->bnhts", query * depth**-0.5, key)
            logits = logits + ops.take(self.bias, self.windows.offsets_TT(), axis=1)
            attention = ops.softmax(self._masked(logits, regions_HW))
            return ops.reshape(ops.einsum("bnhts,bnshd->bnthd", attention, value), (-1, number, tokens, channels // 3))

        def _masked(self, logits: Any, regions_HW: Array) -> Any:
            """Logits (B, N, heads, T, T), those between two regions far below all others."""
            if not regions_HW.any():
                return logits
            regions = windowed(regions_HW[None, :, :, None], self.windows.size)[:, :, None, :, 0]
            return ops.where(regions[..., :, None] == regions[..., None, :], logits, FAR)

    return WindowAttention
