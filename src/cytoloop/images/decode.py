"""Picture files to arrays, with one documented conversion for every mode.

RGB stays; RGBA is laid over white only where it is transparent; palettes and CMYK become RGB; grey
and 1-bit are repeated to three channels; 16-bit, 32-bit and floating grey is stretched linearly from
its 0.1st to its 99.9th percentile. Of an animated or paged file the first picture counts; EXIF
orientation is not applied, since masks do not carry it.
"""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
from PIL import BmpImagePlugin, GifImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

Array = np.ndarray[Any, Any]

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif")

READERS: dict[bytes, Callable[[BytesIO], ImageFile.ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImagePlugin.PngImageFile,
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
    b"II*\0": TiffImagePlugin.TiffImageFile,
    b"MM\0*": TiffImagePlugin.TiffImageFile,
    b"GIF8": GifImagePlugin.GifImageFile,
}
"""The first bytes of a file -> the reader of its header. Pillow's own `open` would judge the size
by a global limit and in a global list of warnings; ours is judged for each call, in any thread."""


class UnreadablePicture(ValueError):
    """The bytes are no picture of an accepted format, are damaged, or declare too many pixels."""


def open_picture(data: bytes, max_pixels: int) -> Image.Image:
    """Open and fully decode a picture; its header is judged before any pixel is decoded.

    Raises:
        UnreadablePicture: not of FORMATS, damaged, or more than `max_pixels` pixels declared.
    """
    reader = next((reader for start, reader in READERS.items() if data.startswith(start)), None)
    if reader is None:
        raise UnreadablePicture(f"is no {', '.join(FORMATS)} picture")
    try:
        picture = reader(BytesIO(data))
        if picture.width * picture.height > max_pixels:
            raise UnreadablePicture(
                f"declares {picture.width} x {picture.height} pixels; at most {max_pixels / 1e6:g} megapixels allowed"
            )
        picture.load()
    except (UnreadablePicture, MemoryError):
        raise
    except Exception as error:  # damaged files make Pillow raise almost anything
        raise UnreadablePicture(f"is damaged: {error}") from None
    return picture


def to_rgb(picture: Image.Image) -> Array:
    """uint8 (H, W, 3) of a picture of any mode, by the conversion that this module documents.

    Raises:
        UnreadablePicture: floating grey with values that are not finite.
    """
    if picture.mode == "RGB":
        return np.asarray(picture)
    if picture.mode.startswith("I") or picture.mode == "F":
        return grey_to_rgb(np.asarray(picture))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        rgba_HW4 = np.asarray(picture.convert("RGBA"))
        if rgba_HW4[..., 3].min() == 255:
            return np.ascontiguousarray(rgba_HW4[..., :3])
        alpha_HW1 = rgba_HW4[..., 3:].astype(np.float32) / 255
        return np.rint(rgba_HW4[..., :3] * alpha_HW1 + 255 * (1 - alpha_HW1)).astype(np.uint8)
    return np.asarray(picture.convert("RGB"))


def grey_to_rgb(grey_HW: Array) -> Array:
    """uint8 (H, W, 3) of grey values of any range, stretched from the 0.1st to the 99.9th percentile.

    A flat picture becomes black. Raises UnreadablePicture when a value is not finite.
    """
    grey_HW = grey_HW.astype(np.float64)
    if not np.isfinite(grey_HW).all():
        raise UnreadablePicture("holds grey values that are not finite")
    low, high = np.percentile(grey_HW, (0.1, 99.9))
    stretched_HW = np.clip((grey_HW - low) / max(high - low, 1e-9), 0, 1) * 255
    return np.repeat(np.rint(stretched_HW).astype(np.uint8)[..., None], 3, -1)


def decode_rgb(data: bytes, max_pixels: int = 2**31) -> Array:
    """uint8 (H, W, 3) of a picture file's bytes; raises UnreadablePicture."""
    return to_rgb(open_picture(data, max_pixels))


def decode_ids(png: bytes) -> Array:
    """uint8 (H, W) class ids of an indexed PNG that `LabelCodec.encode_png` wrote."""
    return np.asarray(Image.open(BytesIO(png), formats=("PNG",)))


def encode_rgb_png(rgb_HW3: Array) -> bytes:
    """PNG bytes of uint8 (H, W, 3); quick rather than small."""
    import cv2

    quick = [
        *(cv2.IMWRITE_PNG_COMPRESSION, 1),
        *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
        *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
    ]
    return bytes(cv2.imencode(".png", cv2.cvtColor(rgb_HW3, cv2.COLOR_RGB2BGR), quick)[1])


def encode_instances_png(instances_HW: Array) -> bytes:
    """16-bit grey PNG of instance labels, integer (H, W), 0 = none, at most 65,535 instances."""
    import cv2

    return bytes(cv2.imencode(".png", np.ascontiguousarray(instances_HW, np.uint16))[1])


def decode_instances(png: bytes) -> Array:
    """uint16 (H, W) of `encode_instances_png`'s bytes."""
    import cv2

    return np.asarray(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED))
