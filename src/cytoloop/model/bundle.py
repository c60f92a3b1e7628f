"""A model as a self-sufficient folder::

    bundle.json       architecture, classes, thresholds, provenance, SHA-256 of the arrays
    arrays.npz        the network's arrays by layer, plain numbers
    sample_input.png  a picture, and what the model answers to it:
    sample_output.png   the mask (class ids)
    sample_probability.npz

The network is built from our own typed params and filled with checked arrays: nothing in a bundle is
ever executed or unpickled.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from cytoloop.artifacts import ARRAYS, BUNDLE, read_json, sha256_file, write_json
from cytoloop.errors import ArtifactError, ModelError
from cytoloop.images.codec import LabelCodec
from cytoloop.params import ModelParams

if TYPE_CHECKING:
    import keras

Array = np.ndarray[Any, Any]

FORMAT = 1
SAMPLE_INPUT = "sample_input.png"
SAMPLE_OUTPUT = "sample_output.png"
SAMPLE_PROBABILITY = "sample_probability.npz"
SAMPLE_FILES = (SAMPLE_INPUT, SAMPLE_OUTPUT, SAMPLE_PROBABILITY)


class BundleFile(BaseModel):
    """bundle.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    model: ModelParams
    classes: list[dict[str, Any]]
    threshold: float
    min_object: int
    parameters: int
    arrays_sha256: str
    model_digest: str
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Bundle:
    """A bundle's content: what describes the network, and its arrays by name."""

    file: BundleFile
    arrays: dict[str, Array]

    @property
    def codec(self) -> LabelCodec:
        return LabelCodec.from_json(self.file.classes)


@dataclass(frozen=True)
class Description:
    """What a bundle records beside the arrays."""

    model: ModelParams
    codec: LabelCodec
    threshold: float
    """Sigmoid heads: the probability at which a pixel is foreground; chosen on val."""
    min_object: int
    """Regions with fewer pixels, at the network's picture size, are specks; chosen on val."""
    provenance: dict[str, Any]


def write_bundle(folder: Path, network: "keras.Model", description: Description) -> str:
    """Write bundle.json and arrays.npz; returns the model's digest."""
    write_arrays(folder / ARRAYS, arrays_of(network))
    arrays_sha256 = sha256_file(folder / ARRAYS)
    body: dict[str, Any] = {
        "format": FORMAT,
        "model": description.model.model_dump(mode="json"),
        "classes": description.codec.to_json(),
        "threshold": description.threshold,
        "min_object": description.min_object,
        "parameters": int(network.count_params()),
        "arrays_sha256": arrays_sha256,
    }
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    write_json(folder / BUNDLE, {**body, "model_digest": digest, "provenance": description.provenance})
    return digest


def read_bundle(folder: Path) -> Bundle:
    """Read and check a bundle.

    Raises:
        ModelError: not a bundle, of another format, or its arrays are not those that were written.
    """
    try:
        file = BundleFile.model_validate(read_json(folder / BUNDLE))
    except ArtifactError as error:
        raise ModelError(
            f"{folder}: not a model bundle ({BUNDLE} is missing); train one, or give its folder"
        ) from error
    except (ValidationError, ValueError) as error:
        raise ModelError(f"{folder / BUNDLE}: not a bundle of this version of cytoloop: {error}") from error
    if file.format != FORMAT:
        raise ModelError(f"{folder / BUNDLE}: format {file.format}; this version reads format {FORMAT}")
    arrays = folder / ARRAYS
    if not arrays.is_file() or sha256_file(arrays) != file.arrays_sha256:
        raise ModelError(f"{arrays}: missing, or its SHA-256 is not the one in {BUNDLE}; fetch the model again")
    return Bundle(file, read_arrays(arrays))


def arrays_of(network: "keras.Model") -> dict[str, Array]:
    """The network's weights (trained and running statistics) by path, in the network's order."""
    return {variable.path: np.asarray(variable) for variable in _stored(network)}


def fill_network(network: "keras.Model", arrays: dict[str, Array]) -> None:
    """Assign arrays by path; raises ModelError when a name or a shape does not fit."""
    variables = {variable.path: variable for variable in _stored(network)}
    strangers = sorted(variables.keys() ^ arrays.keys())
    if strangers:
        raise ModelError(f"arrays and network differ in {len(strangers)} names, the first {strangers[0]!r}")
    for name, variable in variables.items():
        if tuple(variable.shape) != arrays[name].shape:
            raise ModelError(f"array {name!r} has shape {arrays[name].shape}; the network has {tuple(variable.shape)}")
        variable.assign(arrays[name])


def _stored(network: "keras.Model") -> list[Any]:
    return [v for v in network.variables if "seed_generator" not in v.path]


def write_arrays(path: Path, arrays: dict[str, Array]) -> None:
    """An .npz with the same bytes for the same arrays, on every Python.

    Entries are written whole: numpy's own way streams them, whose headers differ between Pythons.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, np.asarray(array, order="C"), allow_pickle=False)
            # an entry made by name alone has the fixed date of 1980
            archive.writestr(zipfile.ZipInfo(name.replace("/", "|") + ".npy"), entry.getvalue())


def read_arrays(path: Path) -> dict[str, Array]:
    """Arrays by name; an object array (a pickle) is refused by numpy."""
    with np.load(path, allow_pickle=False) as archive:
        return {name.replace("|", "/"): archive[name] for name in archive.files}
