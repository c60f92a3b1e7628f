"""Pictures composed from a bank, each from its own random stream."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement, product
from typing import Any

import cv2
import numpy as np
from scipy import ndimage

from cytoloop.params import SmearParams
from cytoloop.smear.bank import ORDER, PICTURE, SPLITS, Background, Bank, Cells, affix, make_bank, make_cells, stream
from cytoloop.smear.cells import Cell
from cytoloop.smear.protocol import AFFIXED, CLASSES, PictureProtocol, Protocol

Array = np.ndarray[Any, Any]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class SmearPicture:
    """A composed picture with its truth.

    id: split, number and the classes affixed, as "train-00012-neutrophil-thrombocyte".
    split: train, val or test.
    image_HW3: uint8 RGB.
    ids_HW: uint8 class ids, of the top-most cell that covers at least half of a pixel.
    instances_HW: uint16; 0 is no cell.
    objects: (class name, (x, y, width, height)) of instances 1, 2, ... as far as they show.
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
    """Train, then val, then test pictures, one at a time."""
    cells = make_cells(protocol, params) if cells is None else cells
    start = 0
    for split, count in zip(SPLITS, (params.train, params.valid, params.test), strict=True):
        wanted = [k for k in range(count) if indices is None or start + k in indices]
        start += count
        if wanted:
            bank = make_bank(protocol, params, split, cells)
            yield from (compose_picture(protocol, params, bank, k) for k in wanted)


def compose_picture(protocol: Protocol, params: SmearParams, bank: Bank, k: int) -> SmearPicture:
    rng = stream(params.seed, PICTURE, SPLITS.index(bank.split), k)
    kind, names = combination(protocol, params.seed, bank.split, k)
    absorbance, owner, classes = cut_block(bank.backgrounds[kind], params.size, rng)
    spots = np.empty((0, 3))
    for name in sorted(names, key=lambda name: -AFFIXED.index(name)):
        cell = bank.cells[name][int(rng.integers(len(bank.cells[name])))]
        spots = np.vstack([spots, free_spot(cell, spots, protocol.pixel_um, params.size, rng)])
        affix(absorbance, owner, cell, len(classes), spots[-1, :2], rng, protocol.picture.opacity)
        classes = np.append(classes, np.uint8(CLASSES.index(name)))
    image = develop(absorbance, protocol.picture, bank.grain_HW3, rng)
    ids, instances, objects = truth(owner, classes)
    name = "-".join([bank.split, f"{k:05d}", *names])
    return SmearPicture(name, bank.split, image, ids, instances, objects)


def combination(protocol: Protocol, seed: int, split: str, k: int) -> tuple[str, tuple[str, ...]]:
    """The background and the classes of picture k: every combination comes once, in random order, then again."""
    fewest, most = protocol.picture.objects
    sets = [names for n in range(fewest, most + 1) for names in combinations_with_replacement(AFFIXED, n)]
    every = list(product(protocol.background.mixes, sets))
    round_, place = divmod(k, len(every))
    return every[stream(seed, ORDER, SPLITS.index(split), round_).permutation(len(every))[place]]


def cut_block(backgrounds: tuple[Background, ...], size: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    background = backgrounds[int(rng.integers(len(backgrounds)))]
    side = len(background.owner_HW)
    y, x = rng.integers(0, side - size + 1, 2)
    absorbance = background.absorbance_HW3[y : y + size, x : x + size]
    owner = background.owner_HW[y : y + size, x : x + size]
    turn, mirrored = int(rng.integers(4)), bool(rng.random() < 0.5)
    block = [absorbance.copy(), owner.copy()]
    if turn < 3:
        block = [cv2.rotate(layer, turn) for layer in block]
    if mirrored:
        block = [cv2.flip(layer, 1) for layer in block]
    return block[0], block[1], background.classes_N


def free_spot(cell: Cell, spots: Array, pixel_um: float, size: int, rng: np.random.Generator) -> Array:
    """(x, y, radius) in pixels where the cell overlaps earlier spots least, of 24 tries."""
    radius = cell.diameter_um / 2 / pixel_um
    margin = min(0.55 * radius, size / 2)
    tries = rng.uniform(margin, size - margin, (24, 2))
    if not len(spots):
        return np.append(tries[0], radius)
    gaps = np.hypot(tries[:, None, 0] - spots[None, :, 0], tries[:, None, 1] - spots[None, :, 1]) - spots[:, 2] - radius
    least = np.minimum(gaps.min(1), 1.0)
    return np.append(tries[least.argmax()], radius)


def develop(absorbance_HW3: Array, protocol: PictureProtocol, grain_HW3: Array, rng: np.random.Generator) -> Array:
    """uint8 (H, W, 3): stain, light, defocus and sensor of one picture."""
    size = len(absorbance_HW3)
    strength = np.exp(rng.normal(0, protocol.stain_strength) + rng.normal(0, protocol.stain_hue, 3))
    plasma = protocol.plasma_light * (1 + rng.normal(0, protocol.plasma_variation, 3))
    image = cv2.exp(cv2.transform(absorbance_HW3, np.column_stack([-np.diag(strength), np.log(255 * plasma)])))
    across = np.linspace(-1, 1, size, dtype=np.float32)
    tilt_x, tilt_y = rng.uniform(-0.5, 0.5, 2) * protocol.illumination
    corners = rng.uniform(0, 0.5) * protocol.vignette * across**2
    light = (1 + float(tilt_y) * across - corners)[:, None] + (float(tilt_x) * across - corners)
    image = cv2.GaussianBlur(image * cv2.merge([light, light, light]), (0, 0), rng.uniform(*protocol.defocus_px))
    y, x = rng.integers(0, len(grain_HW3) - size + 1, 2)
    grain = grain_HW3[y : y + size, x : x + size]
    return cv2.addWeighted(image, 1, grain, protocol.noise, 0, dtype=cv2.CV_8U)


def truth(owner_HW: Array, classes_N: Array) -> tuple[Array, Array, list[tuple[str, Box]]]:
    shows = np.zeros(len(classes_N), bool)
    shows[owner_HW.ravel()] = True
    present = 1 + np.flatnonzero(shows[1:])
    number = np.zeros(len(classes_N), np.uint16)
    number[present] = np.arange(1, len(present) + 1)
    instances = number.take(owner_HW)
    boxes = [(x.start, y.start, x.stop - x.start, y.stop - y.start) for y, x in ndimage.find_objects(instances)]
    names = [CLASSES[classes_N[n]] for n in present]
    return classes_N.take(owner_HW), instances, list(zip(names, boxes, strict=True))
