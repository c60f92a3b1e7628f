"""The architectures by name: one module each, with a `build(model: ModelParams) -> keras.Model`.

A network takes float (batch, height, width, channels) with values 0..255 and scales them itself; it
returns (batch, height, width, classes) softmax probabilities, or (batch, height, width, 1) sigmoid
ones when `num_classes` is 1. Every layer has its own explicit name, so that a network's arrays are
named alike in every process.
"""

import importlib
from typing import TYPE_CHECKING, get_args

from cytoloop.model import quiet_start
from cytoloop.params import Architecture, ModelParams

if TYPE_CHECKING:
    import keras

NAMES: tuple[str, ...] = get_args(Architecture)


def build(model: ModelParams) -> "keras.Model":
    """The network that the params describe, with fresh weights."""
    with quiet_start():
        import tensorflow as tf

        tf.config.list_physical_devices()
    network: keras.Model = importlib.import_module(f"{__name__}.{model.architecture}").build(model)
    return network


def describe(name: str) -> str:
    """First line of an architecture's docstring; TensorFlow is not imported for it."""
    return (importlib.import_module(f"{__name__}.{name}").__doc__ or "").strip().splitlines()[0]
