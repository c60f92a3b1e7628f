"""Chance: which variant of a picture, as far as `augment` in params.yaml allows.

The same for copies that are made once and for training pictures that are varied anew in each epoch.
"""

import hashlib
from functools import cache, reduce
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
    params = strengthened(params)
    matrix_22 = _matrix(params, height == width, rng)
    bends = _bends(params, height, width, rng)
    sharpen, brighten = _happening(params.sharpening, rng), _happening(params.brightening, rng)
    sharpening = sharpen.amount * rng.random() if sharpen else 0
    gain, offset = _light(brighten, rng.random()) if brighten else (1, 0)
    return Variant(matrix_22, bends, sharpening, gain, offset)


@cache
def strengthened(params: AugmentParams) -> AugmentParams:
    """The same augmentation with its `strength` worked into every operation.

    A probability is multiplied up to 1, but that of mirroring and turning only up to where all outcomes are
    equally likely, or to what was declared where that is more. A largest change (angle, slope, displacement,
    amount, gain, offset, or what shrinking takes away) is multiplied up to what its setting allows.
    """
    if params.strength == 1:
        return params
    sections = {name: _stronger(name, section, params.strength) for name, section in params.operations.items()}
    return params.model_copy(update=sections | {"strength": 1.0})


EVEN_CHANCE = {"horizontal_flip": 1 / 2, "vertical_flip": 1 / 2, "quarter_turns": 3 / 4}
"""The probabilities with which all outcomes are equally likely."""
NEUTRAL = {"factor": 1.0, "gain": 1.0}
"""Of the largest changes, those that change nothing at a value other than 0."""
CHANGES = ("degrees", "factor", "slope", "displacement", "amount", "gain", "offset")


def _stronger(name: str, section: ChanceParams, strength: float) -> ChanceParams:
    most = max(section.probability, EVEN_CHANCE.get(name, 1))
    told = {"probability": min(section.probability * strength, most)}
    for change in CHANGES:
        if hasattr(section, change):
            value, neutral = getattr(section, change), NEUTRAL.get(change, 0.0)
            told[change] = _allowed(section, change, neutral + strength * (value - neutral))
    return section.model_copy(update=told)


def _allowed(section: ChanceParams, name: str, value: float) -> float:
    """The value within the bounds of its field, and of what never folds a picture."""
    for bound in type(section).model_fields[name].metadata:
        value = max(value, getattr(bound, "ge", value))
        value = min(value, getattr(bound, "le", value))
    return min(value, 0.846 * section.sigma) if isinstance(section, ElasticParams) else value


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
