"""Masks for many pictures, divided over workers: each predicts the shard of the pictures that falls to it.

What a worker writes under the output address::

    masks/<picture>.png                   indexed PNG, class ids as values
    overlays/<picture>.png                the picture with the mask laid over it
    predictions-<shard>-of-<shards>.csv   a line a picture and class, with what it was made of
    unreadable-<shard>-of-<shards>.csv    the pictures that cannot be read, and why
"""

import csv
import hashlib
import shutil
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cytoloop.ahead import ahead
from cytoloop.artifacts import write_csv
from cytoloop.errors import CytoloopError, SourceError
from cytoloop.images.decode import SUFFIXES, UnreadablePicture, decode_rgb, encode_rgb_png
from cytoloop.predictions import AREAS, BATCH, MAX_PIXELS, areas, paint
from cytoloop.sources.tree import JUNK
from cytoloop.storage import File, Files, files_at

if TYPE_CHECKING:
    from cytoloop.model.bundle import Bundle
    from cytoloop.model.predict import Predictor

SAVE_SECONDS = 60
"""Between two writings of the tables: the work that a killed worker loses at most."""
MAX_BYTES = 8 * MAX_PIXELS
"""Of a picture's file: four channels of 16 bits, not compressed."""
MADE_OF = ("etag", "model_digest", "overlay")
"""Columns of the table beside AREAS: version of the picture, model, opacity of the overlay."""


def predict_shard(
    model_uri: str, images: str, output: str, shard: int, shards: int, overlay: float
) -> dict[str, float]:
    """Predict one shard of the pictures under an address.

    A picture's shard depends on its name alone. What the shard's table says was made of the same picture
    by the same model and with the same opacity is not made again. Memory holds a few batches and the table.

    Args:
        model_uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, or a bundle's folder.
        images: s3://bucket/prefix, or a folder; pictures in folders below it count.
        output: s3://bucket/prefix, or a folder, not inside `images`.
        shard: 0 .. shards - 1.
        shards: workers over which the pictures are divided.
        overlay: opacity of the mask in overlays, 0..1.

    Returns:
        How many pictures of the shard have masks, how many of these were predicted now, how many are unreadable.

    Raises:
        SourceError: there is no picture; none of the shard can be read (its tables are written all the same);
            or as `files_at`.
        ModelError: there is no such model, or it is damaged.
        CytoloopError: no such shard or opacity, or the output lies inside the images.
    """
    _refuse_nonsense(images, output, shard, shards, overlay)
    source = files_at(images)
    pictures = _of_shard(source, images, shard, shards)
    bundle = load_bundle(model_uri)
    tables = _Tables(files_at(output), f"{shard}-of-{shards}", bundle.file.model_digest, overlay)
    tables.read(pictures)
    missing = [picture for picture in pictures if picture.name not in tables.areas]
    if missing:
        _predict(bundle, source, missing, tables)
    tables.save()
    if pictures and not tables.areas:
        first = min(tables.unreadable)
        raise SourceError(
            f"{images}: none of the {len(pictures)} pictures of shard {shard} can be read, {first} for one: "
            f"{tables.unreadable[first]}; the others are in {output.rstrip('/')}/{tables.name('unreadable')}"
        )
    numbers = {"pictures": len(tables.areas), "predicted": len(missing) - len(tables.unreadable)}
    return {name: float(number) for name, number in {**numbers, "unreadable": len(tables.unreadable)}.items()}


def load_bundle(model_uri: str) -> "Bundle":
    """The bundle in a folder, or of `models:/NAME@ALIAS` or `models:/NAME/3`; raises ModelError."""
    from cytoloop.model.bundle import read_bundle
    from cytoloop.registry import fetch

    if not model_uri.startswith("models:/"):
        return read_bundle(Path(model_uri))
    with tempfile.TemporaryDirectory() as folder:
        return read_bundle(fetch(model_uri, Path(folder)))


def _refuse_nonsense(images: str, output: str, shard: int, shards: int, overlay: float) -> None:
    if not 0 <= shard < shards:
        raise CytoloopError(f"shard {shard} of {shards}: no such shard; allowed: 0 to {shards - 1}")
    if not 0 <= overlay <= 1:
        raise CytoloopError(f"overlay {overlay:g}: not an opacity; allowed: 0 to 1")
    if _absolute(output).startswith(_absolute(images)):
        raise CytoloopError(f"{output}: lies inside {images}, where masks would be taken for pictures; write elsewhere")


def _absolute(address: str) -> str:
    return f"{address if address.startswith('s3://') else Path(address).resolve()}".rstrip("/") + "/"


