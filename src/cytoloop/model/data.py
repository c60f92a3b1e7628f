"""Rows of the table to batches, streamed: memory holds a few batches however large the data.

The order of an epoch depends on (seed, epoch) alone: row groups of 16 are shuffled, and their rows
pass through a buffer from which they leave at random. A resumed training sees the very same batches.

A picture gives one view an epoch, however large it is: where pictures are cut into tiles, one at a random
place. So each counts alike, as it does in the scores. Taken in order, it gives the tiles that cover it.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import pyarrow.parquet as pq

from cytoloop.ahead import ahead
from cytoloop.artifacts import SPLITS, TRAIN, VAL, read_card, read_splits, sha256_file, shards
from cytoloop.errors import ArtifactError
from cytoloop.images.augment import Sample
from cytoloop.images.decode import decode_ids, decode_rgb
from cytoloop.model.preprocess import Corner, corners, cut, fit_mask, fit_picture, in_channels, mask_views, views
from cytoloop.params import AugmentParams, ModelParams
from cytoloop.variation import chance, vary

if TYPE_CHECKING:
    import tensorflow as tf

Array = np.ndarray[Any, Any]
Key = tuple[object, ...]
"""Tells one view of one epoch from all others: epoch and id."""
Vary = Callable[[Array, Array, Key], tuple[Array, Array]]
"""A variant of picture (H, W, 3) and mask (H, W), of the same size, that depends on the key alone."""
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
    tiles: int
    """Views of these rows when they are taken in order."""
    class_pixels: tuple[int, ...]
    """Pixels of each class in these rows."""


class _Encoded(NamedTuple):
    """One row, not yet decoded."""

    id: str
    image: bytes
    mask: bytes


class Share(NamedTuple):
    """What one of several workers reads of every batch: the `worker`-th of equal parts, in equal pieces."""

    worker: int = 0
    workers: int = 1
    pieces: int = 1
    """Pieces of the part, one for each of the worker's devices."""


WHOLE = Share()


class PictureStream:
    """The pictures with the given ids of one or more tables, as batches for a network.

    Args:
        tables: folders of tables, with the ids wanted from each (None: all).
        model: its picture size, channels and way to fit pictures.
        batch_size: views in a batch; the network's graph is built for it, so that a last partial
            batch is left out in training and kept in `in_order`.
        vary: varies each view of an `epoch`.

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
        self.pictures = sum(group.tiles for group in self._groups)
        """Views of a pass in order."""
        self.class_names = read_card(tables[0][0]).codec.names
        rows = sum(len(group.rows) for group in self._groups)
        if not rows:
            raise ArtifactError(f"{tables[0][0]}: none of its pictures is in the split asked for; see splits.csv")
        self.batch_size = min(batch_size, rows)
        self.steps = rows // self.batch_size
        self.class_pixels = tuple(map(sum, zip(*(group.class_pixels for group in self._groups), strict=True)))
        """Pixels of each class in all its pictures, at their own sizes."""

    def epoch(self, seed: int, epoch: int, share: Share = WHOLE) -> "tf.data.Dataset":
        """A shuffled pass: float32 (B, H, W, C) of 0..255 and uint8 (B, H, W), `steps` batches.

        The batches are the same whoever reads them; of a share, each batch gives `pieces` elements.
        """
        import tensorflow as tf

        size = self.batch_size // (share.workers * share.pieces)
        height, width = self._model.image_height, self._model.image_width
        spec = (
            tf.TensorSpec((size, height, width, self._model.image_channels), tf.uint8),
            tf.TensorSpec((size, height, width), tf.uint8),
        )
        stream = tf.data.Dataset.from_generator(lambda: self._shuffled(seed, epoch, share), output_signature=spec)
        stream = stream.apply(tf.data.experimental.assert_cardinality(self.steps * share.pieces))
        return stream.map(lambda picture, ids: (tf.cast(picture, tf.float32), ids)).prefetch(2)

    def _shuffled(self, seed: int, epoch: int, share: Share = WHOLE) -> Iterator[tuple[Array, Array]]:
        order = np.random.default_rng((seed, epoch))
        groups = [self._groups[i] for i in order.permutation(len(self._groups))]
        part = self.batch_size // share.workers
        rows = share_of(shuffle_buffer(_read(groups), BUFFER, order), self.batch_size, share)
        views = ahead(lambda row: self._anew(row, seed, epoch), rows, DECODERS, 4 * part)
        return itertools.islice(_batches(views, part // share.pieces), self.steps * share.pieces)

    def in_order(self) -> Iterator[tuple[Array, Array]]:
        """One pass in the table's order: uint8 (B, H, W, C) and (B, H, W); the last batch may be smaller."""
        views = ahead(self._views, _read(self._groups), DECODERS, 4 * self.batch_size)
        return _batches(itertools.chain.from_iterable(views), self.batch_size)

    def whole(self) -> Iterator[tuple[Array, Array]]:
        """The pictures as they are, in the table's order: uint8 (H, W, 3) and their masks (H, W)."""
        return ahead(lambda row: (decode_rgb(row.image), decode_ids(row.mask)), _read(self._groups), DECODERS, DECODERS)

    def _anew(self, row: _Encoded, seed: int, epoch: int) -> tuple[Array, Array]:
        """The row's view in that epoch: a tile elsewhere, and varied."""
        rgb_HW3, ids_HW = decode_rgb(row.image), decode_ids(row.mask)
        if self._model.fit == "resize":
            view = fit_picture(rgb_HW3, self._model), fit_mask(ids_HW, self._model)
        else:
            corner = _somewhere(ids_HW.shape, self._model, chance(seed, "tile", epoch, row.id))
            view = cut(rgb_HW3, corner, self._model), cut(ids_HW, corner, self._model)
        picture_HW3, fitted_ids_HW = view if self._vary is None else self._vary(*view, (epoch, row.id))
        return in_channels(picture_HW3, self._model), fitted_ids_HW

    def _views(self, row: _Encoded) -> list[tuple[Array, Array]]:
        """All views of the row."""
        pictures = views(decode_rgb(row.image), self._model)
        return list(zip(pictures, mask_views(decode_ids(row.mask), self._model), strict=True))


