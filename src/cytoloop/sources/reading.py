"""From an entry's files to arrays: pictures, and masks by colour, by value or by threshold."""

import hashlib

import cv2
import numpy as np
from PIL import Image

from cytoloop.errors import SourceError
from cytoloop.images.decode import UnreadablePicture, open_picture, to_rgb
from cytoloop.sources.layout import Array, Entry, Found, Mask, Picture, Source
from cytoloop.sources.pairing import shown


def file_bytes(source: Source, name: str) -> bytes:
    """A file's bytes, at most as many as a picture of the largest size allowed can have."""
    most = source.max_pixels * 8 + 2**20  # four channels of 16 bits, and a header
    if source.tree.size(name) > most:
        raise UnreadablePicture(f"has {source.tree.size(name)} bytes; no picture of the size allowed has so many")
    return source.tree.read(name)


def read_picture(source: Source, entry: Entry) -> Picture:
    """The picture file of an entry; raises UnreadablePicture when it is too large to be read at all."""
    data = file_bytes(source, str(entry.picture))
    digest = hashlib.sha256(data).hexdigest()
    try:
        picture = open_picture(data, source.max_pixels)
        return Picture(digest, to_rgb(picture), picture.mode)
    except UnreadablePicture as error:
        return Picture(digest, problem=str(error))


def mask_by_color(source: Source, entry: Entry) -> Mask:
    """A colour mask by the classes' colours, within `ingest.color_tolerance`; raises UnreadablePicture."""
    rgb_HW3 = to_rgb(_mask_picture(source, entry))
    ids_HW, unknown_HW = source.codec.ids_from_colors(rgb_HW3, source.params.color_tolerance)
    return Mask(ids_HW, int(unknown_HW.sum()), _most_frequent(rgb_HW3[unknown_HW]))


def mask_by_value(source: Source, entry: Entry) -> Mask:
    """A grey mask by the classes' values; a palette's pixels count by index. Raises UnreadablePicture."""
    grey_HW = _grey(_mask_picture(source, entry))
    ids_HW, unknown_HW = source.codec.ids_from_values(
        np.clip(grey_HW, 0, 255).astype(np.uint8), source.params.color_tolerance
    )
    unknown_HW |= grey_HW > 255
    ids_HW[unknown_HW] = 0
    return Mask(ids_HW, int(unknown_HW.sum()), _most_frequent(grey_HW[unknown_HW][:, None]))


def mask_by_threshold(source: Source, entry: Entry) -> Mask:
    """A mask whose brightness means foreground: class 1 from `ingest.mask_threshold` on.

    With `ingest.mask_blur` the thresholded mask is box-blurred, and all that the blur touches is
    foreground: the order in which the seed project's ImageMaskDataset does it.
    """
    grey_HW = cv2.cvtColor(to_rgb(_mask_picture(source, entry)), cv2.COLOR_RGB2GRAY)
    threshold = source.params.mask_threshold
    assert threshold is not None, "the layout has checked that it is declared"
    ids_HW = (np.asarray(grey_HW) >= threshold).astype(np.uint8)
    if side := source.params.mask_blur:
        ids_HW = (cv2.blur(ids_HW * np.uint8(255), (side, side)) > 0).astype(np.uint8)
    return Mask(ids_HW)


def _mask_picture(source: Source, entry: Entry) -> Image.Image:
    return open_picture(file_bytes(source, entry.masks[0]), source.max_pixels)


def _grey(picture: Image.Image) -> Array:
    """The one channel of a mask, integer (H, W)."""
    if picture.mode == "1":
        picture = picture.convert("L")
    grey = np.asarray(picture)
    if grey.ndim == 2:
        return grey
    rgb_HW3 = to_rgb(picture)
    if (rgb_HW3 != rgb_HW3[..., :1]).any():
        raise UnreadablePicture(f"is coloured ({picture.mode}), but the classes declare grey values")
    return rgb_HW3[..., 0]


def _most_frequent(unknown_XC: Array, most: int = 5) -> str | None:
    """'#0c3400 x 12, ...' of unknown colours or values (X, C), the most frequent first; null when there are none."""
    if not len(unknown_XC):
        return None
    found_UC, times_U = np.unique(unknown_XC, axis=0, return_counts=True)
    order = np.argsort(-times_U, kind="stable")
    named = [f"{_named(found_UC[u])} x {times_U[u]}" for u in order]
    return shown(named, most)


def _named(color_C: Array) -> str:
    return f"#{bytes(color_C).hex()}" if len(color_C) == 3 else str(color_C[0])


def check_two_classes(source: Source, found: Found) -> None:
    """For layouts whose masks only tell foreground from background."""
    if len(source.codec.classes) != 2:
        raise SourceError(
            f"classes: {', '.join(source.codec.names)} are declared, but the masks of layout {source.params.layout} "
            "only tell one foreground class from background; declare two classes, background first"
        )


def check_colors(source: Source, found: Found) -> None:
    """For masks by colour or value: JPEG changes colours, so such masks need a threshold."""
    jpegs = [mask for entry in found.entries for mask in entry.masks if mask.lower().endswith((".jpg", ".jpeg"))]
    if jpegs:
        raise SourceError(
            f"{len(jpegs)} masks are JPEG ({shown(jpegs, 3)}), whose colours are not exact; save them as PNG, "
            "or with two classes use layout image_mask or leukemia and declare ingest.mask_threshold"
        )
