"""Pictures composed from a bank, each from its own random stream."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations_with_replacement, product
from typing import Any

import cv2
import numpy as np
from scipy import ndimage

from cytoloop.params import SmearParams
from cytoloop.smear.backgrounds import Scene
from cytoloop.smear.bank import ORDER, PICTURE, SPLITS, Bank, Cells, make_bank, make_cells, stream
from cytoloop.smear.protocol import AFFIXED, CLASSES, PictureProtocol, Protocol

Array = np.ndarray[Any, Any]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class SmearPicture:
    """A composed picture with its truth.

    id: split, number and the classes affixed, as "train-00012-neutrophil-thrombocyte".
    split: train, val or test.
    image_HW3: uint8 RGB.
    ids_HW: uint8 class ids; a pixel is the top-most cell's that covers at least half of it.
    instances_HW: uint16; 0 is no cell.
    objects: (class name, (x, y, width, height)) of instances 1, 2, ... as far as they show, pixels.
    """

    id: str
    split: str
    image_HW3: Array
    ids_HW: Array
    instances_HW: Array
    objects: list[tuple[str, Box]]


def compose_smears(
    protocol: Protocol, params: SmearParams, indices: range | None = None, cells: Cells | None = None
) -> Iterator[SmearPicture]:
    """Compose train, then val, then test pictures, one at a time.

    Args:
        protocol: what is drawn, and how it is put together.
        params: how many pictures, how large, of how many cells, and the seed.
        indices: places in that order to compose; None composes all.
        cells: of `make_cells`, where they are made already (for `cell_facts`).

    Raises:
        ArtifactError: `params.cells_from` is no finished table.
    """
    cells = make_cells(protocol, params) if cells is None else cells
    start = 0
    for split, count in zip(SPLITS, (params.train, params.valid, params.test), strict=True):
        numbers = [k for k in range(count) if indices is None or start + k in indices]
        if numbers:
            bank = make_bank(protocol, params, split, cells)
            yield from (compose_picture(protocol, params, bank, k) for k in numbers)
        start += count


def compose_picture(protocol: Protocol, params: SmearParams, bank: Bank, k: int) -> SmearPicture:
    """Picture k of the bank's split: a pure function, whatever other pictures are made."""
    rng = stream(params.seed, PICTURE, SPLITS.index(bank.split), k)
    kind, names = combination(protocol, params.seed, bank.split, k)
    scene = cut_block(bank.backgrounds[kind], params.size, rng)
    spots = np.empty((0, 3))
    for name in sorted(names, key=AFFIXED.index, reverse=True):  # platelets first, white cells over them
        cell = bank.cells[name][int(rng.integers(len(bank.cells[name])))]
        spots = np.vstack([spots, free_spot(cell.diameter_um / 2 / protocol.pixel_um, spots, params.size, rng)])
        scene.affix(cell, spots[-1, :2], protocol.picture.opacity, rng)
    image = develop(scene.absorbance_HW3, protocol.picture, bank.grain_HW3, rng)
    ids, instances, objects = truth(scene.owners_HW, np.array(scene.classes, np.uint8))
    return SmearPicture("-".join([bank.split, f"{k:05d}", *names]), bank.split, image, ids, instances, objects)


def combination(protocol: Protocol, seed: int, split: str, k: int) -> tuple[str, tuple[str, ...]]:
    """The background and the affixed classes of picture k: each combination comes once, in random order, then again."""
    every = combinations(tuple(protocol.background.mixes), *protocol.picture.objects)
    repeat, place = divmod(k, len(every))
    order = stream(seed, ORDER, SPLITS.index(split), repeat).permutation(len(every))
    return every[int(order[place])]


@cache
def combinations(kinds: tuple[str, ...], fewest: int, most: int) -> list[tuple[str, tuple[str, ...]]]:
    """Every kind of background with every multiset of `fewest` to `most` affixed classes.

    >>> len(combinations(("infected", "healthy", "mixed"), 0, 3))
    360
    """
    numbers = range(fewest, most + 1)
    return list(product(kinds, (names for n in numbers for names in combinations_with_replacement(AFFIXED, n))))


def cut_block(backgrounds: tuple[Scene, ...], size: int, rng: np.random.Generator) -> Scene:
    """A block of a background, turned and mirrored at random."""
    background = backgrounds[int(rng.integers(len(backgrounds)))]
    x, y = rng.integers(0, len(background.owners_HW) - size + 1, 2).tolist()
    return background.block(x, y, size).turned(int(rng.integers(4)), bool(rng.random() < 0.5))


def free_spot(radius: float, spots_N3: Array, size: int, rng: np.random.Generator) -> Array:
    """(x, y, radius), pixels: of 24 tries the first that touches no earlier spot, or that which overlaps least."""
    margin = min(0.55 * radius, size / 2)
    tries = rng.uniform(margin, size - margin, (24, 2))
    if not len(spots_N3):
        return np.append(tries[0], radius)
    away = np.linalg.norm(tries[:, None] - spots_N3[None, :, :2], axis=-1)
    gaps = np.minimum((away - spots_N3[:, 2] - radius).min(1), 1.0)
    return np.append(tries[gaps.argmax()], radius)


def develop(absorbance_HW3: Array, protocol: PictureProtocol, grain_HW3: Array, rng: np.random.Generator) -> Array:
    """uint8 (H, W, 3): the picture that stain, lamp, defocus and sensor make of an absorbance (Beer-Lambert's law)."""
    size = len(absorbance_HW3)
    strength = np.exp(rng.normal(0, protocol.stain_strength) + rng.normal(0, protocol.stain_hue, 3))
    plasma = protocol.plasma_light * (1 + rng.normal(0, protocol.plasma_variation, 3))
    image = cv2.exp(cv2.transform(absorbance_HW3, np.column_stack([-np.diag(strength), np.log(255 * plasma)])))
    across = np.linspace(-1, 1, size, dtype=np.float32)
    tilt_x, tilt_y = (rng.uniform(-0.5, 0.5, 2) * protocol.illumination).tolist()
    corners = float(rng.uniform(0, 0.5) * protocol.vignette) * across**2
    light = (1 + tilt_y * across - corners)[:, None] + (tilt_x * across - corners)
    image = cv2.GaussianBlur(image * cv2.merge([light] * 3), (0, 0), float(rng.uniform(*protocol.defocus_px)))
    y, x = rng.integers(0, len(grain_HW3) - size + 1, 2)
    grain = grain_HW3[y : y + size, x : x + size]
    return np.asarray(cv2.addWeighted(image, 1, grain, protocol.noise, 0, dtype=cv2.CV_8U))


def truth(owners_HW: Array, classes_N: Array) -> tuple[Array, Array, list[tuple[str, Box]]]:
    """Class ids, instances numbered 1, 2, ... and the class and box of each, from the owners that show."""
    shows = np.zeros(len(classes_N), bool)
    shows[owners_HW.ravel()] = True
    present = 1 + np.flatnonzero(shows[1:])
    numbers = np.zeros(len(classes_N), np.uint16)
    numbers[present] = np.arange(1, len(present) + 1)
    instances = numbers.take(owners_HW)
    boxes = [(x.start, y.start, x.stop - x.start, y.stop - y.start) for y, x in ndimage.find_objects(instances)]
    names = [CLASSES[classes_N[owner]] for owner in present]
    return classes_N.take(owners_HW), instances, list(zip(names, boxes, strict=True))
