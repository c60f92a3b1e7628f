"""Red cells strewn over plasma: the large backgrounds that pictures are cropped from."""

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
        corner = np.floor(centre).astype(int)
        patch = cell.turned(rng.uniform(0, 2 * np.pi), bool(rng.random() < 0.5), (centre - corner).tolist())
        left, top = (corner - cell.reach).tolist()
        height, width = self.owners_HW.shape
        shown = patch[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
        self.classes.append(CLASSES.index(cell.name))
        if not shown.size:
            return
        window = slice(max(top, 0), max(top, 0) + len(shown)), slice(max(left, 0), max(left, 0) + shown.shape[1])
        *added, covered = cv2.split(shown)
        block = self.absorbance_HW3[window]
        if opacity:
            block *= cv2.merge([1 - opacity * covered] * 3)
        block += cv2.merge(added)
        self.owners_HW[window][covered >= 0.5] = len(self.classes) - 1

    def block(self, x: int, y: int, size: int) -> "Scene":
        """A copy of the square from (x, y)."""
        window = slice(y, y + size), slice(x, x + size)
        return Scene(self.absorbance_HW3[window].copy(), self.owners_HW[window].copy(), list(self.classes))

    def turned(self, quarters: int, mirrored: bool) -> "Scene":
        """The scene turned clockwise by 90 degrees so many times (0..3), then mirrored left and right."""
        layers = [self.absorbance_HW3, self.owners_HW]
        if quarters:
            layers = [cv2.rotate(layer, quarters - 1) for layer in layers]
        if mirrored:
            layers = [cv2.flip(layer, 1) for layer in layers]
        return Scene(layers[0], layers[1], self.classes)


def make_background(
    protocol: Protocol, cells: dict[str, tuple[Cell, ...]], infected: float, side: int, rng: np.random.Generator
) -> Scene:
    """Strew red cells over plasma; their absorbances add up where they lie on one another."""
    pool = [cell for name in RED_CELLS for cell in cells[name]]
    odds = [
        f / len(cells[name]) for name, f in zip(RED_CELLS, (infected, 1 - infected), strict=True) for _ in cells[name]
    ]
    radii = np.array([cell.diameter_um for cell in pool]) / 2 / protocol.pixel_um
    centres, chosen = scatter(protocol, side, radii, np.array(odds), rng)
    scene = Scene(make_plasma(protocol, side, rng), np.zeros((side, side), np.uint16))
    for centre, which in zip(centres, chosen, strict=True):
        scene.affix(pool[which], centre, 0.0, rng)
    return scene


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
