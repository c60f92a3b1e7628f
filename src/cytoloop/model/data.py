"""Rows of the table to batches, streamed: memory holds a few batches however large the data.

The order of an epoch depends on (seed, epoch) alone: row groups of 16 are shuffled, and their rows
pass through a buffer from which they leave at random. A resumed training sees the very same batches.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow.parquet as pq

from cytoloop.ahead import ahead
from cytoloop.artifacts import TRAIN, VAL, read_card, read_splits, shards
from cytoloop.errors import ArtifactError
from cytoloop.images.decode import decode_ids, decode_rgb
from cytoloop.model.preprocess import fit_mask, fit_picture
from cytoloop.params import ModelParams

if TYPE_CHECKING:
    import tensorflow as tf

Array = np.ndarray[Any, Any]
In = TypeVar("In")

BUFFER = 128
"""Encoded rows in the shuffle buffer."""
DECODERS = 2
"""Threads that decode ahead of the training."""


@dataclass(frozen=True)
class _RowGroup:
    shard: Path
    index: int
    rows: tuple[int, ...]
    class_pixels: tuple[int, ...]
    """Pixels of each class in these rows."""


class PictureStream:
    """The pictures with the given ids of one or more tables, as batches for a network.

    Args:
        tables: folders of tables, with the ids wanted from each (None: all).
        model: its picture size and channels.
        batch_size: pictures in a batch; the network's graph is built for it, so that a last partial
            batch is left out in training and kept in `in_order`.

    Raises:
        ArtifactError: no row has a wanted id.
    """

    def __init__(self, tables: Sequence[tuple[Path, set[str] | None]], model: ModelParams, batch_size: int) -> None:
        self._groups = [group for folder, ids in tables for group in _row_groups(folder, ids)]
        self._model = model
        self.pictures = sum(len(group.rows) for group in self._groups)
        if not self.pictures:
            raise ArtifactError(f"{tables[0][0]}: none of its pictures is in the split asked for; see splits.csv")
        self.batch_size = min(batch_size, self.pictures)
        self.steps = self.pictures // self.batch_size
        self.class_pixels = tuple(map(sum, zip(*(group.class_pixels for group in self._groups), strict=True)))
        """Pixels of each class in all its pictures, at their own sizes."""

    def epoch(self, seed: int, epoch: int) -> "tf.data.Dataset":
        """A shuffled pass: float32 (B, H, W, C) of 0..255 and uint8 (B, H, W), `steps` batches."""
        import tensorflow as tf

        height, width = self._model.image_height, self._model.image_width
        spec = (
            tf.TensorSpec((self.batch_size, height, width, self._model.image_channels), tf.uint8),
            tf.TensorSpec((self.batch_size, height, width), tf.uint8),
        )
        stream = tf.data.Dataset.from_generator(lambda: self._shuffled(seed, epoch), output_signature=spec)
        stream = stream.apply(tf.data.experimental.assert_cardinality(self.steps))
        return stream.map(lambda picture, ids: (tf.cast(picture, tf.float32), ids)).prefetch(2)

    def _shuffled(self, seed: int, epoch: int) -> Iterator[tuple[Array, Array]]:
        order = np.random.default_rng((seed, epoch))
        groups = [self._groups[i] for i in order.permutation(len(self._groups))]
        rows = _shuffle_buffer(_read(groups), BUFFER, order)
        return itertools.islice(_batches(self._decode(rows), self.batch_size), self.steps)

    def in_order(self) -> Iterator[tuple[Array, Array]]:
        """One pass in the table's order: uint8 (B, H, W, C) and (B, H, W); the last batch may be smaller."""
        return _batches(self._decode(_read(self._groups)), self.batch_size)

    def _decode(self, rows: Iterable[tuple[bytes, bytes]]) -> Iterator[tuple[Array, Array]]:
        def decode(row: tuple[bytes, bytes]) -> tuple[Array, Array]:
            return fit_picture(decode_rgb(row[0]), self._model), fit_mask(decode_ids(row[1]), self._model)

        return ahead(decode, rows, DECODERS, 4 * self.batch_size)


def _row_groups(folder: Path, ids: set[str] | None) -> Iterator[_RowGroup]:
    for shard in shards(folder):
        with pq.ParquetFile(shard) as file:
            for index in range(file.num_row_groups):
                found = file.read_row_group(index, columns=["id", "class_pixels"]).to_pylist()
                rows = tuple(i for i, row in enumerate(found) if ids is None or row["id"] in ids)
                if rows:
                    counts = zip(*(found[i]["class_pixels"] or [] for i in rows), strict=True)
                    yield _RowGroup(shard, index, rows, tuple(map(sum, counts)))


def _read(groups: Iterable[_RowGroup]) -> Iterator[tuple[bytes, bytes]]:
    for group in groups:
        with pq.ParquetFile(group.shard) as file:
            table = file.read_row_group(group.index, columns=["image", "mask"]).take(list(group.rows))
        yield from zip(table["image"].to_pylist(), table["mask"].to_pylist(), strict=True)


def _shuffle_buffer(rows: Iterable[In], size: int, order: np.random.Generator) -> Iterator[In]:
    buffer: list[In] = []
    for row in rows:
        if len(buffer) < size:
            buffer.append(row)
            continue
        leaving = int(order.integers(size))
        yield buffer[leaving]
        buffer[leaving] = row
    for i in order.permutation(len(buffer)):
        yield buffer[i]


def _batches(rows: Iterable[tuple[Array, Array]], size: int) -> Iterator[tuple[Array, Array]]:
    rows = iter(rows)
    while batch := list(itertools.islice(rows, size)):
        pictures, masks = zip(*batch, strict=True)
        yield np.stack(pictures), np.stack(masks)


def training_streams(
    raw: Path, splits: Path, augmented: Path, model: ModelParams, batch_size: int, at_most: int | None = None
) -> tuple[PictureStream, PictureStream]:
    """The training stream (train rows and augmented copies) and the val stream.

    With `at_most`, that many train and val pictures, evenly spread, and no copies: for a quick look.
    """
    assignment = read_splits(splits)
    ids = {name: sorted(i for i, split in assignment.items() if split == name) for name in (TRAIN, VAL)}
    if at_most is not None:
        ids = {name: found[:: max(1, math.ceil(len(found) / at_most))] for name, found in ids.items()}
    tables: list[tuple[Path, set[str] | None]] = [(raw, set(ids[TRAIN]))]
    if at_most is None and read_card(augmented).rows:
        tables.append((augmented, None))
    return PictureStream(tables, model, batch_size), PictureStream([(raw, set(ids[VAL]))], model, batch_size)