def _of_shard(source: Files, images: str, shard: int, shards: int) -> list[File]:
    """The pictures whose turn it is, by name; raises SourceError when there is none in any shard."""
    found, mine = 0, []
    for file in source.listed():
        if file.name.lower().endswith(SUFFIXES) and not JUNK.search(file.name):
            found += 1
            mine += [file] if turn(file.name, shards) == shard else []
    if not found:
        raise SourceError(f"{images}: no picture there; allowed: {', '.join(SUFFIXES)}")
    return sorted(mine)


def turn(name: str, shards: int) -> int:
    """The shard of a picture, 0 .. shards - 1: by its name alone, whatever other pictures there are.

    >>> [turn(name, 4) for name in ("1.png", "2.png", "deep/1.png")]
    [2, 0, 0]
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % shards


@dataclass
class _Tables:
    """What a shard has predicted and what it cannot read; they outlive it at the output address."""

    target: Files
    shard: str
    digest: str
    """Of the model."""
    opacity: float
    areas: dict[str, list[list[Any]]] = field(default_factory=dict)
    """Lines of the table by picture."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """What is wrong with a picture."""
    saved: float = field(default_factory=time.monotonic)

    def name(self, kind: str) -> str:
        return f"{kind}-{self.shard}.csv"

    def made_of(self, picture: File) -> list[str]:
        return [picture.version, self.digest, f"{self.opacity:g}"]

    def read(self, pictures: Sequence[File]) -> None:
        """Take over the lines of an earlier run that still hold for these pictures."""
        valid = {picture.name: self.made_of(picture) for picture in pictures}
        table = self.target.find(self.name("predictions"))
        with tempfile.TemporaryDirectory() as scratch:
            for path in self.target.bring([table] if table else [], Path(scratch)):
                with path.open(newline="", encoding="utf-8") as file:
                    for line in csv.reader(file):
                        if line[len(AREAS) :] == valid.get(line[0]):
                            self.areas.setdefault(line[0], []).append(line)

    def add(self, picture: File, lines: list[list[Any]]) -> None:
        self.areas[picture.name] = [line + self.made_of(picture) for line in lines]

    def save(self) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            lines = (line for name in sorted(self.areas) for line in self.areas[name])
            write_csv(Path(scratch) / self.name("predictions"), [*AREAS, *MADE_OF], lines)
            write_csv(Path(scratch) / self.name("unreadable"), ["file", "problem"], sorted(self.unreadable.items()))
            self.target.push(Path(scratch))
        self.saved = time.monotonic()


def _predict(bundle: "Bundle", source: Files, pictures: Sequence[File], tables: _Tables) -> None:
    """Predict batch after batch; what a saved table names has been written before."""
    from cytoloop.model.predict import Predictor

    predictor = Predictor(bundle)
    huge = [picture for picture in pictures if picture.size > MAX_BYTES]
    tables.unreadable |= {picture.name: f"has {picture.size} bytes; at most {MAX_BYTES} allowed" for picture in huge}
    small = [picture for picture in pictures if picture.size <= MAX_BYTES]
    with tempfile.TemporaryDirectory() as scratch, closing(_fetched(source, small, Path(scratch))) as batches:
        for paths in batches:
            with tempfile.TemporaryDirectory(dir=scratch) as made:
                _predict_batch(predictor, paths, Path(made), tables)
                tables.target.push(Path(made))
            if time.monotonic() - tables.saved > SAVE_SECONDS:
                tables.save()


def _fetched(source: Files, pictures: Sequence[File], scratch: Path) -> Generator[dict[File, Path], None, None]:
    """Batches of pictures with local paths, which hold until the next batch; that one is on its way meanwhile."""

    def fetch(start: int) -> dict[File, Path]:
        batch = pictures[start : start + BATCH]
        return dict(zip(batch, source.bring(batch, scratch / str(start)), strict=True))

    starts = range(0, len(pictures), BATCH)
    for start, paths in zip(starts, ahead(fetch, starts, threads=1, look=2), strict=True):
        yield paths
        shutil.rmtree(scratch / str(start), ignore_errors=True)


def _predict_batch(predictor: "Predictor", paths: dict[File, Path], made: Path, tables: _Tables) -> None:
    pictures = {}
    for file, path in paths.items():
        try:
            pictures[file] = decode_rgb(path.read_bytes(), MAX_PIXELS)
        except UnreadablePicture as error:
            tables.unreadable[file.name] = str(error)
    answers = predictor.predict(list(pictures.values()))
    for (file, rgb_HW3), answer in zip(pictures.items(), answers, strict=True):
        painted_HW3 = paint(rgb_HW3, answer.ids_HW, predictor.codec, tables.opacity)
        _write(made / "masks" / f"{file.name}.png", predictor.codec.encode_png(answer.ids_HW))
        _write(made / "overlays" / f"{file.name}.png", encode_rgb_png(painted_HW3))
        tables.add(file, areas(file.name, answer.ids_HW, predictor.codec))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
