"""Pictures composed from a bank, each from its own random stream."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from itertools import combinations_with_replacement, product
from pathlib import Path
from typing import Any, Self, overload

import cv2
import numpy as np

from cytoloop.params import SmearParams
from cytoloop.smear.backgrounds import Scene
from cytoloop.smear.bank import (
    GROUPS,
    ORDER,
    PICTURE,
    SPLITS,
    Bank,
    Cells,
    located,
    make_bank,
    pictures,
    shares,
    stream,
)
from cytoloop.smear.crops import crop_cells
from cytoloop.smear.protocol import AFFIXED, CELLS, CLASSES, PictureProtocol, Protocol

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
    names: class of instances 1, 2, ...
    """

    id: str
    split: str
    image_HW3: Array
    ids_HW: Array
    instances_HW: Array
    names: list[str]

    @property
    def objects(self) -> list[tuple[str, Box]]:
        """(class name, (x, y, width, height)) of instances 1, 2, ... as far as they show, pixels."""
        from scipy import ndimage  # takes half a second to import, and composing does without

        slices = ndimage.find_objects(self.instances_HW)
        boxes = [(x.start, y.start, x.stop - x.start, y.stop - y.start) for y, x in slices]
        return list(zip(self.names, boxes, strict=True))


class Smears(Sequence[SmearPicture]):
    """The pictures of train, then val, then test, composed when they are asked for.

    A picture depends on the protocol, the params and its place, and on no other picture; any
    process may compose any of them. In order they come fastest.

    Args:
        protocol: what is drawn, and how it is put together.
        params: how many pictures, how large, of which cells, and the seed.
        shared: folder by which processes that compose the same pictures share the drawing of cells.
    """

    def __init__(self, protocol: Protocol, params: SmearParams, shared: Path | None = None) -> None:
        self.protocol, self.params, self.shared = protocol, params, shared
        self._bank: Bank | None = None

    def __reduce__(self) -> tuple[type[Self], tuple[Protocol, SmearParams, Path | None]]:
        """Sent to another process without the cells, which are too large to send."""
        return type(self), (self.protocol, self.params, self.shared)

    def __len__(self) -> int:
        return sum(pictures(self.params).values())

    @overload
    def __getitem__(self, place: int) -> SmearPicture: ...
    @overload
    def __getitem__(self, place: slice) -> list[SmearPicture]: ...
    def __getitem__(self, place: int | slice) -> SmearPicture | list[SmearPicture]:
        """A picture by its place, or those of a range of places; raises ArtifactError as `crop_cells`."""
        if isinstance(place, slice):
            return [self[k] for k in range(len(self))[place]]
        split, k = located(self.params, range(len(self))[place])
        return compose_picture(self._bank_of(split), k)

    @cached_property
    def cropped(self) -> dict[str, Cells]:
        """split -> class -> real cells, cropped from the folders `params.cells_from`."""
        folders = [Path(folder) for folder in self.params.cells_from]
        rng = stream(self.params.seed, GROUPS)
        return crop_cells(folders, self.protocol, shares(self.params.cells_per_class), rng)

    def drawn(self) -> dict[str, list[str]]:
        """class -> splits that have no real cell of it, and drawn ones instead."""
        without = {name: [split for split in SPLITS if not self.cropped[split][name]] for name in CELLS}
        return {name: splits for name, splits in without.items() if splits}

    def _bank_of(self, split: str) -> Bank:
        if self._bank is None or self._bank.split != split:
            self._bank = make_bank(self.protocol, self.params, split, self.cropped[split], self.shared)
        return self._bank


