"""A model asked about labelled pictures, a batch at a time: the one way in which `evaluate` and the gate score."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cytoloop.artifacts import TEST, Row, read_card, read_splits
from cytoloop.errors import ArtifactError, ModelError
from cytoloop.images.codec import LabelCodec
from cytoloop.images.decode import decode_ids, decode_instances, decode_rgb
from cytoloop.scores.tally import Judged

Array = np.ndarray[Any, Any]

BATCH = 8
COLUMNS = ("image", "mask", "instances")


class Answer(Protocol):
    """What a predictor says of one picture."""

    @property
    def ids_HW(self) -> Array: ...

    @property
    def probability_HW(self) -> Array: ...


class Asked(Protocol):
    """Whoever is judged: `cytoloop.model.predict.Predictor`, or anything that answers like it."""

    codec: LabelCodec
    meta: dict[str, Any]

    def ask(self, pictures: Sequence[Array], /) -> Iterable[Sequence[Array]]: ...

    def answer(self, said: Sequence[Array], height: int, width: int, /) -> Answer: ...


def check_classes(predictor: Asked, raw: Path, whose: str) -> None:
    """Raise ModelError unless the model was made for the classes of the table; `whose` names the model."""
    theirs = read_card(raw).codec.names
    if predictor.codec.names != theirs:
        raise ModelError(
            f"{whose}: made for the classes {', '.join(predictor.codec.names)}, "
            f"but {raw} has {', '.join(theirs)}; train on this data, or evaluate on the model's"
        )


def test_ids(splits: Path) -> list[str]:
    """The ids of the test split, sorted; raises ArtifactError where there are none."""
    test = sorted(i for i, split in read_splits(splits).items() if split == TEST)
    if not test:
        raise ArtifactError(
            f"{splits}: no picture is in the test split; add groups, or raise split.test and split again"
        )
    return test


def check_all_found(asked_for: Iterable[str], found: Iterable[str], raw: Path, splits: Path) -> None:
    """Raise ArtifactError when the table lacks a picture of the test split."""
    unknown = sorted(set(asked_for) - set(found))
    if unknown:
        raise ArtifactError(f"{splits}: test picture {unknown[0]!r} is not in {raw}; split this data again")


def answered(predictor: Asked, rows: Iterable[Row]) -> Iterator[tuple[Row, Judged, Sequence[Array]]]:
    """Each row with its picture, truth and prediction, and what the network said of its views; a batch at a time.

    Raises:
        ArtifactError: a row has no picture or no mask.
    """
    rows = iter(rows)
    while batch := list(islice(rows, BATCH)):
        pictures = [decode_rgb(_there(row, row.image)) for row in batch]
        for row, rgb_HW3, said in zip(batch, pictures, predictor.ask(pictures), strict=True):
            answer = predictor.answer(said, *rgb_HW3.shape[:2])
            instances_HW = None if row.instances is None else decode_instances(row.instances)
            truth_HW = decode_ids(_there(row, row.mask))
            yield row, Judged(rgb_HW3, truth_HW, answer.ids_HW, answer.probability_HW, instances_HW), said


def _there(row: Row, data: bytes | None) -> bytes:
    if data is None:
        raise ArtifactError(
            f"{row.source_file}: test picture {row.id!r} has no picture or no mask in the table; "
            "correct the source, or take it out of the test split"
        )
    return data
