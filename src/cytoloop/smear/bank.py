"""The bank that pictures are composed from: cells divided between the splits, and backgrounds."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from cytoloop.params import SmearParams
from cytoloop.smear.cells import Cell, draw_cell
from cytoloop.smear.noise import fractal_noise, ramp
from cytoloop.smear.protocol import CELLS, CLASSES, Protocol

Array = np.ndarray[Any, Any]

SPLITS = ("train", "val", "test")
DRAWING, BACKGROUND, GROUPS, ORDER, PICTURE, GRAIN = range(6)  # what a random stream is for

Cells = dict[str, dict[str, tuple[Cell, ...]]]


def stream(seed: int, purpose: int, *numbers: int) -> np.random.Generator:
    """The random stream of one thing: it does not depend on what else is made."""
    return np.random.default_rng([seed, purpose, *numbers])


@dataclass(frozen=True)
class Background:
    """Red cells on plasma: what they absorb, whose each pixel is, and the class of each owner."""

    absorbance_HW3: Array
    owner_HW: Array
    classes_N: Array


@dataclass(frozen=True)
class Bank:
    """All that pictures of one split are composed from; read only."""

    split: str
    cells: dict[str, tuple[Cell, ...]]
    backgrounds: dict[str, tuple[Background, ...]]
    grain_HW3: Array


def shares(count: int) -> dict[str, int]:
    """80, 10 and 10 per cent of `count` cells, at least one each."""
    tenth = max(1, round(count / 10))
    return {"train": count - 2 * tenth, "val": tenth, "test": tenth}


def make_cells(protocol: Protocol, params: SmearParams) -> Cells:
    """split -> class -> cells, drawn; cell n of a class is the same whatever the count."""
    cells: Cells = {split: {} for split in SPLITS}
    for number, name in enumerate(CELLS, 1):
        drawn = [
            draw_cell(protocol, name, stream(params.seed, DRAWING, number, n)) for n in range(params.cells_per_class)
        ]
        start = 0
        for split, share in shares(len(drawn)).items():
            cells[split][name] = tuple(drawn[start : start + share])
            start += share
    return cells


def make_bank(protocol: Protocol, params: SmearParams, split: str, cells: Cells) -> Bank:
    """The bank of one split: its own cells, and backgrounds of its own red cells."""
    side = max(protocol.background.side, params.size)
    backgrounds = {}
    for kind, (name, infected) in enumerate(protocol.background.mixes.items()):
        streams = (
            stream(params.seed, BACKGROUND, SPLITS.index(split), kind, n)
            for n in range(protocol.background.count[split])
        )
        backgrounds[name] = tuple(make_background(protocol, cells[split], infected, side, rng) for rng in streams)
    return Bank(split, cells[split], backgrounds, make_grain(side, stream(params.seed, GRAIN)))


def make_grain(side: int, rng: np.random.Generator) -> Array:
    """float32 (side, side, 3) sensor noise of standard deviation 1, a little correlated as after demosaicing."""
    white = rng.standard_normal((side, side, 3), np.float32)
    grain = cv2.GaussianBlur(white, (0, 0), 0.5)
    return grain / grain.std()


def scatter(protocol: Protocol, side: int, diameters: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Centres (n, 2) in pixels and indices (n,) of red cells strewn over a square.

    Candidates come one after another; few may lie on an earlier one, and some regions are thinner
    than others. Ends at the protocol's coverage, or when a hundred times as many did not fit.
    """
    wanted = rng.uniform(*protocol.background.coverage) * side * side
    density = ramp(fractal_noise((64, 64), 22, rng, 2), -1.2, 0.6)
    count = int(100 * wanted / np.square(diameters.mean() / protocol.pixel_um))
    which = rng.integers(len(diameters), size=count)
    radii = diameters[which] / 2 / protocol.pixel_um
    centres = rng.uniform(-radii, side + radii, (2, count)).T
    gaps = np.where(rng.random(count) < protocol.background.overlapping, 0.62, 1.02)
    place = np.clip(centres / side * 64, 0, 63).astype(int)
    likely = np.flatnonzero(rng.random(count) < 0.25 + 0.75 * density[place[:, 1], place[:, 0]])
    kept: list[int] = []
    for n in likely:
        near = centres[kept] - centres[n]
        if (near[:, 0] ** 2 + near[:, 1] ** 2 > (gaps[n] * (radii[kept] + radii[n])) ** 2).all():
            kept.append(n)
            if np.pi * np.square(radii[kept]).sum() >= wanted:
                break
    return centres[kept], which[kept]


def make_background(
    protocol: Protocol, cells: dict[str, tuple[Cell, ...]], infected: float, side: int, rng: np.random.Generator
) -> Background:
    """Strew red cells over plasma; their absorbances add up where they lie on one another."""
    pool = cells["infected_rbc"] + cells["healthy_rbc"]
    centres, chosen = scatter(protocol, side, np.array([cell.diameter_um for cell in pool]), rng)
    absorbance, owner = make_plasma(protocol, side, rng), np.zeros((side, side), np.uint16)
    classes = np.zeros(len(chosen) + 1, np.uint8)
    for number, centre in enumerate(centres, 1):
        name = "infected_rbc" if rng.random() < infected else "healthy_rbc"
        cell = cells[name][int(rng.integers(len(cells[name])))]
        affix(absorbance, owner, cell, number, centre, rng, opacity=0.0)
        classes[number] = CLASSES.index(name)
    return Background(absorbance, owner, classes)


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
    stain = protocol.stains["precipitate"]
    return cv2.merge([tint * shade + speck * specks for tint, speck in zip((0.8, 1.2, 0.9), stain, strict=True)])


def affix(
    absorbance_HW3: Array,
    owner_HW: Array,
    cell: Cell,
    number: int,
    centre: Array,
    rng: np.random.Generator,
    opacity: float,
) -> None:
    """Lay a cell, turned at random, on a picture in place; it owns the pixels that it covers at least half."""
    corner = np.floor(centre).astype(int)
    offset = (centre - corner).tolist()
    patch = cell.turned(rng.uniform(0, 2 * np.pi), bool(rng.random() < 0.5), offset)
    left, top = (corner - cell.reach).tolist()
    height, width = owner_HW.shape
    rows, columns = slice(max(top, 0), min(top + len(patch), height)), slice(max(left, 0), min(left + len(patch), width))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    patch = patch[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    red, green, blue, covered = cv2.split(patch)
    block = absorbance_HW3[rows, columns]
    if opacity:
        below = 1 - opacity * covered
        block *= cv2.merge([below, below, below])
    block += cv2.merge([red, green, blue])
    owner_HW[rows, columns][covered >= 0.5] = number
