"""Masks on disk for pictures on disk: what `infer` and `cytoloop predict` write."""

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cytoloop import profiles
from cytoloop.artifacts import PREDICTIONS, write_csv
from cytoloop.errors import SourceError
from cytoloop.images.codec import LabelCodec
from cytoloop.images.decode import SUFFIXES, UnreadablePicture, decode_rgb, encode_rgb_png

if TYPE_CHECKING:
    from cytoloop.model.predict import Predictor

Array = np.ndarray[Any, Any]

BATCH = 8
MAX_PIXELS = 64_000_000
AREAS = ("file", "class", "pixels", "fraction")
"""The columns of the table of areas."""


def find_pictures(inputs: Sequence[Path]) -> list[Path]:
    """The picture files among files and folders (not below them), sorted within a folder.

    Raises:
        SourceError: a path does not exist, no picture is found, or two have the same stem (their
            masks would have the same name).
    """
    found: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))
        elif path.is_file():
            found.append(path)
        else:
            raise SourceError(f"{path}: no such file or folder; give pictures or a folder of pictures")
    if not found:
        raise SourceError(f"{', '.join(map(str, inputs))}: no picture there; allowed: {', '.join(SUFFIXES)}")
    by_stem: dict[str, Path] = {}
    for path in found:
        twin = by_stem.setdefault(path.stem, path)
        if twin != path:
            raise SourceError(f"{path}: its mask would have the name of {twin}'s; rename one or predict them apart")
    return found


def write_predictions(
    predictor: "Predictor",
    pictures: Iterable[tuple[str, bytes]],
    folder: Path,
    overlay: float,
    profile: Path | None = None,
) -> dict[str, float]:
    """Predict pictures and write their masks, overlays and a table of areas.

    For a picture `cell 7.jpg` of any size: `cell 7.png`, an indexed PNG of the same size with class ids
    as values; `cell 7_overlay.png`; and in predictions.csv a line a class (file, class, pixels, fraction).
    The folder is made if need be; its files appear together when all are done.

    Args:
        pictures: file names with the files' bytes; stems must differ.
        overlay: opacity of the mask, 0..1.
        profile: table of recent predictions (see `profiles`) that gets a row a picture in the end.

    Raises:
        SourceError: a picture cannot be read; nothing is written then.
        ArtifactError: the profile is another file; nothing is written then.
    """
    if profile is not None:
        profiles.check_table(profile, predictor.codec.names)
    folder.mkdir(parents=True, exist_ok=True)
    lines: list[list[Any]] = []
    seen: list[list[str]] = []
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as beside:
        for name, data, rgb_HW3, ids_HW in _predicted(predictor, pictures):
            stem = Path(name).stem
            (Path(beside) / f"{stem}.png").write_bytes(predictor.codec.encode_png(ids_HW))
            painted_HW3 = paint(rgb_HW3, ids_HW, predictor.codec, overlay)
            (Path(beside) / f"{stem}_overlay.png").write_bytes(encode_rgb_png(painted_HW3))
            lines += areas(name, ids_HW, predictor.codec)
            seen += [profiles.observed(data, rgb_HW3, ids_HW, len(predictor.codec.classes))] if profile else []
        write_csv(Path(beside) / PREDICTIONS, AREAS, lines)
        for path in sorted(Path(beside).iterdir()):
            os.replace(path, folder / path.name)
    if profile is not None:
        profiles.append(profile, predictor.meta["model_digest"], predictor.codec.names, seen)
    return {"pictures": float(len(lines) // len(predictor.codec.classes))}


def areas(name: str, ids_HW: Array, codec: LabelCodec) -> list[list[Any]]:
    """A line a class, with the columns AREAS, for a picture's class ids."""
    counts_C = np.bincount(ids_HW.ravel(), minlength=len(codec.classes))
    return [
        [name, label, int(count), f"{count / ids_HW.size:.6f}"]
        for label, count in zip(codec.names, counts_C, strict=True)
    ]


def _predicted(
    predictor: "Predictor", pictures: Iterable[tuple[str, bytes]]
) -> Iterator[tuple[str, bytes, Array, Array]]:
    """Each picture's name, file, pixels and class ids."""
    pictures = iter(pictures)
    while batch := [(name, data, _decode(name, data)) for name, data in islice(pictures, BATCH)]:
        answers = predictor.predict([rgb_HW3 for _, _, rgb_HW3 in batch])
        for (name, data, rgb_HW3), answer in zip(batch, answers, strict=True):
            yield name, data, rgb_HW3, answer.ids_HW


def _decode(name: str, data: bytes) -> Array:
    try:
        return decode_rgb(data, MAX_PIXELS)
    except UnreadablePicture as error:
        raise SourceError(f"{name}: {error}; remove or replace it") from None


def paint(rgb_HW3: Array, ids_HW: Array, codec: LabelCodec, opacity: float) -> Array:
    """uint8 (H, W, 3): the picture with the foreground classes' colours laid over it."""
    mixed_HW3 = rgb_HW3 * (1 - opacity) + codec.colors(ids_HW).astype(np.float32) * opacity
    return np.where(ids_HW[..., None] > 0, np.rint(mixed_HW3), rgb_HW3).astype(np.uint8)
