"""Variants of a picture together with its mask and instances.

How it works: everything geometric about a variant is one map of coordinates, so that however many
deformations are folded into it, a sample is resampled once: linearly for the picture, by the nearest
pixel for mask and instances. Mirroring and quarter turns alone move whole pixels and are exact. What
changes colours only comes after the geometry and touches the picture alone.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import numpy as np

from cytoloop.images.warps import Linear, Points, Warp, coordinate_map

Array = np.ndarray[Any, Any]


class Sample(NamedTuple):
    """A picture and what is known of each of its pixels."""

    image_HWC: Array
    """uint8, RGB or grey."""
    mask_HW: Array
    """uint8 class ids."""
    instances_HW: Array | None = None
    """uint16 instance labels, 0 = none."""

    def each(self, on_colors: Callable[[Array], Array], on_labels: Callable[[Array], Array]) -> "Sample":
        """The sample after one function on the picture and another on mask and instances."""
        image_HWC, mask_HW, instances_HW = self
        return Sample(
            on_colors(image_HWC), on_labels(mask_HW), None if instances_HW is None else on_labels(instances_HW)
        )


def mirror(left_right: bool, up_down: bool) -> Array:
    """The matrix of mirroring, int (2, 2): x' = -x and y' = -y."""
    return np.diag([-1 if left_right else 1, -1 if up_down else 1])


def quarter_turn(times: int) -> Array:
    """The matrix of turns by 90 degrees, counter-clockwise as one looks at it, int (2, 2)."""
    return np.linalg.matrix_power(np.array([[0, -1], [1, 0]]), times % 4)


def rotation(degrees: float) -> Array:
    """The matrix of a rotation, counter-clockwise as one looks at it: x' = c x - s y, y' = s x + c y."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s], [s, c]])


def shrinking(factor: float) -> Array:
    """The matrix of making the picture smaller by a factor below 1: p' = p / factor."""
    return np.eye(2) / factor


def shearing(along_x: float, along_y: float) -> Array:
    """The matrix of a shear: x' = x + along_x y, y' = y + along_y x."""
    return np.array([[1, along_x], [along_y, 1]])


@dataclass(frozen=True, eq=False)
class Variant:
    """What becomes of a sample; by default nothing."""

    matrix_22: Array = field(default_factory=lambda: np.eye(2, dtype=int))
    """From a point of the variant to its source, about the middle. In a product the leftmost happened first."""
    bends: tuple[Warp, ...] = ()
    """From a point of the variant towards its source, before the matrix; so the last of them happened first."""
    sharpening: float = 0
    gain: float = 1
    offset: float = 0
    """Grey values, 0..255."""

    @property
    def changes(self) -> bool:
        """Whether a sample can come out another one."""
        plain = (self.sharpening, self.gain, self.offset) == (0, 1, 0)
        return bool(self.bends) or not plain or not np.array_equal(self.matrix_22, np.eye(2))

    def apply(self, sample: Sample, border: int | None = None) -> Sample:
        """The variant, of the sample's own shapes and dtypes.

        Args:
            sample: the picture with what is known of it.
            border: what lies outside the picture: None, its mirror image; a grey value of 0..255, that
                value, where mask and instances are 0. Without it no label arises that was not there.
        """
        moved = self._move(sample, border)
        return moved._replace(image_HWC=self._colored(moved.image_HWC))

    def _move(self, sample: Sample, border: int | None) -> Sample:
        height, width = sample.mask_HW.shape
        if self._moves_whole_pixels(height == width):
            return sample.each(self._permuted, self._permuted)
        linear = Linear(self.matrix_22, ((width - 1) / 2, (height - 1) / 2))
        points = coordinate_map((*self.bends, linear), height, width, reflect=border is None)
        return resample(sample, points, border)

    def _moves_whole_pixels(self, square: bool) -> bool:
        pattern_22 = np.abs(self.matrix_22)
        turned = square and np.array_equal(pattern_22, np.eye(2)[::-1])
        return not self.bends and (turned or np.array_equal(pattern_22, np.eye(2)))

    def _permuted(self, array: Array) -> Array:
        sign_x, sign_y = self.matrix_22.sum(axis=1).astype(int)
        mirrored = array[::sign_y, ::sign_x]
        return np.ascontiguousarray(mirrored if self.matrix_22[0, 0] else mirrored.swapaxes(0, 1))

    def _colored(self, image_HWC: Array) -> Array:
        if self.sharpening:
            image_HWC = sharpened(image_HWC, self.sharpening)
        if (self.gain, self.offset) != (1, 0):
            image_HWC = brightened(image_HWC, self.gain, self.offset)
        return image_HWC


def resample(sample: Sample, points: Points, border: int | None = None) -> Sample:
    """The sample as seen through a map of coordinates, float32 (H, W) of x and of y, pixels; see `Variant.apply`."""
    mode = cv2.BORDER_REFLECT_101 if border is None else cv2.BORDER_CONSTANT

    def colors(image_HWC: Array) -> Array:
        value = (border or 0,) * 4
        if image_HWC.shape[2] == 1:
            grey_HW = cv2.remap(image_HWC, *points, cv2.INTER_LINEAR, borderMode=mode, borderValue=value)
            return np.asarray(grey_HW)[..., None]
        rgba_HW4 = cv2.cvtColor(image_HWC, cv2.COLOR_RGB2RGBA)  # OpenCV samples four channels faster than three
        rgba_HW4 = cv2.remap(rgba_HW4, *points, cv2.INTER_LINEAR, borderMode=mode, borderValue=value)
        return np.asarray(cv2.cvtColor(rgba_HW4, cv2.COLOR_RGBA2RGB))

    def labels(labels_HW: Array) -> Array:
        return np.asarray(cv2.remap(labels_HW, *points, cv2.INTER_NEAREST, borderMode=mode, borderValue=0))

    return sample.each(colors, labels)


def sharpened(image_HWC: Array, amount: float) -> Array:
    """v' = v + amount (v - m), m the mean of the 3 x 3 pixels about v; rounded and cut to 0..255."""
    mean_HWC = cv2.blur(image_HWC, (3, 3))
    return np.asarray(cv2.addWeighted(image_HWC, 1 + amount, mean_HWC, -amount, 0)).reshape(image_HWC.shape)


def brightened(image_HWC: Array, gain: float, offset: float) -> Array:
    """v' = gain v + offset; rounded and cut to 0..255."""
    table = np.clip(np.rint(gain * np.arange(256) + offset), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image_HWC, table)).reshape(image_HWC.shape)
