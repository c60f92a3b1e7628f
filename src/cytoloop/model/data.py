"""Rows of the table to batches, streamed: memory holds a few batches however large the data.

The order of an epoch depends on (seed, epoch) alone: row groups of 16 are shuffled, and their rows
pass through a buffer from which they leave at random. A resumed training sees the very same batches.

A row is one view where pictures are resized, and as many as cover it where they are cut into tiles:
at random places in an epoch, on a grid when taken in order.
"""

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import pyarrow.parquet as pq

from cytoloop.ahead import ahead
from cytoloop.artifacts import TRAIN, VAL, read_card, read_splits, shards
from cytoloop.errors import ArtifactError
from cytoloop.images.decode import decode_ids, decode_rgb
from cytoloop.model.preprocess import Corner, corners, cut, fit_mask, fit_picture, in_channels
from cytoloop.params import ModelParams

if TYPE_CHECKING:
    import tensorflow as tf

Array = np.ndarray[Any, Any]
Vary = Callable[[Array, Array, np.random.Generator], tuple[Array, Array]]
"""A variant of picture (H, W, 3) and mask (H, W), of the same size, by chance."""
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
    views: int
    class_pixels: tuple[int, ...]
    """Pixels of each class in these rows."""


class _View(NamedTuple):
    """One view of one row, not yet decoded."""

    id: str
    image: bytes
    mask: bytes
    number: int
    corner: Corner | None
    """Where the tile is cut; None: the picture is resized."""


class PictureStream:
    """The pictures with the given ids of one or more tables, as batches for a network.

    Args:
        tables: folders of tables, with the ids wanted from each (None: all).
        model: its picture size, channels and way to fit pictures.
        batch_size: views in a batch; the network's graph is built for it, so that a last partial
            batch is left out in training and kept in `in_order`.
        vary: varies each view in `epoch` anew, by a chance that (seed, epoch, id, view) decides.

    Raises:
        ArtifactError: no row has a wanted id.
    """

    def __init__(
        self,
        tables: Sequence[tuple[Path, set[str] | None]],
        model: ModelParams,
        batch_size: int,
        vary: Vary | None = None,
    ) -> None:
        self._groups = [group for folder, ids in tables for group in _row_groups(folder, ids, model)]
        self._model = model
        self._vary = vary
        self.pictures = sum(group.views for group in self._groups)
        """Views in one pass."""
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
        shuffled = _shuffle_buffer(_read(groups, self._model), BUFFER, order)

        def decode(view: _View) -> tuple[Array, Array]:
            return self._by_chance(view, _chance(seed, epoch, view))

        decoded = ahead(decode, shuffled, DECODERS, 4 * self.batch_size)
        return itertools.islice(_batches(decoded, self.batch_size), self.steps)

    def in_order(self) -> Iterator[tuple[Array, Array]]:
        """One pass in the table's order: uint8 (B, H, W, C) and (B, H, W); the last batch may be smaller."""
        decoded = ahead(self._decode, _read(self._groups, self._model), DECODERS, 4 * self.batch_size)
        return _batches(decoded, self.batch_size)

    def _by_chance(self, view: _View, chance: np.random.Generator) -> tuple[Array, Array]:
        rgb_HW3, ids_HW = decode_rgb(view.image), decode_ids(view.mask)
        if view.corner is not None:
            room = (rgb_HW3.shape[0] - self._model.image_height, rgb_HW3.shape[1] - self._model.image_width)
            top, left = (int(chance.integers(max(free, 0) + 1)) for free in room)
            view = view._replace(corner=(top, left))
        return self._fit(rgb_HW3, ids_HW, view.corner, chance)

    def _decode(self, view: _View) -> tuple[Array, Array]:
        return self._fit(decode_rgb(view.image), decode_ids(view.mask), view.corner, None)

    def _fit(
        self, rgb_HW3: Array, ids_HW: Array, corner: Corner | None, chance: np.random.Generator | None
    ) -> tuple[Array, Array]:
        fitted = (
            (fit_picture(rgb_HW3, self._model), fit_mask(ids_HW, self._model))
            if corner is None
            else (cut(rgb_HW3, corner, self._model), cut(ids_HW, corner, self._model))
        )
        if self._vary is not None and chance is not None:
            fitted = self._vary(*fitted, chance)
        return in_channels(fitted[0], self._model), fitted[1]


def _chance(seed: int, epoch: int, view: _View) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}\0{epoch}\0{view.id}\0{view.number}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16]))


def _row_groups(folder: Path, ids: set[str] | None, model: ModelParams) -> Iterator[_RowGroup]:
    for shard in shards(folder):
        with pq.ParquetFile(shard) as file:
            for index in range(file.num_row_groups):
                found = file.read_row_group(index, columns=["id", "class_pixels", "height", "width"]).to_pylist()
                rows = tuple(i for i, row in enumerate(found) if ids is None or row["id"] in ids)
                if rows:
                    counts = zip(*(found[i]["class_pixels"] or [] for i in rows), strict=True)
                    views = sum(len(_corners(found[i], model)) for i in rows)
                    yield _RowGroup(shard, index, rows, views, tuple(map(sum, counts)))


def _corners(row: dict[str, Any], model: ModelParams) -> Sequence[Corner | None]:
    return [None] if model.fit == "resize" else corners(row["height"], row["width"], model, overlap=0)


def _read(groups: Iterable[_RowGroup], model: ModelParams) -> Iterator[_View]:
    for group in groups:
        with pq.ParquetFile(group.shard) as file:
            columns = ["id", "image", "mask", "height", "width"]
            table = file.read_row_group(group.index, columns=columns).take(list(group.rows))
        for row in table.to_pylist():
            for number, corner in enumerate(_corners(row, model)):
                yield _View(row["id"], row["image"], row["mask"], number, corner)


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


def standardized(model: ModelParams, stream: PictureStream) -> ModelParams:
    """The model with its channels' mean and deviation over the stream, where it asks for them unmeasured."""
    if not model.standardize or model.channel_mean is not None:
        return model
    sums, squares, pixels = np.zeros(model.image_channels), np.zeros(model.image_channels), 0
    for pictures, _ in stream.in_order():
        values_NC = pictures.reshape(-1, model.image_channels).astype(np.float64)
        sums, squares, pixels = sums + values_NC.sum(0), squares + (values_NC**2).sum(0), pixels + len(values_NC)
    mean = sums / pixels
    std = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
    measured = {"channel_mean": tuple(np.round(mean, 4).tolist()), "channel_std": tuple(np.round(std, 4).tolist())}
    return model.model_copy(update=measured)