def compose_picture(bank: Bank, k: int) -> SmearPicture:
    """Picture k of the bank's split: a pure function, whatever other pictures are made."""
    protocol, params = bank.protocol, bank.params
    rng = stream(params.seed, PICTURE, SPLITS.index(bank.split), k)
    kind, names = combination(protocol, params.seed, bank.split, k)
    scene = cut_block(bank.background(kind, k), params.size, rng)
    spots = np.empty((0, 3))
    for name in sorted(names, key=AFFIXED.index, reverse=True):  # platelets first, white cells over them
        cell = bank.cells[name][int(rng.integers(len(bank.cells[name])))]
        spots = np.vstack([spots, free_spot(cell.diameter_um / 2 / protocol.pixel_um, spots, params.size, rng)])
        scene.affix(cell, spots[-1, :2], protocol.picture.opacity, rng)
    image = develop(scene.absorbance_HW3, protocol.picture, bank.grain_HW3, rng)
    ids, instances, shown = truth(scene.owners_HW, np.array(scene.classes, np.uint8))
    return SmearPicture("-".join([bank.split, f"{k:05d}", *names]), bank.split, image, ids, instances, shown)


def combination(protocol: Protocol, seed: int, split: str, k: int) -> tuple[str, tuple[str, ...]]:
    """The background and the affixed classes of picture k of a split.

    There are as many combinations as `combinations` has: the kinds of background (infected, healthy
    and mixed red cells) times the multisets of 0 to 3 of the seven affixed classes (five white cells,
    thrombocyte, platelet clump), which are 3 x (1 + 7 + 28 + 84) = 360 by the embedded protocol.
    Each comes once among pictures 0 to 359, in an order of the seed and the split; then each comes
    once again, in another order, and so on. So the numbers of pictures of any two combinations
    differ by one at most (65,350 pictures: 181 or 182 of each), every kind of background has a
    third of the pictures, and every affixed class is as frequent as the others.
    """
    every = combinations(tuple(protocol.background.mixes), *protocol.picture.objects)
    repeat, place = divmod(k, len(every))
    return every[_order(seed, SPLITS.index(split), repeat, len(every))[place]]


@lru_cache(maxsize=4)
def _order(seed: int, split: int, repeat: int, count: int) -> list[int]:
    order: list[int] = stream(seed, ORDER, split, repeat).permutation(count).tolist()
    return order


@cache
def combinations(kinds: tuple[str, ...], fewest: int, most: int) -> list[tuple[str, tuple[str, ...]]]:
    """Every kind of background with every multiset of `fewest` to `most` affixed classes.

    >>> len(combinations(("infected", "healthy", "mixed"), 0, 3))
    360
    """
    numbers = range(fewest, most + 1)
    return list(product(kinds, (names for n in numbers for names in combinations_with_replacement(AFFIXED, n))))


def cut_block(background: Scene, size: int, rng: np.random.Generator) -> Scene:
    """A block of a background, mirrored at random; its cells are turned already."""
    x, y = rng.integers(0, len(background.owners_HW) - size + 1, 2).tolist()
    return background.block(x, y, size, int(rng.integers(4)))


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
    image = cv2.transform(absorbance_HW3, np.column_stack([-np.diag(strength), np.log(255 * plasma)]))
    cv2.exp(image, image)
    across = np.linspace(-1, 1, size, dtype=np.float32)
    tilt_x, tilt_y = (rng.uniform(-0.5, 0.5, 2) * protocol.illumination).tolist()
    corners = float(rng.uniform(0, 0.5) * protocol.vignette) * across**2
    light = (1 + tilt_y * across - corners)[:, None] + (tilt_x * across - corners)
    cv2.multiply(image, cv2.merge([light] * 3), image)
    cv2.GaussianBlur(image, (0, 0), float(rng.uniform(*protocol.defocus_px)), image)
    y, x = rng.integers(0, len(grain_HW3) - size + 1, 2)
    grain = grain_HW3[y : y + size, x : x + size]
    return np.asarray(cv2.addWeighted(image, 1, grain, protocol.noise, 0, dtype=cv2.CV_8U))


def truth(owners_HW: Array, classes_N: Array) -> tuple[Array, Array, list[str]]:
    """Class ids, instances numbered 1, 2, ... and the class of each, from the owners that show."""
    present = 1 + np.flatnonzero(np.bincount(owners_HW.ravel(), minlength=len(classes_N))[1:])
    numbers = np.zeros(len(classes_N), np.uint16)
    numbers[present] = np.arange(1, len(present) + 1)
    names = [CLASSES[classes_N[owner]] for owner in present]
    return classes_N.take(owners_HW), numbers.take(owners_HW), names
