"""Variants of a picture together with its mask and instances.

How it works: everything geometric about a variant is one `Geometry`. Mirroring and quarter turns
move whole pixels and are exact. All that falls between pixels is one map of coordinates, so that
however many deformations are folded into it a sample is resampled once: linearly for the picture,
by the nearest pixel for mask and instances, and mirrored at the border for all three. What changes
colours only comes after the geometry and touches the picture alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np

Array = np.ndarray[Any, Any]


class Sample(NamedTuple):
    """A picture and what is known of each of its pixels."""

    image_HW3: Array
    """uint8, RGB."""
    mask_HW: Array
    """uint8 class ids."""
    instances_HW: Array | None = None
    """uint16 instance labels, 0 = none."""

    def each(self, on_colors: Callable[[Array], Array], on_labels: Callable[[Array], Array]) -> "Sample":
        """The sample after one function on the picture and another on mask and instances."""
        image_HW3, mask_HW, instances_HW = self
        return Sample(
            on_colors(image_HW3), on_labels(mask_HW), None if instances_HW is None else on_labels(instances_HW)
        )


@dataclass(frozen=True)
class Geometry:
    """Where the pixels of a variant come from: mirrored first, then turned, then rotated."""

    mirrored: bool = False
    """Left and right exchanged."""
    quarter_turns: int = 0
    """Turns by 90 degrees, counter-clockwise."""
    degrees: float = 0
    """Rotation about the centre by any angle, counter-clockwise, within the frame."""

    def apply(self, sample: Sample) -> Sample:
        """The variant; an odd number of quarter turns exchanges its sides."""
        turned = sample.each(self._turn, self._turn)
        height, width = turned.mask_HW.shape
        return resample(turned, rotation_map(height, width, self.degrees)) if self.degrees else turned

    def _turn(self, array: Array) -> Array:
        return np.ascontiguousarray(np.rot90(np.fliplr(array) if self.mirrored else array, self.quarter_turns))


@dataclass(frozen=True)
class Variations:
    """What a variant may differ by."""

    flips: bool
    """Mirrored left-right and up-down."""
    rotation: float
    """Largest rotation either way, degrees, 0..180."""
    exact: bool
    """Rotations by multiples of 90 degrees only, which resample nothing."""

    def draw(self, square: bool, rng: np.random.Generator) -> Geometry:
        """A random geometry that keeps the sides of the picture; not the identity where there is another.

        Args:
            square: whether the picture's sides are equal: quarter turns exchange them.
            rng: the only source of chance.
        """
        turns = self._turns(square) if self.exact else [0]
        # up-down is left-right, turned by 180 degrees
        flips = [(False, 0), (True, 0), (True, 2), (False, 2)] if self.flips else [(False, 0)]
        choices = sorted({(mirrored, (flip + turn) % 4) for mirrored, flip in flips for turn in turns})
        degrees = 0.0 if self.exact else float(rng.uniform(-self.rotation, self.rotation))
        if not degrees and len(choices) > 1:
            choices.remove((False, 0))
        return Geometry(*choices[rng.integers(len(choices))], degrees)

    def _turns(self, square: bool) -> list[int]:
        return [turn for turn in range(4) if 90 * min(turn, 4 - turn) <= self.rotation and (square or turn % 2 == 0)]


def rotation_map(height: int, width: int, degrees: float) -> Array:
    """float32 (H, W, 2): for each pixel of a rotated picture the x and y that it comes from.

    The rotation is about the centre, counter-clockwise as one looks at it. In pixels, y downwards:
    x' = c x - s y, y' = s x + c y with c and s of the angle.
    """
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    y_HW, x_HW = np.mgrid[:height, :width].astype(np.float64)
    x_HW, y_HW = x_HW - middle_x, y_HW - middle_y
    return np.stack([c * x_HW - s * y_HW + middle_x, s * x_HW + c * y_HW + middle_y], -1).astype(np.float32)


def resample(sample: Sample, map_HW2: Array) -> Sample:
    """The sample as seen through a map of coordinates, float32 (H, W, 2) of x and y, in pixels.

    No label arises that was not there: mask and instances take the nearest pixel.
    """

    def through(interpolation: int, array: Array) -> Array:
        return np.asarray(cv2.remap(array, map_HW2, None, interpolation, borderMode=cv2.BORDER_REFLECT_101))

    return sample.each(partial(through, cv2.INTER_LINEAR), partial(through, cv2.INTER_NEAREST))
