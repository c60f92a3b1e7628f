"""Chance: which variant of a picture, as far as `augment` in params.yaml allows.

The same for copies that are made once and for training pictures that are varied anew in each epoch.
"""

import hashlib
from functools import reduce
from typing import TypeVar

import numpy as np

from cytoloop.images.augment import (
    Sample,
    Variant,
    mirror,
    quarter_turn,
    rotation,
    shearing,
    shrinking,
)
from cytoloop.images.warps import Array, Displacement, Lens, Warp
from cytoloop.params import AugmentParams, BrighteningParams, ChanceParams, ElasticParams, LensParams

Section = TypeVar("Section", bound=ChanceParams)


def chance(seed: int, *key: object) -> np.random.Generator:
    """The source of all chance in one variant.

    Args:
        seed: `augment.seed`.
        key: what tells the variant from all others: the picture's id with the number of the copy, or
            the id with the epoch.
    """
    digest = hashlib.sha256("\0".join(map(str, (seed, *key))).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16]))


def vary(sample: Sample, params: AugmentParams, rng: np.random.Generator, surely: bool = False) -> Sample:
    """A variant of a sample, of its shapes and dtypes.

    Args:
        sample: a picture, uint8 (H, W, 1 or 3), with its mask and, where there are any, instances.
        params: what may happen to it.
        rng: the only source of chance; see `chance`.
        surely: draw until something happens, as a stored copy should not be the original once more.
    """
    height, width = sample.mask_HW.shape
    variant = draw(params, height, width, rng)
    while surely and not variant.changes:
        variant = draw(params, height, width, rng)
    return variant.apply(sample, None if params.border == "reflect" else params.border_value)


def draw(params: AugmentParams, height: int, width: int, rng: np.random.Generator) -> Variant:
    """A random variant for pictures of that size, pixels; it may be the identity."""
    matrix_22 = _matrix(params, height == width, rng)
    bends = _bends(params, height, width, rng)
    sharpen, brighten = _happening(params.sharpening, rng), _happening(params.brightening, rng)
    sharpening = sharpen.amount * rng.random() if sharpen else 0
    gain, offset = _light(brighten, rng.random()) if brighten else (1, 0)
    return Variant(matrix_22, bends, sharpening, gain, offset)


def _happening(section: Section | None, rng: np.random.Generator) -> Section | None:
    """The section when its operation happens this time, else None."""
    return section if section is not None and rng.random() < section.probability else None


def _matrix(params: AugmentParams, square: bool, rng: np.random.Generator) -> Array:
    flips = [_happening(params.horizontal_flip, rng), _happening(params.vertical_flip, rng)]
    matrices = [mirror(*(flip is not None for flip in flips))]
    if _happening(params.quarter_turns, rng):
        matrices.append(quarter_turn(int(rng.integers(1, 4)) if square else 2))
    if shear := _happening(params.shear, rng):
        matrices.append(shearing(*rng.uniform(-shear.slope, shear.slope, 2)))
    if shrink := _happening(params.shrink, rng):
        matrices.append(shrinking(rng.uniform(shrink.factor, 1)))
    if turn := _happening(params.rotation, rng):
        matrices.append(rotation(rng.uniform(-turn.degrees, turn.degrees)))
    return reduce(np.matmul, matrices)


def _bends(params: AugmentParams, height: int, width: int, rng: np.random.Generator) -> tuple[Warp, ...]:
    """The last to happen first."""
    shape = height, width
    bends: list[Warp] = []
    if barrel := _happening(params.barrel, rng):
        bends.append(_lens(barrel, rng.random(), shape, rng))
    if pincushion := _happening(params.pincushion, rng):
        bends.append(_lens(pincushion, -rng.random(), shape, rng))
    if distortion := _happening(params.distortion, rng):
        bends.append(_displacement(distortion, shape, rng))
    if elastic := _happening(params.elastic, rng):
        bends.append(_displacement(elastic, shape, rng))
    return tuple(bends[::-1])


def _lens(section: LensParams, strength: float, shape: tuple[int, int], rng: np.random.Generator) -> Lens:
    height, width = shape
    x, y = section.centers[rng.integers(len(section.centers))]
    return Lens(x * (width - 1), y * (height - 1), section.radius * min(shape), strength * section.amount)


def _displacement(section: ElasticParams, shape: tuple[int, int], rng: np.random.Generator) -> Displacement:
    sigma, largest = section.sigma * max(shape), section.displacement * max(shape)
    lattice = Displacement.lattice(*shape, sigma)
    coefficients_2NM = rng.uniform(-largest, largest, (2, *lattice)).astype(np.float32)
    return Displacement(coefficients_2NM, sigma)


def _light(section: BrighteningParams, strength: float) -> tuple[float, float]:
    return 1 + strength * (section.gain - 1), strength * section.offset
