"""Encoders from keras.applications, with weights that are random, or pretrained and read from a declared file.

An encoder's layers are cut out of the application, between its own scaling and the deepest feature that
a decoder takes, and stand in the network under the names that they have there. A network is always
built with random weights: a training asks `load_pretrained` for others, and a bundle brings its own.
"""

import sys
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cytoloop.artifacts import sha256_file
from cytoloop.errors import ModelError
from cytoloop.model.architectures.layers import MOMENTUM, scaled
from cytoloop.model.bundle import arrays_of, fill_network, read_arrays
from cytoloop.params import ModelParams

if TYPE_CHECKING:
    import keras

Array = np.ndarray[Any, Any]

NOTICE = "encoder starts from random weights; give model.weights and model.weights_sha256 for pretrained ones"
SUFFIXES = (".weights.h5", ".h5", ".npz")
UNREADABLE = (ModelError, ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile, UserWarning)
"""What reading a file that is damaged, or meant for another network, ends in."""


class Encoder(NamedTuple):
    """What is taken of an application."""

    application: str
    """Its name in keras.applications."""
    first: str
    """The layer that sees the scaled picture."""
    features: tuple[str, ...]
    """Layers whose outputs the decoder takes, fine to coarse."""
    scale: float | Sequence[float]
    """The scaling it was made for, x * scale + offset of values 0..255, for all channels or each."""
    offset: float | Sequence[float]
    changes: Mapping[str, dict[str, Any]] = {}
    """Settings of its layers that are not the application's; none changes the shape of a weight."""


IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MOBILENET_SCALING = (1 / 127.5, -1)

# Chen et al. 2018, arXiv:1802.02611, section 3.1: the last halving is taken out, and the layers after it
# are dilated instead, so that their kernels see as far as before
STRIDE_16: dict[str, dict[str, Any]] = {
    "block_13_pad": {"padding": 0},
    "block_13_depthwise": {"strides": 1, "padding": "same"},
    **{f"block_{block}_depthwise": {"dilation_rate": 2} for block in (14, 15, 16)},
}

ENCODERS: dict[str, Encoder] = {
    "efficientunet": Encoder(
        "EfficientNetB0",
        "stem_conv_pad",
        (
            "block2a_expand_activation",
            "block3a_expand_activation",
            "block4a_expand_activation",
            "block6a_expand_activation",
            "block7a_project_bn",
        ),
        [1 / (255 * deviation) for deviation in IMAGENET_STD],
        [-mean / deviation for mean, deviation in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)],
    ),
    "deeplabv3plus": Encoder(
        "MobileNetV2", "Conv1", ("block_3_expand_relu", "block_16_project_BN"), *MOBILENET_SCALING, STRIDE_16
    ),
    "mobilenetunet": Encoder(
        "MobileNetV2",
        "Conv1",
        (
            "block_1_expand_relu",
            "block_3_expand_relu",
            "block_6_expand_relu",
            "block_13_expand_relu",
            "block_16_project",
        ),
        *MOBILENET_SCALING,
    ),
}


def encoder_input(picture: Any, model: ModelParams) -> Any:
    """The picture as the encoder sees it: three channels (grey is repeated), scaled as it was made for."""
    import keras

    encoder = ENCODERS[model.architecture]
    if model.image_channels == 1:
        picture = keras.layers.Concatenate(name="grey_to_three")([picture] * 3)
    return scaled(picture, model, encoder.scale, encoder.offset)


def encode(x: Any, model: ModelParams) -> list[Any]:
    """The encoder's features, fine to coarse; frozen where the params say so.

    Args:
        x: what `encoder_input` gives, (height, width, 3).
        model: its architecture names the encoder.
    """
    import keras

    encoder = ENCODERS[model.architecture]
    whole = _application(encoder)
    cut = keras.Model(whole.get_layer(encoder.first).input, [whole.get_layer(name).output for name in encoder.features])

    def anew(layer: Any) -> Any:
        settings = layer.get_config() | encoder.changes.get(layer.name, {})
        return type(layer).from_config(settings | ({"momentum": MOMENTUM} if "momentum" in settings else {}))

    layers = keras.models.clone_model(cut, input_tensors=x, clone_function=anew)
    layers.trainable = not model.freeze_encoder
    # a layer's output is that of its first call, and the clone's layers are called on `x` first
    return [layers.get_layer(name).output for name in encoder.features]


def load_pretrained(network: "keras.Model", model: ModelParams) -> None:
    """Fill a network's encoder from the file that the params declare; say so on stderr when they declare none.

    An architecture without an encoder is left as it is.

    Args:
        network: as `architectures.build` made it.
        model: `weights` names the file: what keras.applications or its `save_weights` wrote for the
            application without its top (.weights.h5, .h5), or arrays of a network with the same encoder
            (.npz, as in a bundle).

    Raises:
        ModelError: the file is missing, is not the declared one, or does not fit the encoder.
    """
    encoder = ENCODERS.get(model.architecture)
    if encoder is None:
        return
    if model.weights is None:
        print(f"cytoloop: {NOTICE}", file=sys.stderr)
        return
    path = _declared(model)
    try:
        _fill(network, path, _application(encoder))
    except UNREADABLE as error:
        raise ModelError(
            f"model.weights = {path}: cannot fill the encoder of {model.architecture} "
            f"({str(error).splitlines()[0].split('. ')[0]}); allowed: weights of "
            f"keras.applications.{encoder.application}(include_top=False)"
        ) from error


def _application(encoder: Encoder) -> "keras.Model":
    """The whole application without its top, random weights, for pictures of any size."""
    import keras

    application: keras.Model = getattr(keras.applications, encoder.application)(
        include_top=False, weights=None, input_shape=(None, None, 3)
    )
    return application


def _declared(model: ModelParams) -> Path:
    path = Path(model.weights or "")
    if not path.name.endswith(SUFFIXES):
        raise ModelError(f"model.weights = {path}: not a file of weights by its name; allowed: *{', *'.join(SUFFIXES)}")
    if not path.is_file():
        raise ModelError(
            f"model.weights = {path}: no such file; correct the path, or set it to null for random weights"
        )
    found = sha256_file(path)
    if found != model.weights_sha256:
        raise ModelError(
            f"model.weights = {path}: its SHA-256 is {found}, model.weights_sha256 is {model.weights_sha256}; "
            "fetch the file again, or declare this one if you trust where it came from"
        )
    return path


def _fill(network: "keras.Model", path: Path, application: "keras.Model") -> None:
    """Assign the file's arrays to the layers that the network has of the application."""
    own = arrays_of(network)
    names = own.keys() & arrays_of(application).keys()
    arrays = _arrays(path, application)
    missing = sorted(names - arrays.keys())
    if missing:
        raise ModelError(f"it lacks {len(missing)} arrays, the first {missing[0]!r}")
    fill_network(network, own | {name: arrays[name] for name in names})


def _arrays(path: Path, application: "keras.Model") -> dict[str, Array]:
    """The file's arrays by path; the application is filled from a file that Keras wrote."""
    if path.suffix == ".npz":
        return read_arrays(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # Keras' way to say that a layer keeps its random weights
        application.load_weights(path)
    return arrays_of(application)
