"""Labelled rows of the table to batches for the classifier, streamed.

Only rows with a label and a readable picture count. The order of an epoch, and how each picture is
turned, depend on (seed, epoch) alone.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from cytoloop.ahead import ahead
from cytoloop.artifacts import TEST, TRAIN, VAL, read_facts, read_splits, shards
from cytoloop.errors import ArtifactError
from cytoloop.images.decode import decode_rgb
from cytoloop.model.classifier_network import Scaling
from cytoloop.model.data import DECODERS, shuffle_buffer

Array = np.ndarray[Any, Any]

BUFFER = 512
"""Encoded pictures in the shuffle buffer."""


@dataclass(frozen=True)
class Cohort:
    """The labelled pictures of a table by split, and what is known of them without decoding any."""

    raw: Path
    splits: Path
    names: tuple[str, ...]
    """The labels that occur, in alphabetical order; a class is a place in it."""
    classes: Mapping[str, Mapping[str, int]]
    """Of train, val and test: picture id -> class."""
    scaling: Scaling
    """Over the training pictures, at their own sizes."""

    def counts(self, split: str) -> tuple[int, ...]:
        """Pictures of each class in a split."""
        found = Counter(self.classes[split].values())
        return tuple(found[place] for place in range(len(self.names)))


def read_cohort(raw: Path, splits: Path) -> Cohort:
    """The labelled pictures of a table.

    Raises:
        ArtifactError: there are fewer than two labels, or a split has no labelled picture.
    """
    facts = read_facts(raw, ["id", "label", "width", "height", "mean_rgb", "std_rgb"])
    facts = facts.dropna(subset=["label", "mean_rgb"])
    names = tuple(sorted(facts["label"].unique()))
    if len(names) < 2:
        raise ArtifactError(
            f"{raw}: {len(names)} label(s) in the column `label`; a classifier needs two or more. "
            "Ingest a source whose pictures are labelled (recipe wbc_classes)"
        )
    facts["split"] = facts["id"].map(read_splits(splits))
    classes = {name: _classes(facts[facts["split"] == name], names) for name in (TRAIN, VAL, TEST)}
    empty = [name for name, found in classes.items() if not found]
    if empty:
        raise ArtifactError(
            f"{splits}: no labelled picture in {', '.join(empty)}; raise split.{empty[0]} and split again"
        )
    return Cohort(raw, splits, names, classes, _scaling(facts[facts["split"] == TRAIN]))


def _classes(facts: Any, names: tuple[str, ...]) -> dict[str, int]:
    return {id_: names.index(label) for id_, label in zip(facts["id"], facts["label"], strict=True)}


def _scaling(facts: Any) -> Scaling:
    """Mean and deviation over all pixels, of those of each picture: E[x^2] = std^2 + mean^2."""
    weights_N = (facts["width"] * facts["height"]).to_numpy(float)
    mean_N3, std_N3 = np.stack(facts["mean_rgb"]).astype(float), np.stack(facts["std_rgb"]).astype(float)
    mean_3 = np.average(mean_N3, axis=0, weights=weights_N)
    squares_3 = np.average(std_N3**2 + mean_N3**2, axis=0, weights=weights_N)
    std_3 = np.sqrt(np.maximum(squares_3 - mean_3**2, 0))
    return Scaling(tuple(np.round(mean_3, 4).tolist()), tuple(np.round(std_3, 4).tolist()))


@dataclass(frozen=True)
class _Piece:
    """The wanted rows of one row group."""

    shard: Path
    index: int
    rows: tuple[int, ...]
    classes: tuple[int, ...]


class LabelledStream:
    """The pictures of one split as batches.

    Args:
        cohort: the pictures.
        split: train, val or test.
        side: the square that each picture is resized to, pixels.
        batch_size: pictures in a batch, at most: the batches of a pass are as even as can be, so that
            none is so small that its statistics are noise.
    """

    def __init__(self, cohort: Cohort, split: str, side: int, batch_size: int) -> None:
        classes = cohort.classes[split]
        self._pieces = list(_pieces(cohort.raw, classes))
        self._side = side
        self.pictures = len(classes)
        self.steps = -(-self.pictures // batch_size)
        self.batch_size = -(-self.pictures // self.steps)

    def epoch(self, seed: int, epoch: int, turned: bool) -> Iterator[tuple[Array, Array]]:
        """A shuffled pass: uint8 (B, S, S, 3) and int64 (B,) classes; mirrored and turned at random, if so asked."""
        chance = np.random.default_rng((seed, epoch))
        pieces = [self._pieces[i] for i in chance.permutation(len(self._pieces))]
        turns = np.random.default_rng((seed, epoch, 1)).integers(8, size=self.pictures)
        pictures = self._decoded(shuffle_buffer(_read(pieces), BUFFER, chance))
        varied = ((turn(rgb, way) if turned else rgb, place) for (rgb, place), way in zip(pictures, turns, strict=True))
        return _batches(varied, self.batch_size)

    def in_order(self) -> Iterator[tuple[Array, Array]]:
        """One pass in the table's order, as `epoch` without chance."""
        return _batches(self._decoded(_read(self._pieces)), self.batch_size)

    def _decoded(self, rows: Iterable[tuple[bytes, int]]) -> Iterator[tuple[Array, int]]:
        def decode(row: tuple[bytes, int]) -> tuple[Array, int]:
            return squared(decode_rgb(row[0]), self._side), row[1]

        return ahead(decode, rows, DECODERS, 4 * DECODERS)


def squared(rgb_HW3: Array, side: int) -> Array:
    """uint8 (side, side, 3): the whole picture, area-averaged when shrunk, linear when grown."""
    if rgb_HW3.shape[:2] == (side, side):
        return rgb_HW3
    shrinks = rgb_HW3.shape[0] * rgb_HW3.shape[1] > side * side
    return np.asarray(cv2.resize(rgb_HW3, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR))


def turn(picture_SS3: Array, way: int) -> Array:
    """One of the eight ways to lay a square: mirrored from 4 on, and turned by `way` quarters."""
    return np.rot90(picture_SS3[:, ::-1] if way >= 4 else picture_SS3, way % 4)


def _pieces(raw: Path, classes: Mapping[str, int]) -> Iterator[_Piece]:
    for shard in shards(raw):
        with pq.ParquetFile(shard) as file:
            for index in range(file.num_row_groups):
                ids = file.read_row_group(index, columns=["id"])["id"].to_pylist()
                rows = tuple(row for row, id_ in enumerate(ids) if id_ in classes)
                if rows:
                    yield _Piece(shard, index, rows, tuple(classes[ids[row]] for row in rows))


def _read(pieces: Iterable[_Piece]) -> Iterator[tuple[bytes, int]]:
    for piece in pieces:
        with pq.ParquetFile(piece.shard) as file:
            images = file.read_row_group(piece.index, columns=["image"])["image"].take(list(piece.rows))
        yield from zip(images.to_pylist(), piece.classes, strict=True)


def _batches(rows: Iterable[tuple[Array, int]], size: int) -> Iterator[tuple[Array, Array]]:
    rows = iter(rows)
    while batch := list(itertools.islice(rows, size)):
        pictures, classes = zip(*batch, strict=True)
        yield np.stack(pictures), np.array(classes)
