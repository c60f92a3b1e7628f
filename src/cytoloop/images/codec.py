"""Between the colours of a mask file and class ids.

A codec knows the classes of a dataset: id 0 is background, the others follow in order.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]


def _packed(rgb_X3: Array) -> Array:
    """uint32 (...): each RGB colour as one number, 0xRRGGBB."""
    return rgb_X3[..., 0].astype(np.uint32) << 16 | rgb_X3[..., 1].astype(np.uint32) << 8 | rgb_X3[..., 2]


@dataclass(frozen=True)
class LabelClass:
    """A class: its name, its RGB colour and, where the source's masks are grey, its value."""

    name: str
    color: tuple[int, int, int]
    value: int | None = None


@dataclass(frozen=True)
class LabelCodec:
    """The classes in the order of their ids."""

    classes: tuple[LabelClass, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    @cached_property
    def palette_N3(self) -> Array:
        """uint8 (N, 3): the RGB colour of each class id."""
        return np.array([c.color for c in self.classes], np.uint8)

    def ids_from_colors(self, mask_HW3: Array, tolerance: float = 0) -> tuple[Array, Array]:
        """Class ids of an RGB mask.

        Args:
            mask_HW3: uint8 (H, W, 3).
            tolerance: largest Euclidean distance in RGB at which a pixel takes the nearest class.

        Returns:
            uint8 (H, W) ids, and bool (H, W) where no class is within the tolerance (id 0 there).
        """
        packed_HW = _packed(mask_HW3)
        colors_U, where_HW = self._told_apart(packed_HW, _packed(self.palette_N3))
        rgb_U3 = np.stack([colors_U >> 16, colors_U >> 8 & 255, colors_U & 255], -1).astype(np.int32)
        distance_UN = np.linalg.norm(rgb_U3[:, None] - self.palette_N3.astype(np.int32)[None], axis=-1)
        return self._nearest(distance_UN, where_HW, tolerance)

    def ids_from_values(self, mask_HW: Array, tolerance: float = 0) -> tuple[Array, Array]:
        """Class ids of a grey mask, uint8 (H, W), by the classes' declared values; as `ids_from_colors`.

        Raises:
            ValueError: a class has no declared value.
        """
        missing = [c.name for c in self.classes if c.value is None]
        if missing:
            raise ValueError(f"classes without a grey value: {', '.join(missing)}; declare `value` for each")
        values_N = np.array([c.value for c in self.classes], np.int32)
        distance_UN = np.abs(np.arange(256)[:, None] - values_N[None]).astype(float)
        return self._nearest(distance_UN, mask_HW, tolerance)

    @staticmethod
    def _told_apart(packed_HW: Array, palette_N: Array) -> tuple[Array, Array]:
        """The palette's and all other colours in the mask (U,), and which of them each pixel has (H, W).

        Nearly all pixels have a palette colour; only the others are sorted.
        """
        where_HW = np.full(packed_HW.shape, len(palette_N), np.int32)
        for place, color in enumerate(palette_N):
            where_HW[packed_HW == color] = place
        others_HW = where_HW == len(palette_N)
        others_U, inverse = np.unique(packed_HW[others_HW], return_inverse=True)
        where_HW[others_HW] += inverse.astype(np.int32)
        return np.concatenate([palette_N, others_U]), where_HW

    @staticmethod
    def _nearest(distance_UN: Array, where_HW: Array, tolerance: float) -> tuple[Array, Array]:
        nearest_U = distance_UN.argmin(1).astype(np.uint8)
        unknown_U = distance_UN.min(1) > tolerance
        nearest_U[unknown_U] = 0
        return nearest_U[where_HW], unknown_U[where_HW]

    def colors(self, ids_HW: Array) -> Array:
        """uint8 (H, W, 3): the colour mask of class ids."""
        return np.asarray(self.palette_N3[ids_HW])

    def encode_png(self, ids_HW: Array) -> bytes:
        """An indexed-palette PNG whose pixel values are the class ids, uint8 (H, W)."""
        picture = Image.fromarray(np.ascontiguousarray(ids_HW, np.uint8), mode="P")
        picture.putpalette(self.palette_N3.ravel().tolist())
        buffer = BytesIO()
        picture.save(buffer, "PNG", compress_level=1, compress_type=zlib.Z_RLE)  # masks are runs of one id
        return buffer.getvalue()

    def to_json(self) -> list[dict[str, Any]]:
        return [{"name": c.name, "color": list(c.color), "value": c.value} for c in self.classes]

    @classmethod
    def from_json(cls, classes: Sequence[Any]) -> "LabelCodec":
        """From `to_json`'s list, or from the `classes` section of the params."""
        plain = [c if isinstance(c, dict) else c.model_dump() for c in classes]
        return cls(tuple(LabelClass(c["name"], tuple(c["color"]), c.get("value")) for c in plain))
