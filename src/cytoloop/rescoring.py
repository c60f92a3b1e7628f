"""Versions of the registry, scored again from the bundles that are stored there; and what they have learnt from."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cytoloop import registry, tracking
from cytoloop.artifacts import ARRAYS, PROFILE, read_card, read_rows
from cytoloop.gate import Scores
from cytoloop.images.decode import decode_rgb
from cytoloop.judging import COLUMNS, Asked, answered, check_all_found, check_classes, test_ids
from cytoloop.model.bundle import SAMPLE_INPUT
from cytoloop.profiles import Profile, read_profile
from cytoloop.registry import MIB, Version
from cytoloop.scores import pixels
from cytoloop.timing import median_ms

if TYPE_CHECKING:
    from cytoloop.model.predict import Predictor

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Stored:
    """A bundle that was fetched from the registry, ready to be asked."""

    folder: Path
    predictor: "Predictor"

    @property
    def size_mib(self) -> float:
        """Of the network's arrays."""
        return (self.folder / ARRAYS).stat().st_size / MIB

    def latency_ms(self) -> float:
        """Wall time of one answer to the golden sample's picture, milliseconds, on this machine."""
        picture = decode_rgb((self.folder / SAMPLE_INPUT).read_bytes())
        return median_ms(lambda: _answer(self.predictor, picture))


@contextmanager
def stored(uri: str) -> Iterator[Stored]:
    """A version's bundle, for as long as the context lasts.

    Raises:
        CytoloopError: it is not in the store any more.
        ModelError: it is damaged.
    """
    from cytoloop.model.predict import Predictor

    with tempfile.TemporaryDirectory() as folder:
        bundle = registry.fetch(uri, Path(folder))
        yield Stored(bundle, Predictor.load(bundle))


def rescore(predictor: Asked, raw: Path, splits: Path, whose: str) -> Scores:
    """Score a model on the test split, as `evaluate` does; `whose` names it in errors.

    Raises:
        ArtifactError: the test split is empty or not of this table.
        ModelError: the model was made for other classes.
    """
    check_classes(predictor, raw, whose)
    test = test_ids(splits)
    names = read_card(raw).codec.names
    rows = ((row, pair) for row, pair, _ in answered(predictor, read_rows(raw, test, COLUMNS)))
    counted = [
        (row.id, row.group, pixels.confusion(pair.truth_HW, pair.prediction_HW, len(names))) for row, pair in rows
    ]
    ids, groups, confusions = zip(*counted, strict=True) if counted else ((), (), ())
    check_all_found(test, ids, raw, splits)
    confusion_NCC = np.stack(confusions)
    return Scores(names, tuple(groups), pixels.dice(confusion_NCC), (confusion_NCC.sum(-1) > 0).sum(0))


def profile_of(version: Version) -> Profile | None:
    """The training profile of a version; None where it was registered without one."""
    if version.run_id is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = tracking.Run(version.run_id).fetch(f"evaluation/{PROFILE}", Path(folder))
        return read_profile(path) if path else None


def _answer(predictor: Asked, picture_HW3: Array) -> None:
    for said in predictor.ask([picture_HW3]):
        predictor.answer(said, *picture_HW3.shape[:2])
