"""Red cells strewn over plasma: the large backgrounds that pictures are cropped from."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from cytoloop.smear.cells import Cell
from cytoloop.smear.noise import fractal_noise, ramp
from cytoloop.smear.protocol import CLASSES, RED_CELLS, Protocol

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Scene:
    """Cells on plasma, as light goes through them.

    absorbance_HW3: float32.
    owners_HW: uint16, the number of the cell that a pixel belongs to; 0 is plasma.
    classes: the class id of each number.
    """

    absorbance_HW3: Array
    owners_HW: Array
    classes: list[int] = field(default_factory=lambda: [0])

    def affix(self, cell: Cell, centre: Array, opacity: float, rng: np.random.Generator) -> None:
        """Lay a cell, turned at random, over what is there, in place.

        It owns the pixels that it covers at least half, and replaces the fraction `opacity` of what
        it covers; at 0 the absorbances add up. `centre` is (x, y) in pixels.
        """
        x, y = centre.tolist()
        patch = cell.turned(rng.uniform(0, 2 * np.pi), bool(rng.random() < 0.5), (x % 1, y % 1))
        left, top = int(x // 1) - cell.reach, int(y // 1) - cell.reach
        height, width = self.owners_HW.shape
        shown = patch[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
        self.classes.append(CLASSES.index(cell.name))
        if not shown.size:
            return
        window = slice(max(top, 0), max(top, 0) + len(shown)), slice(max(left, 0), max(left, 0) + shown.shape[1])
        covered = cv2.extractChannel(shown, 3)
        block = self.absorbance_HW3[window]
        if opacity:
            cv2.multiply(block, cv2.merge([1 - opacity * covered] * 3), block)
        cv2.add(block, cv2.cvtColor(shown, cv2.COLOR_BGRA2BGR), block)
        self.owners_HW[window][covered >= 0.5] = len(self.classes) - 1

    def block(self, x: int, y: int, size: int, mirrored: int) -> "Scene":
        """A copy of the square from (x, y), mirrored: 0 not at all, 1 left and right, 2 up and down, 3 both."""
        window = slice(y, y + size), slice(x, x + size)
        layers = self.absorbance_HW3[window], self.owners_HW[window]
        absorbance, owners = (cv2.flip(part, (1, 0, -1)[mirrored - 1]) if mirrored else part.copy() for part in layers)
        return Scene(absorbance, owners, list(self.classes))


def make_background(
    protocol: Protocol, cells: dict[str, tuple[Cell, ...]], infected: float, side: int, rng: np.random.Generator
) -> Scene:
    """Strew red cells over plasma; their absorbances add up where they lie on one another."""
    pool = stained_alike([cell for name in RED_CELLS for cell in cells[name]], rng)
    odds = [
        f / len(cells[name]) for name, f in zip(RED_CELLS, (infected, 1 - infected), strict=True) for _ in cells[name]
    ]
    radii = np.array([cell.diameter_um for cell in pool]) / 2 / protocol.pixel_um
    centres, chosen = scatter(protocol, side, radii, np.array(odds), rng)
    scene = Scene(make_plasma(protocol, side, rng), np.zeros((side, side), np.uint16))
    for centre, which in zip(centres, chosen, strict=True):
        scene.affix(pool[which], centre, 0.0, rng)
    return scene


def stained_alike(pool: list[Cell], rng: np.random.Generator) -> list[Cell]:
    """Red cells as of one smear: those of all pictures get the stain of one of the pictures, taken at random.

    Otherwise the stain would tell which picture a cell was cropped from, and so its class. Drawn
    cells count as those of one picture.
    """
    of_source: dict[str | None, list[Array]] = defaultdict(list)
    for cell in pool:
        of_source[cell.source].append(cell.stain_3)
    stains = {source: np.median(stains, axis=0) for source, stains in of_source.items()}
    wanted = stains[pool[int(rng.integers(len(pool)))].source]
    return [
        cell if stains[cell.source] is wanted else cell.stained(own_3=stains[cell.source], other_3=wanted)
        for cell in pool
    ]


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
    near = Near(2.1 * float(radii.max()))
    chosen: list[int] = []
    covered = 0.0
    for n in np.flatnonzero(dense_enough).tolist():
        (x, y), radius = centres[n].tolist(), float(radii[n])
        if not near.overlapped(x, y, radius, float(least[n])):
            near.add(x, y, radius)
            chosen.append(n)
            covered += np.pi * radius**2
            if covered >= wanted:
                break
    return centres[chosen], which[chosen]


class Near:
    """Circles by the square of `side` that their centre is in: those less than `side` away are in nine squares."""

    def __init__(self, side: float) -> None:
        self._side = side
        self._squares: dict[tuple[int, int], list[tuple[float, float, float]]] = defaultdict(list)

    def add(self, x: float, y: float, radius: float) -> None:
        self._squares[int(x // self._side), int(y // self._side)].append((x, y, radius))

    def overlapped(self, x: float, y: float, radius: float, least: float) -> bool:
        """Whether a circle is nearer to another than `least` times the sum of their radii (less than `side`)."""
        column, row = int(x // self._side), int(y // self._side)
        return any(
            (x - cx) ** 2 + (y - cy) ** 2 <= (least * (radius + r)) ** 2
            for right in (column - 1, column, column + 1)
            for down in (row - 1, row, row + 1)
            for cx, cy, r in self._squares.get((right, down), ())
        )


def make_plasma(protocol: Protocol, side: int, rng: np.random.Generator) -> Array:
    """float32 (side, side, 3) absorbance of the dried film: slow shades, fine mottling, specks of stain."""
    coarse = (side // 4 + 1, side // 4 + 1)
    shade = 0.015 * fractal_noise(coarse, 40, rng, 3) + 0.007 * fractal_noise(coarse, 2.5, rng, 2)
    tinted = cv2.merge([np.float32(tint) * shade for tint in (0.8, 1.2, 0.9)])
    plasma = np.asarray(cv2.resize(tinted, (side, side), interpolation=cv2.INTER_CUBIC))
    count = rng.poisson(protocol.background.precipitate_per_mm2 * (side * protocol.pixel_um / 1000) ** 2)
    spot = cv2.getGaussianKernel(7, 0.9) @ cv2.getGaussianKernel(7, 0.9).T
    stain = np.array(protocol.stains["precipitate"], np.float32)
    for x, y in rng.integers(3, side - 3, (count, 2)).tolist():
        thick = np.minimum(rng.gamma(2.0, 1.5) * spot, 0.8)
        plasma[y - 3 : y + 4, x - 3 : x + 4] += thick[..., None] * stain
    return plasma
