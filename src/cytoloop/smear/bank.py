"""The bank that the pictures of one split are composed from: cells that no other split has, and backgrounds."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cytoloop.artifacts import TEST, TRAIN, VAL
from cytoloop.params import SmearParams
from cytoloop.smear.backgrounds import Scene, make_background
from cytoloop.smear.cells import Cell, draw_cell, keep_cells, kept_cells
from cytoloop.smear.protocol import CELLS, Protocol

Array = np.ndarray[Any, Any]
Cells = dict[str, tuple[Cell, ...]]  # class -> cells

SPLITS = (TRAIN, VAL, TEST)
PUBLISHED = 500 / (65_350 + 6_560 + 6_560)  # backgrounds of each kind, for a picture
DRAWING, GROUPS, BACKGROUND, GRAIN, ORDER, PICTURE = range(6)  # what a random stream is for


def stream(seed: int, purpose: int, *numbers: int) -> np.random.Generator:
    """The random stream of one thing, which does not depend on what else is made."""
    return np.random.default_rng([seed, purpose, *numbers])


def shares(count: int, least: int = 1) -> dict[str, int]:
    """80, 10 and 10 per cent of `count`, for train, val and test, but at least `least` (of 3 x `least` or more).

    >>> shares(40)
    {'train': 32, 'val': 4, 'test': 4}
    """
    tenth = max(least, round(count / 10))
    return {TRAIN: count - 2 * tenth, VAL: tenth, TEST: tenth}


def pictures(params: SmearParams) -> dict[str, int]:
    """split -> pictures."""
    return {TRAIN: params.train, VAL: params.valid, TEST: params.test}


def located(params: SmearParams, place: int) -> tuple[str, int]:
    """The split and the number in it of a picture, by its place in train, then val, then test; or IndexError.

    >>> located(SmearParams(train=20, valid=5, test=5), 23)
    ('val', 3)
    """
    for split, count in pictures(params).items():
        if place < count:
            return split, place
        place -= count
    raise IndexError(place)


def backgrounds(params: SmearParams) -> dict[str, int]:
    """split -> backgrounds of each kind: 80, 10 and 10 per cent, as of the cells that they are made of; two at least.

    >>> backgrounds(SmearParams(train=65_350, valid=6_560, test=6_560))
    {'train': 400, 'val': 50, 'test': 50}
    """
    total = sum(pictures(params).values())
    count = params.backgrounds or max(10, round(PUBLISHED * total))
    return shares(count, least=min(2, count // 3))


@dataclass(frozen=True)
class Bank:
    """All that the pictures of one split are composed from.

    cells: class -> the split's cells.
    grain_HW3: float32 sensor noise of standard deviation 1, as large as a background.
    """

    protocol: Protocol
    params: SmearParams
    split: str
    cells: Cells
    grain_HW3: Array
    _latest: dict[str, tuple[int, Scene]] = field(default_factory=dict, repr=False, compare=False)

    def background(self, kind: str, k: int) -> Scene:
        """The background of picture k, of a kind.

        The pictures take the split's backgrounds one after another, each for as many pictures; so
        only the latest of each kind is kept in memory, however many there are.
        """
        number = k * backgrounds(self.params)[self.split] // pictures(self.params)[self.split]
        if kind not in self._latest or self._latest[kind][0] != number:
            self._latest[kind] = number, self._strewn(kind, number)
        return self._latest[kind][1]

    def _strewn(self, kind: str, number: int) -> Scene:
        mixes = self.protocol.background.mixes
        place = SPLITS.index(self.split), list(mixes).index(kind), number
        rng = stream(self.params.seed, BACKGROUND, *place)
        return make_background(self.protocol, self.cells, mixes[kind], len(self.grain_HW3), rng)


def make_bank(protocol: Protocol, params: SmearParams, split: str, cropped: Cells, shared: Path | None = None) -> Bank:
    """The bank of one split; classes of which no cell was cropped have drawn ones.

    A background is as large as the protocol says, or as a picture.

    Args:
        protocol: how large and how stained the cells are.
        params: how many cells, and their seed.
        split: train, val or test.
        cropped: the split's real cells.
        shared: folder by which processes that make the same bank share the drawing; each takes the
            classes in an order of its own.
    """
    cells = {}
    for number in np.random.default_rng(os.getpid()).permutation(len(CELLS)):
        name = CELLS[number]
        cells[name] = cropped.get(name) or drawn_cells(protocol, params, split, name, shared)
    side = max(protocol.background.side, params.size)
    return Bank(protocol, params, split, cells, make_grain(side, stream(params.seed, GRAIN)))


def drawn_cells(
    protocol: Protocol, params: SmearParams, split: str, name: str, shared: Path | None = None
) -> tuple[Cell, ...]:
    """A split's share of drawn cells of a class; what another process has left in `shared` is not drawn again."""
    path = shared / f"{split}-{name}.npz" if shared else None
    if path and path.is_file():
        return kept_cells(path, name)
    wanted = shares(params.cells_per_class)
    first = sum(wanted[earlier] for earlier in SPLITS[: SPLITS.index(split)])
    streams = (stream(params.seed, DRAWING, CELLS.index(name), first + n) for n in range(wanted[split]))
    cells = tuple(draw_cell(protocol, name, rng) for rng in streams)
    if path:
        keep_cells(path, cells)
    return cells


def make_grain(side: int, rng: np.random.Generator) -> Array:
    """Sensor noise, a little correlated between neighbours as after demosaicing."""
    grain = cv2.GaussianBlur(rng.standard_normal((side, side, 3), np.float32), (0, 0), 0.5)
    return np.asarray(grain / float(grain.std()))
