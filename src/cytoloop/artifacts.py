"""What is inside every artifact folder: file names, and reading and writing of the table.

A dataset is a table: one Parquet row a picture, in shards, with a card beside them::

    raw/dataset.json            the card: classes, licence, citation, counts, digest
    raw/part-00000.parquet      the rows
"""

import csv
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cytoloop.beside import beside
from cytoloop.errors import ArtifactError
from cytoloop.images.codec import LabelCodec

CARD = "dataset.json"  # raw, augmented
RECEIPT = "receipt.json"  # validated, registration
VALIDATION_PAGE = "index.html"  # validated: our own page
SPLITS = "splits.csv"  # splits: id, group, split
SPLITS_SUMMARY = "splits.json"
BEST_PARAMS = "best_params.json"  # best_params
TRIALS = "trials.csv"
SEARCH_PAGE = "search.html"
BUNDLE = "bundle.json"  # model
ARRAYS = "arrays.npz"
HISTORY = "history.csv"
RUN = "run.json"  # what the training's run in MLflow holds
METRICS = "metrics.json"  # evaluation
PER_PICTURE = "per_picture.csv"
REPORT = "report.html"
LINEAGE = "lineage.json"
PROFILE = "profile.json"  # evaluation: what the model was trained on
PREDICTIONS = "predictions.csv"  # predictions
PARAMS = "params.json"  # all: the sections of params.yaml that the step was given

TRAIN, VAL, TEST, EXCLUDED = "train", "val", "test", "excluded"

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("source_file", pa.string(), nullable=False),
        pa.field("mask_file", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("mode", pa.string()),
        pa.field("mask_width", pa.int32()),
        pa.field("mask_height", pa.int32()),
        pa.field("image", pa.binary()),
        pa.field("mask", pa.binary()),
        pa.field("instances", pa.binary()),
        pa.field("class_pixels", pa.list_(pa.int64())),
        pa.field("unknown_pixels", pa.int64()),
        pa.field("unknown_colors", pa.string()),
        pa.field("phash", pa.binary(32)),
        pa.field("mean_rgb", pa.list_(pa.float32())),
        pa.field("std_rgb", pa.list_(pa.float32())),
        pa.field("label", pa.string()),
        pa.field("given_split", pa.string()),
        pa.field("origin", pa.string()),
        pa.field("problem", pa.string()),
    ]
)
PIXEL_COLUMNS = ("image", "mask", "instances")
FACT_COLUMNS = tuple(name for name in SCHEMA.names if name not in PIXEL_COLUMNS)


@dataclass(frozen=True)
class Row:
    """One picture of a dataset, with its mask and the facts about both.

    A picture or mask that is missing or damaged still has its row, with what is known of it and
    `problem` set: ingest records, validate judges.
    """

    id: str
    """Unique in the table."""
    group: str
    """Patient, slide or original picture: never divided between splits."""
    source_file: str
    """The picture's path inside its source."""
    mask_file: str | None = None
    sha256: str | None = None
    """Of the original picture file's bytes."""
    width: int | None = None
    height: int | None = None
    mode: str | None = None
    """Pillow's name of the original file's mode (RGB, RGBA, L, I;16, ...)."""
    mask_width: int | None = None
    mask_height: int | None = None
    image: bytes | None = None
    """PNG, 8-bit RGB."""
    mask: bytes | None = None
    """PNG, indexed palette; a pixel's value is its class id."""
    instances: bytes | None = None
    """PNG, 16-bit grey; 0 is no object, or null where the source has no instances."""
    class_pixels: list[int] | None = None
    """Pixels of each class, in the order of the codec."""
    unknown_pixels: int | None = None
    """Mask pixels whose colour is no class's."""
    unknown_colors: str | None = None
    """The most frequent unknown colours, for people to read."""
    phash: bytes | None = None
    """256-bit perceptual hash of the picture."""
    mean_rgb: list[float] | None = None
    """Mean of each channel, 0..255."""
    std_rgb: list[float] | None = None
    label: str | None = None
    """Class of the whole picture, where the source has one."""
    given_split: str | None = None
    """train, val or test, where the source comes divided."""
    origin: str | None = None
    """Augmented rows: the id of the picture that this is a variant of."""
    problem: str | None = None
    """What is wrong with the file, for people to read; null when nothing is."""


@dataclass(frozen=True)
class Card:
    """What a dataset is: name, classes, whose it is, and a digest of its rows."""

    name: str
    classes: list[dict[str, Any]]
    licence: str
    citation: str
    rows: int = 0
    groups: int = 0
    digest: str = ""

    @property
    def codec(self) -> LabelCodec:
        return LabelCodec.from_json(self.classes)


@dataclass(frozen=True)
class Shard:
    """What a table has to know of the rows in one of its files: ids, groups and digests, row by row."""

    ids: list[str]
    groups: list[str]
    digests: list[str]


def write_shard(path: Path, rows: Sequence[Row]) -> Shard:
    """Write rows to one Parquet file."""
    columns = {name: [getattr(row, name) for row in rows] for name in SCHEMA.names}
    pq.write_table(
        pa.table(columns, schema=SCHEMA),
        path,
        row_group_size=16,  # small groups: a reader that streams holds little
        compression="none",  # the pictures are compressed already,
        use_dictionary=list(FACT_COLUMNS),  # ... never the same
        write_statistics=list(FACT_COLUMNS),  # ... and in no order
    )
    return Shard([row.id for row in rows], [row.group for row in rows], [_row_digest(row).hex() for row in rows])


