"""Layout deepcell: NumPy archives of pictures X and instance labels y, as DeepCell publishes them.

A source without archives is read as pictures and masks in folders, the way in which others have passed
these data on; their masks are grey and often JPEGs, so that foreground is what reaches
`ingest.mask_threshold`.

Both arrays are streamed picture by picture, so that memory does not grow with the archive. Of X
channel 0 is read; of y channel 0, which is the nuclei in DynamicNuclearNet (it has no other) and the
whole cells in files with two channels.
"""

import hashlib
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from cytoloop.errors import SourceError
from cytoloop.images.decode import UnreadablePicture, grey_to_rgb
from cytoloop.sources import image_mask
from cytoloop.sources.archive import DAMAGE
from cytoloop.sources.layout import Array, Entry, Found, Layout, Mask, Picture, Source
from cytoloop.sources.pairing import SPLITS, with_ids, with_splits
from cytoloop.sources.reading import check_two_classes, mask_by_threshold, read_picture

MAX_OBJECTS = 65535


def _archives(names: Sequence[str]) -> list[str]:
    return [name for name in names if name.lower().endswith(".npz")]


def _find(names: Sequence[str]) -> Found:
    archives = _archives(names)
    if not archives:
        return image_mask.find(names)
    stems = [name.rpartition("/")[2][:-4] for name in archives]
    entries = [
        Entry(stem, stem, name.rpartition("/")[0], name, (name,)) for name, stem in zip(archives, stems, strict=True)
    ]
    strangers = [name for name in names if name not in set(archives)]
    return with_splits(Found(with_ids(entries), strangers, []), lambda entry: SPLITS.get(entry.stem.lower()))


def _unfold(source: Source, found: Found) -> Iterator[Entry]:
    for entry in found.entries:
        if not _is_archive(entry):
            yield entry
            continue
        with source.tree.local(str(entry.picture)) as path:
            for number, arrays in enumerate(_pairs(path, str(entry.picture), source.max_pixels)):
                name, place = f"{entry.id}_{number:05d}", f"{entry.picture}#{number}"
                yield replace(entry, id=name, stem=name, picture=place, masks=(place,), arrays=arrays)


def _pairs(path: Path, name: str, max_pixels: int) -> Iterator[tuple[Array, Array]]:
    """Channel 0 of each picture of X and y, (H, W) each; raises SourceError when the file is not as declared."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("X.npy") as x, archive.open("y.npy") as y:
            x_shape, x_dtype = _header(x, "X", "fiu", max_pixels)
            y_shape, y_dtype = _header(y, "y", "iu", max_pixels)
            if x_shape[:3] != y_shape[:3]:
                raise ValueError(f"X is {x_shape} but y is {y_shape}; they must agree in pictures, height and width")
            for _ in range(x_shape[0]):
                yield _next(x, x_shape, x_dtype), _next(y, y_shape, y_dtype)
    except KeyError as error:
        raise SourceError(f"{name}: {error}; a file of layout deepcell holds the arrays X and y") from None
    except DAMAGE as error:
        raise SourceError(f"{name}: not a readable file of layout deepcell: {error}") from None


def _header(stream: IO[bytes], name: str, kinds: str, max_pixels: int) -> tuple[tuple[int, ...], np.dtype]:
    version = npy.read_magic(stream)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read_header is None:
        raise ValueError(f"{name} is of an unknown NumPy format version {version}")
    shape, fortran, dtype = read_header(stream)
    if len(shape) != 4 or shape[3] not in (1, 2) or dtype.kind not in kinds or fortran:
        raise ValueError(
            f"{name} is {dtype} {shape}{' in Fortran order' if fortran else ''}; allowed: "
            f"(pictures, height, width, 1 or 2), kind {' or '.join(kinds)}, C order"
        )
    if not 0 < shape[1] * shape[2] <= max_pixels:
        raise ValueError(f"{name} has pictures of {shape[2]} x {shape[1]}; at most {max_pixels / 1e6:g} megapixels")
    return shape, dtype


def _next(stream: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> Array:
    wanted = int(np.prod(shape[1:])) * dtype.itemsize
    data = stream.read(wanted)
    if len(data) != wanted:
        raise ValueError("ends before its last picture")
    return np.frombuffer(data, dtype).reshape(shape[1:])[..., 0]


def _is_archive(entry: Entry) -> bool:
    return bool(_archives([str(entry.picture)]))


def _check(source: Source, found: Found) -> None:
    check_two_classes(source, found)
    if source.params.mask_threshold is None and not all(map(_is_archive, found.entries)):
        raise SourceError(
            "ingest.mask_threshold is not declared, but the source has masks as pictures; "
            "allowed: the grey value from which on a pixel is foreground, as 128"
        )


def _read_picture(source: Source, entry: Entry) -> Picture:
    if not entry.arrays:
        return read_picture(source, entry)
    grey_HW = entry.arrays[0]
    digest = hashlib.sha256(grey_HW.tobytes()).hexdigest()
    try:
        return Picture(digest, grey_to_rgb(grey_HW), "F")
    except UnreadablePicture as error:
        return Picture(digest, problem=str(error))


def _read_mask(source: Source, entry: Entry) -> Mask:
    if not entry.arrays:
        return mask_by_threshold(source, entry)
    labels_HW = entry.arrays[1]
    if labels_HW.min() < 0:
        raise UnreadablePicture("has negative labels")
    found, where_HW = np.unique(np.append(labels_HW.ravel(), 0), return_inverse=True)
    if len(found) - 1 > MAX_OBJECTS:
        raise UnreadablePicture(f"has {len(found) - 1} objects; at most {MAX_OBJECTS} can be kept")
    instances_HW = where_HW[:-1].reshape(labels_HW.shape)
    return Mask((instances_HW > 0).astype(np.uint8), instances_HW=instances_HW)


LAYOUT = Layout(
    name="deepcell",
    description="NumPy archives of pictures X (n, h, w, 1 or 2) and integer instance labels y (n, h, w, 1 or 2); "
    "channel 0 of both; or pictures and grey masks in folders, cut at ingest.mask_threshold; the split in the "
    "names is kept",
    expects="""\
train.npz  [val.npz]  [test.npz]
  X  float (n, h, w, 1 or 2)
  y  integer (n, h, w, 1 or 2), 0 = no object
or
[train/]  images/  12.jpg      masks/  12.jpg""",
    licence="modified Apache 2.0, non-commercial academic use only (DynamicNuclearNet)",
    citation="Schwartz et al. 2023, Caliban: accurate cell tracking and lineage construction in live-cell imaging "
    "experiments with deep learning, bioRxiv, doi 10.1101/803205",
    find=_find,
    read_picture=_read_picture,
    read_mask=_read_mask,
    check=_check,
    unfold=_unfold,
    suggested=lambda names: bool(_archives(names)),
)
