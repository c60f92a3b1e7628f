"""The bank that pictures are composed from: cells divided between the splits, and backgrounds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cytoloop.artifacts import TEST, TRAIN, VAL
from cytoloop.params import SmearParams
from cytoloop.smear.cells import Cell, draw_cell
from cytoloop.smear.crops import crop_cells
from cytoloop.smear.noise import fractal_noise, ramp
from cytoloop.smear.protocol import CELLS, CLASSES, RED_CELLS, Protocol

Array = np.ndarray[Any, Any]
Cells = dict[str, dict[str, tuple[Cell, ...]]]  # split -> class -> cells

SPLITS = (TRAIN, VAL, TEST)
DRAWING, GROUPS, BACKGROUND, GRAIN, ORDER, PICTURE = range(6)  # what a random stream is for


def stream(seed: int, purpose: int, *numbers: int) -> np.random.Generator:
    """The random stream of one thing, which does not depend on what else is made."""
    return np.random.default_rng([seed, purpose, *numbers])


@dataclass(frozen=True)
class Background:
    """Red cells on plasma.

    absorbance_HW3: float32.
    owners_HW: uint16, the number of the cell that a pixel belongs to; 0 is plasma.
    classes_N: uint8, the class id of each number.
    """

    absorbance_HW3: Array
    owners_HW: Array
    classes_N: Array


@dataclass(frozen=True)
class Bank:
    """All that the pictures of one split are composed from; it is only read.

    cells: class -> the split's cells.
    backgrounds: kind -> backgrounds of the split's red cells.
    grain_HW3: float32 sensor noise of standard deviation 1.
    """

    split: str
    cells: dict[str, tuple[Cell, ...]]
    backgrounds: dict[str, tuple[Background, ...]]
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


def make_background(
    protocol: Protocol, cells: dict[str, tuple[Cell, ...]], infected: float, side: int, rng: np.random.Generator
) -> Background:
    """Strew red cells over plasma; their absorbances add up where they lie on one another."""
    pool = [cell for name in RED_CELLS for cell in cells[name]]
    odds = [
        f / len(cells[name]) for name, f in zip(RED_CELLS, (infected, 1 - infected), strict=True) for _ in cells[name]
    ]
    radii = np.array([cell.diameter_um for cell in pool]) / 2 / protocol.pixel_um
    centres, chosen = scatter(protocol, side, radii, np.array(odds), rng)
    absorbance, owners = make_plasma(protocol, side, rng), np.zeros((side, side), np.uint16)
    for number, (centre, which) in enumerate(zip(centres, chosen, strict=True), 1):
        affix(absorbance, owners, pool[which], number, centre, rng, opacity=0.0)
    classes = [0, *(CLASSES.index(pool[which].name) for which in chosen)]
    return Background(absorbance, owners, np.array(classes, np.uint8))


def scatter(
    protocol: Protocol, side: int, radii_P: Array, odds_P: Array, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Where red cells of a pool lie in a square of `side` pixels: centres (n, 2), pixels, and pool indices (n,).

    Candidates come one after another; few may lie on an earlier one, and some regions are thinner
    than others. Ends at the protocol's coverage, or after a hundred times as many candidates.
    """
    wanted = rng.uniform(*protocol.background.coverage) * side * side
    count = int(100 * wanted / (np.pi * np.square(radii_P).mean()))
    which = rng.choice(len(radii_P), count, p=odds_P)
    radii = radii_P[which]
    centres = rng.uniform(-radii, side + radii, (2, count)).T
    density = ramp(fractal_noise((64, 64), 22, rng, 2), -1.2, 0.6)
    x, y = np.clip(centres.T / side * 64, 0, 63).astype(int)
    dense_enough = rng.random(count) < 0.25 + 0.75 * density[y, x]
    least = np.where(rng.random(count) < protocol.background.overlapping, 0.62, 1.02)
    kept: list[int] = []
    covered = 0.0
    for n in np.flatnonzero(dense_enough).tolist():
        away = centres[kept] - centres[n]
        if (np.square(away).sum(1) > np.square(least[n] * (radii[kept] + radii[n]))).all():
            kept.append(n)
            covered += np.pi * radii[n] ** 2
            if covered >= wanted:
                break
    return centres[kept], which[kept]


def make_plasma(protocol: Protocol, side: int, rng: np.random.Generator) -> Array:
    """float32 (side, side, 3) absorbance of the dried film: slow shades, fine mottling, specks of stain."""
    coarse = (side // 4 + 1, side // 4 + 1)
    shade = 0.015 * fractal_noise(coarse, 40, rng, 3) + 0.007 * fractal_noise(coarse, 2.5, rng, 2)
    shade = cv2.resize(shade, (side, side), interpolation=cv2.INTER_CUBIC)
    specks = np.zeros((side, side), np.float32)
    count = rng.poisson(protocol.background.precipitate_per_mm2 * (side * protocol.pixel_um / 1000) ** 2)
    for x, y in rng.integers(0, side, (count, 2)):
        specks[y, x] = rng.gamma(2.0, 1.5)
    specks = np.minimum(cv2.GaussianBlur(specks, (0, 0), 0.9), 0.8)
    tints = zip((0.8, 1.2, 0.9), protocol.stains["precipitate"], strict=True)
    return np.asarray(cv2.merge([np.float32(tint) * shade + np.float32(speck) * specks for tint, speck in tints]))


def affix(
    absorbance_HW3: Array,
    owners_HW: Array,
    cell: Cell,
    number: int,
    centre: Array,
    rng: np.random.Generator,
    opacity: float,
) -> None:
    """Lay a cell, turned at random, on a picture in place.

    It owns the pixels that it covers at least half, and replaces the fraction `opacity` of what it
    covers; at 0 the absorbances add up.
    """
    corner = np.floor(centre).astype(int)
    patch = cell.turned(rng.uniform(0, 2 * np.pi), bool(rng.random() < 0.5), (centre - corner).tolist())
    left, top = (corner - cell.reach).tolist()
    rows = slice(max(top, 0), min(top + len(patch), len(owners_HW)))
    columns = slice(max(left, 0), min(left + len(patch), owners_HW.shape[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    *added, covered = cv2.split(patch[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left])
    block = absorbance_HW3[rows, columns]
    if opacity:
        block *= cv2.merge([1 - opacity * covered] * 3)
    block += cv2.merge(added)
    owners_HW[rows, columns][covered >= 0.5] = number