def _somewhere(shape: tuple[int, ...], model: ModelParams, place: np.random.Generator) -> Corner:
    room = shape[0] - model.image_height, shape[1] - model.image_width
    top, left = (int(place.integers(max(free, 0) + 1)) for free in room)
    return top, left


def _row_groups(folder: Path, ids: set[str] | None, model: ModelParams) -> Iterator[_RowGroup]:
    for shard in shards(folder):
        with pq.ParquetFile(shard) as file:
            for index in range(file.num_row_groups):
                found = file.read_row_group(index, columns=["id", "class_pixels", "height", "width"]).to_pylist()
                rows = tuple(i for i, row in enumerate(found) if ids is None or row["id"] in ids)
                if rows:
                    counts = zip(*(found[i]["class_pixels"] or [] for i in rows), strict=True)
                    tiles = sum(_tiles(found[i], model) for i in rows)
                    yield _RowGroup(shard, index, rows, tiles, tuple(map(sum, counts)))


def _tiles(row: dict[str, Any], model: ModelParams) -> int:
    return 1 if model.fit == "resize" else len(corners(row["height"], row["width"], model))


def _read(groups: Iterable[_RowGroup]) -> Iterator[_Encoded]:
    for group in groups:
        with pq.ParquetFile(group.shard) as file:
            table = file.read_row_group(group.index, columns=["id", "image", "mask"]).take(list(group.rows))
        yield from (_Encoded(**row) for row in table.to_pylist())


def shuffle_buffer(rows: Iterable[In], size: int, order: np.random.Generator) -> Iterator[In]:
    """The rows, each leaving a buffer of that size at random."""
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


def share_of(rows: Iterable[In], batch_size: int, share: Share) -> Iterator[In]:
    """Those rows of each batch that fall to the worker: a run of batch_size / workers of them.

    >>> list(share_of("abcdefgh", 4, Share(worker=1, workers=2)))
    ['c', 'd', 'g', 'h']
    """
    part = batch_size // share.workers
    return (row for place, row in enumerate(rows) if place % batch_size // part == share.worker)


def _batches(rows: Iterable[tuple[Array, Array]], size: int) -> Iterator[tuple[Array, Array]]:
    rows = iter(rows)
    while batch := list(itertools.islice(rows, size)):
        pictures, masks = zip(*batch, strict=True)
        yield np.stack(pictures), np.stack(masks)


class TrainingFolders(NamedTuple):
    """Where training reads: the table, its splits, and the augmented copies."""

    raw: Path
    splits: Path
    augmented: Path

    def digests(self) -> dict[str, str]:
        """What is in them, for provenance."""
        return {
            "raw": read_card(self.raw).digest,
            "splits": sha256_file(self.splits / SPLITS),
            "augmented": read_card(self.augmented).digest,
        }


def training_streams(
    folders: TrainingFolders, model: ModelParams, batch_size: int, augment: AugmentParams, at_most: int | None = None
) -> tuple[PictureStream, PictureStream]:
    """The training stream (train rows and augmented copies, varied anew if `augment.online`) and the val stream.

    With `at_most`, that many train and val pictures, evenly spread, and no copies: for a quick look.
    """
    assignment = read_splits(folders.splits)
    ids = {name: sorted(i for i, split in assignment.items() if split == name) for name in (TRAIN, VAL)}
    if at_most is not None:
        ids = {name: found[:: max(1, math.ceil(len(found) / at_most))] for name, found in ids.items()}
    tables: list[tuple[Path, set[str] | None]] = [(folders.raw, set(ids[TRAIN]))]
    if at_most is None and read_card(folders.augmented).rows:
        tables.append((folders.augmented, None))
    return (
        PictureStream(tables, model, batch_size, online(augment) if augment.online else None),
        PictureStream([(folders.raw, set(ids[VAL]))], model, batch_size),
    )


def online(augment: AugmentParams) -> Vary:
    """Varies views as the params allow, by a chance that (augment.seed, key) decides."""

    def vary_view(picture_HW3: Array, ids_HW: Array, key: Key) -> tuple[Array, Array]:
        varied = vary(Sample(picture_HW3, ids_HW), augment, chance(augment.seed, *key))
        return varied.image_HWC, varied.mask_HW

    return vary_view


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