class TableWriter:
    """Writes rows to shards as they come; memory holds one shard at most.

    Use as a context manager; the card is written last, so that a folder without one is unfinished.
    """

    def __init__(self, folder: Path, card: Card, rows_per_shard: int = 256) -> None:
        self._folder, self._card, self._rows_per_shard = folder, card, rows_per_shard
        self._pending: list[Row] = []
        self._shards = 0
        self._ids: set[str] = set()
        self._groups: set[str] = set()
        self._digest = hashlib.sha256()

    def __enter__(self) -> "TableWriter":
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    @property
    def rows(self) -> int:
        """Rows so far."""
        return len(self._ids)

    @property
    def groups(self) -> int:
        """Groups so far."""
        return len(self._groups)

    def write(self, row: Row) -> None:
        """Add a row; raises ArtifactError when its id was already written."""
        self._add(row.id, row.group, row.source_file)
        self._pending.append(row)
        if len(self._pending) >= self._rows_per_shard:
            self._flush()

    def adopt(self, path: Path, shard: Shard) -> None:
        """Move in a file of `write_shard` as the next shard; raises ArtifactError as `write`."""
        if self._pending:
            self._flush()
        for name, group in zip(shard.ids, shard.groups, strict=True):
            self._add(name, group, str(path))
        shutil.move(path, self._next())
        self._seal(shard)

    def _add(self, name: str, group: str, where: str) -> None:
        if name in self._ids:
            raise ArtifactError(f"{where}: a picture with the id {name!r} was already ingested")
        self._ids.add(name)
        self._groups.add(group)

    def _next(self) -> Path:
        return self._folder / f"part-{self._shards:05d}.parquet"

    def _flush(self) -> None:
        self._seal(write_shard(self._next(), self._pending))
        self._pending.clear()

    def _seal(self, shard: Shard) -> None:
        self._digest.update(bytes.fromhex("".join(shard.digests)))
        self._shards += 1

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            return
        if self._pending or not self._shards:
            self._flush()
        counts = {"rows": self.rows, "groups": self.groups, "digest": self._digest.hexdigest()}
        write_json(self._folder / CARD, {**asdict(self._card), **counts})


def _row_digest(row: Row) -> bytes:
    digest = hashlib.sha256()
    for field in fields(row):
        value = getattr(row, field.name)
        digest.update(value if isinstance(value, bytes) else repr(value).encode())
        digest.update(b"\0")
    return digest.digest()


def read_card(folder: Path) -> Card:
    """The card of a table; raises ArtifactError when the folder is no finished table."""
    return Card(**read_json(folder / CARD))


def shards(folder: Path) -> list[Path]:
    """The table's shards in order."""
    found = sorted(folder.glob("part-*.parquet"))
    if not found:
        raise ArtifactError(f"{folder}: no table here (part-*.parquet); run the step that writes it")
    return found


def read_facts(folder: Path, columns: Sequence[str] = FACT_COLUMNS) -> Any:
    """A pandas DataFrame of fact columns (no pixels), one row a picture, in the table's order."""
    tables = [pq.read_table(shard, columns=list(columns)) for shard in shards(folder)]
    return pa.concat_tables(tables).to_pandas()


def read_rows(folder: Path, ids: Iterable[str] | None = None, columns: Sequence[str] = SCHEMA.names) -> Iterator[Row]:
    """Stream rows in the table's order, all or those with the given ids; memory holds 16 rows."""
    wanted = None if ids is None else set(ids)
    names = list(dict.fromkeys(["id", "group", "source_file", *columns]))
    for shard in shards(folder):
        with pq.ParquetFile(shard) as file:
            for batch in file.iter_batches(batch_size=16, columns=names):
                for values in batch.to_pylist():
                    if wanted is None or values["id"] in wanted:
                        yield Row(**values)


def read_splits(folder: Path) -> dict[str, str]:
    """id -> train, val, test or excluded; raises ArtifactError when the file is not there."""
    path = folder / SPLITS
    if not path.is_file():
        raise ArtifactError(f"{path}: not found; run `cytoloop split` first")
    with path.open(newline="", encoding="utf-8") as file:
        return {line["id"]: line["split"] for line in csv.DictReader(file)}


def read_json(path: Path) -> Any:
    """A JSON file's content; raises ArtifactError when it is not there."""
    if not path.is_file():
        raise ArtifactError(f"{path}: not found; run the step that writes it, or give its folder")
    return json.loads(path.read_text("utf-8"))


def read_params(folder: Path) -> dict[str, Any]:
    """The sections of params.yaml that an artifact was made with, by name; empty where none were recorded."""
    return dict(read_json(folder / PARAMS)) if (folder / PARAMS).is_file() else {}


def write_json(path: Path, value: Any) -> None:
    """Sorted, indented JSON, written beside and renamed."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with beside(path) as part:
        part.write_text(f"{text}\n", "utf-8")


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested mappings by dotted name, in the mappings' order.

    >>> flat({"b": {"c": [1, 2]}, "a": None})
    {'b.c': [1, 2], 'a': None}
    """
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def write_csv(path: Path, header: Sequence[str] | None, lines: Iterable[Sequence[Any]]) -> None:
    """A table for people; a text that a spreadsheet would run as a formula gets a quote before it."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([header] if header else [])
        writer.writerows([_harmless(cell) for cell in line] for line in lines)


def _harmless(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
