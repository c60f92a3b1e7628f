"""The bank that pictures are composed from: cells divided between the splits, and backgrounds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cytoloop.artifacts import TEST, TRAIN, VAL
from cytoloop.params import SmearParams
from cytoloop.smear.backgrounds import Scene, make_background
from cytoloop.smear.cells import Cell, draw_cell
from cytoloop.smear.crops import crop_cells
from cytoloop.smear.protocol import CELLS, Protocol

Array = np.ndarray[Any, Any]
Cells = dict[str, dict[str, tuple[Cell, ...]]]  # split -> class -> cells

SPLITS = (TRAIN, VAL, TEST)
DRAWING, GROUPS, BACKGROUND, GRAIN, ORDER, PICTURE = range(6)  # what a random stream is for


def stream(seed: int, purpose: int, *numbers: int) -> np.random.Generator:
    """The random stream of one thing, which does not depend on what else is made."""
    return np.random.default_rng([seed, purpose, *numbers])


@dataclass(frozen=True)
class Bank:
    """All that the pictures of one split are composed from; it is only read.

    cells: class -> the split's cells.
    backgrounds: kind -> backgrounds of the split's red cells.
    grain_HW3: float32 sensor noise of standard deviation 1.
    """

    split: str
    cells: dict[str, tuple[Cell, ...]]
    backgrounds: dict[str, tuple[Scene, ...]]
    grain_HW3: Array


def shares(count: int) -> dict[str, int]:
    """80, 10 and 10 per cent of `count` (at least 3), for train, val and test.

    >>> shares(40)
    {'train': 32, 'val': 4, 'test': 4}
    """
    tenth = max(1, round(count / 10))
    return {TRAIN: count - 2 * tenth, VAL: tenth, TEST: tenth}


def make_cells(protocol: Protocol, params: SmearParams) -> Cells:
    """The cells of each split, disjoint: cropped from `params.cells_from`, or drawn.

    Drawn cells fill in where a split has no cropped one of a class; `cell_facts` tells where.

    Raises:
        ArtifactError: `params.cells_from` is no finished table.
    """
    wanted = shares(params.cells_per_class)
    cells: Cells = {split: dict.fromkeys(CELLS, ()) for split in SPLITS}
    if params.cells_from is not None:
        cells = crop_cells(Path(params.cells_from), protocol, wanted, stream(params.seed, GROUPS))
    first = 0
    for split, share in wanted.items():
        for name in CELLS:
            if not cells[split][name]:
                streams = (stream(params.seed, DRAWING, CELLS.index(name), first + n) for n in range(share))
                cells[split][name] = tuple(draw_cell(protocol, name, rng) for rng in streams)
        first += share
    return cells


def cell_facts(cells: Cells) -> dict[str, float]:
    """`drawn_<class>` and `cropped_<class>`: how many cells of each class the bank has, of all splits."""
    facts = {}
    for name in CELLS:
        sources = [cell.source for split in cells.values() for cell in split[name]]
        facts[f"drawn_{name}"] = float(sources.count(None))
        facts[f"cropped_{name}"] = float(len(sources) - sources.count(None))
    return facts


def make_bank(protocol: Protocol, params: SmearParams, split: str, cells: Cells) -> Bank:
    """The bank of one split; a background is as large as the protocol says, or as a picture."""
    side = max(protocol.background.side, params.size)
    backgrounds = {}
    for kind, (name, infected) in enumerate(protocol.background.mixes.items()):
        numbers = range(protocol.background.count[split])
        streams = (stream(params.seed, BACKGROUND, SPLITS.index(split), kind, n) for n in numbers)
        backgrounds[name] = tuple(make_background(protocol, cells[split], infected, side, rng) for rng in streams)
    return Bank(split, cells[split], backgrounds, make_grain(side, stream(params.seed, GRAIN)))


def make_grain(side: int, rng: np.random.Generator) -> Array:
    """Sensor noise, a little correlated between neighbours as after demosaicing."""
    grain = cv2.GaussianBlur(rng.standard_normal((side, side, 3), np.float32), (0, 0), 0.5)
    return np.asarray(grain / float(grain.std()))
