"""The trained classifier as a self-sufficient folder, and how it is asked::

    bundle.json   settings, labels, mean and deviation, provenance, SHA-256 of the arrays
    arrays.npz    the network's arrays by layer, plain numbers

As with a segmenter's bundle, the network is built from typed params and filled with checked arrays:
nothing is executed or unpickled.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from cytoloop.artifacts import ARRAYS, BUNDLE, read_json, sha256_file, write_json
from cytoloop.errors import ArtifactError, ModelError
from cytoloop.model.bundle import arrays_of, fill_network, read_arrays, write_arrays
from cytoloop.model.classifier_data import squared
from cytoloop.model.classifier_network import Scaling, build, compiled
from cytoloop.model.classifier_training import Training
from cytoloop.params import ClassifierParams

Array = np.ndarray[Any, Any]

BATCH = 16


class ClassifierFile(BaseModel):
    """bundle.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    kind: Literal["classifier"]
    classifier: ClassifierParams
    labels: tuple[str, ...]
    scaling: Scaling
    parameters: int
    arrays_sha256: str
    model_digest: str
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Classification:
    """What the classifier says of one picture."""

    label: str
    """The likeliest one."""
    probability_C: Array
    """float32, of each label; they add up to 1."""
    map_HW: Array
    """float32, the label's class activation map at the picture's own size; larger speaks for the label."""

    @property
    def probability(self) -> float:
        """Of the label."""
        return float(self.probability_C.max())


def write_classifier(folder: Path, training: Training, provenance: dict[str, Any]) -> str:
    """Write bundle.json and arrays.npz; returns the model's digest."""
    write_arrays(folder / ARRAYS, arrays_of(training.network))
    body: dict[str, Any] = {
        "format": 1,
        "kind": "classifier",
        "classifier": training.params.model_dump(mode="json"),
        "labels": list(training.names),
        "scaling": [list(values) for values in training.scaling],
        "parameters": int(training.network.count_params()),
        "arrays_sha256": sha256_file(folder / ARRAYS),
    }
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    write_json(folder / BUNDLE, {**body, "model_digest": digest, "provenance": provenance})
    return digest


class Classifier:
    """A network ready to be asked, with its preprocessing and labels.

    Args:
        file: what describes the network.
        arrays: its weights by path.
    """

    def __init__(self, file: ClassifierFile, arrays: dict[str, Array]) -> None:
        network = build(file.classifier, file.scaling, len(file.labels))
        fill_network(network, arrays)
        self._ask = compiled(network)
        self._side = file.classifier.image_size
        self.labels = file.labels
        self.meta: dict[str, Any] = file.model_dump(mode="json")

    @classmethod
    def load(cls, folder: Path) -> "Classifier":
        """From its folder.

        Raises:
            ModelError: not a classifier of this version, or its arrays are not those that were written.
        """
        try:
            file = ClassifierFile.model_validate(read_json(folder / BUNDLE))
        except ArtifactError as error:
            raise ModelError(f"{folder}: no classifier here ({BUNDLE} is missing); train one") from error
        except (ValidationError, ValueError) as error:
            raise ModelError(f"{folder / BUNDLE}: not a classifier of this version of cytoloop: {error}") from error
        arrays = folder / ARRAYS
        if not arrays.is_file() or sha256_file(arrays) != file.arrays_sha256:
            raise ModelError(f"{arrays}: missing, or its SHA-256 is not the one in {BUNDLE}; fetch the model again")
        return cls(file, read_arrays(arrays))

    def classify(self, pictures: Sequence[Array]) -> Iterator[Classification]:
        """The answer to each of uint8 (H, W, 3) pictures of any sizes."""
        for start in range(0, len(pictures), BATCH):
            batch = pictures[start : start + BATCH]
            answer = self._ask(np.stack([squared(rgb_HW3, self._side) for rgb_HW3 in batch]))
            for rgb_HW3, probability_C, maps_hwC in zip(batch, *answer, strict=True):
                best = int(probability_C.argmax())
                size = rgb_HW3.shape[1::-1]
                map_hw = np.ascontiguousarray(maps_hwC[..., best])
                map_HW = np.asarray(cv2.resize(map_hw, size, interpolation=cv2.INTER_LINEAR))
                yield Classification(self.labels[best], probability_C, map_HW)
