"""Drawing one cell: what it absorbs of the light, and how much of each pixel it covers.

How it works: light falls by Beer-Lambert's law, so that stains add up as absorbances (natural
logarithms). A cell is drawn at twice the final resolution as absorbance: a body, granules in it, a
nucleus over it, and a bright line of refraction around it. Shapes and sizes are those of the
classes in Wright- or Giemsa-stained smears.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cytoloop.smear.noise import ramp
from cytoloop.smear.protocol import Protocol
from cytoloop.smear.shapes import (
    Canvas,
    Pair,
    arc,
    chain,
    chromatin,
    coverage,
    flattened,
    granules,
    line,
    lobes,
    outline,
    segment,
    with_nucleus,
)

Array = np.ndarray[Any, Any]
Drawing = tuple[Array, Array]  # absorbance (S, S, 3) and depth under the outline (S, S), um

SUPERSAMPLING = 2


@dataclass(frozen=True)
class Cell:
    """A drawn or cropped cell, at twice the final resolution.

    layers_HW4: float32; first the (red, green, blue) absorbance that the cell adds, slightly negative
        in the bright line around it; last the coverage, 0..1.
    diameter_um: of the circle of the same area.
    source: id of the picture that it was cropped from; None when it is drawn.
    """

    name: str
    layers_HW4: Array
    diameter_um: float
    source: str | None = None

    @cached_property
    def reach(self) -> int:
        """Final pixels from the centre to the farthest pixel that the cell touches."""
        height, width = self.layers_HW4.shape[:2]
        y, x = np.nonzero(self.layers_HW4[..., 3] > 0)
        farthest = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2).max()
        return int(np.ceil(farthest / SUPERSAMPLING)) + 2

    @cached_property
    def stain_3(self) -> Array:
        """(3,) mean absorbance of the covered pixels, at least 0.02."""
        absorbed_3, covered = self.layers_HW4[..., :3].sum((0, 1)), self.layers_HW4[..., 3].sum()
        return np.asarray(np.maximum(absorbed_3 / covered, 0.02))

    def stained(self, own_3: Array, other_3: Array) -> "Cell":
        """The cell with another stain in place of its own, both as mean absorbances.

        A channel that the other stain absorbs less is weakened in proportion. Where it absorbs more,
        that is added, by how much of its own stain a pixel holds (at most 1.25 times the mean):
        multiples of nearly nothing would be noise.
        """
        absorbance = self.layers_HW4[..., :3]
        amount_HW1 = np.clip(absorbance.mean(-1, keepdims=True) / own_3.mean(), 0, 1.25)
        changed = absorbance * np.minimum(other_3 / own_3, 1) + amount_HW1 * np.maximum(other_3 - own_3, 0)
        return replace(self, layers_HW4=np.dstack([changed, self.layers_HW4[..., 3]]).astype(np.float32))

    def turned(self, angle: float, mirrored: bool, offset: Pair = (0.0, 0.0)) -> Array:
        """float32 (S, S, 4) layers at the final resolution, S = 2 reach + 1.

        Args:
            angle: rotation, radians.
            mirrored: left and right are exchanged first.
            offset: (x, y) of the cell's centre from the middle pixel, pixels.
        """
        height, width = self.layers_HW4.shape[:2]
        cos, sin = SUPERSAMPLING * math.cos(angle), SUPERSAMPLING * math.sin(angle)
        (a, b), (c, d) = ((-cos, sin), (sin, cos)) if mirrored else ((cos, -sin), (sin, cos))
        x, y = self.reach + offset[0], self.reach + offset[1]
        into = np.array([[a, b, (width - 1) / 2 - a * x - b * y], [c, d, (height - 1) / 2 - c * x - d * y]])
        side = 2 * self.reach + 1
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        return np.asarray(cv2.warpAffine(self.layers_HW4, into, (side, side), flags=flags))


def draw_cell(protocol: Protocol, name: str, rng: np.random.Generator) -> Cell:
    """A cell of a class, of a diameter within the protocol's range, drawn from a random stream."""
    um = protocol.pixel_um / SUPERSAMPLING
    reach = 1.1 if name == "platelet_clump" else 0.66
    canvas = Canvas(float(rng.uniform(*protocol.diameters_um[name])), um, protocol.stains, rng, reach)
    absorbance, depth = DRAWINGS[name](canvas)
    refraction = 0.05 * line(depth, -0.35, 0.35) * (depth < 0.1)
    absorbance = absorbance * canvas.uniform(0.86, 1.14) - canvas.stain("haemoglobin", refraction)
    covered = coverage(depth)
    layers = cv2.GaussianBlur(cv2.merge([*cv2.split(absorbance), covered]), (0, 0), 0.75)
    return Cell(name, trimmed(layers), 2 * float(np.sqrt(covered.sum() / np.pi)) * um)


def keep_cells(path: Path, cells: Sequence[Cell]) -> None:
    """Write drawn cells of one class to a file that is there as a whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez(file, *(cell.layers_HW4 for cell in cells), diameters_um=[cell.diameter_um for cell in cells])
    os.replace(part, path)


def kept_cells(path: Path, name: str) -> tuple[Cell, ...]:
    """The cells of `keep_cells`, and their class."""
    with np.load(path) as arrays:
        diameters = arrays["diameters_um"].tolist()
        return tuple(Cell(name, arrays[f"arr_{n}"], diameter) for n, diameter in enumerate(diameters))


def trimmed(layers_HW4: Array) -> Array:
    """The layers without their empty margin."""
    strongest = np.maximum.reduce(cv2.split(np.abs(layers_HW4)))
    x, y, width, height = cv2.boundingRect((strongest > 0.004).astype(np.uint8))
    return np.ascontiguousarray(layers_HW4[y : y + height, x : x + width])


def draw_eosinophil(canvas: Canvas) -> Drawing:
    """Two lobes, seldom three, among coarse orange-red granules."""
    depth, rho = outline(canvas, 0.065, canvas.uniform(1.0, 1.15))
    thick, strength = granules(canvas, 0.78, (0.3, 0.54))
    body = canvas.stain("eosinophil_cytoplasm", 0.8 + 0.15 * canvas.noise(3.0))
    body += canvas.stain("eosinophil_granule", thick * strength * (depth > 0.25))
    three = canvas.chance(0.14)
    centres = arc(canvas, 3 if three else 2, 0.52, canvas.uniform(2.2, 3.4) if three else canvas.uniform(1.9, 2.9))
    inside = lobes(canvas, centres, 0.28 if three else 0.34, canvas.uniform(0.2, 0.4))
    inside = np.minimum(inside, depth - 0.35)
    body = with_nucleus(canvas, body, inside, 0.9 * chromatin(canvas, inside, 1.7, 0.5))
    return body * (coverage(depth) * flattened(rho))[..., None], depth


def draw_basophil(canvas: Canvas) -> Drawing:
    """Coarse blue-violet granules that hide an indistinct nucleus."""
    depth, rho = outline(canvas, 0.075, canvas.uniform(1.0, 1.15))
    centres = arc(canvas, int(canvas.rng.integers(2, 4)), 0.34, canvas.uniform(1.8, 3.2))
    inside = lobes(canvas, centres, 0.42, 0.6, unrest_um=0.35)
    nucleus = 0.42 * ramp(inside, -0.7, 0.7) * chromatin(canvas, inside, 1.8, 0.4)
    thick, strength = granules(canvas, 0.88, (0.32, 0.62))
    washed_out = 0.25 + 0.75 * ramp(canvas.noise(1.6, 2), -1.2, 0.2)
    body = canvas.stain("basophil_cytoplasm", 0.9 + 0.2 * canvas.noise(2.5)) + canvas.stain("chromatin", nucleus)
    body += canvas.stain("basophil_granule", thick * strength * washed_out * (depth > 0.2))
    return body * (coverage(depth) * flattened(rho))[..., None], depth


def draw_neutrophil(canvas: Canvas) -> Drawing:
    """Three to five lobes on thin bridges, seldom two, in pale pink cytoplasm of fine granules."""
    depth, rho = outline(canvas, 0.065, canvas.uniform(1.0, 1.18))
    thick, strength = granules(canvas, 0.42, (0.12, 0.24))
    dust = 0.75 * thick * strength**2 * ramp(canvas.noise(1.5, 2), -1.6, 1.0)
    body = canvas.stain("neutrophil_cytoplasm", 0.9 + 0.14 * canvas.noise(3.0) + 0.2 * ramp(rho, 0.8, 1.0))
    body += canvas.stain("neutrophil_granule", dust)
    count = int(canvas.rng.choice([2, 3, 4, 5], p=[0.03, 0.38, 0.38, 0.21]))
    centres = arc(canvas, count, 0.53, count * canvas.uniform(0.85, 1.15))
    inside = lobes(canvas, centres, 0.38 - 0.03 * count, canvas.uniform(0.14, 0.34))
    inside = np.minimum(inside, depth - 0.5)
    body = with_nucleus(canvas, body, inside, chromatin(canvas, inside, 1.5, 0.52))
    return body * (coverage(depth) * flattened(rho))[..., None], depth


def draw_lymphocyte(canvas: Canvas) -> Drawing:
    """A large, dense, round nucleus of clumped chromatin, off centre in a rim of pale blue cytoplasm."""
    depth, rho = outline(canvas, 0.06, canvas.uniform(1.0, 1.15))
    large = float(ramp(np.asarray(canvas.diameter), 9.5, 14.0))
    size = canvas.radius * canvas.uniform(0.84, 0.9) * (1 - 0.2 * large * canvas.uniform(0.4, 1))
    angle, shift = canvas.uniform(0, 2 * np.pi), (canvas.radius - size) * canvas.uniform(0.3, 0.8)
    centre = shift * np.array([np.cos(angle), np.sin(angle)])
    stretch = canvas.uniform(0.02, 0.18) * size
    half = np.array([-np.sin(angle), np.cos(angle)]) * stretch
    ends = np.stack([centre - half, centre + half])
    inside = segment(*canvas.displaced(4.0, 0.16), ends, (size - stretch / 2, size - stretch / 2))
    inside = np.minimum(inside, depth - 0.22)
    rim = (0.6 + 0.12 * canvas.noise(1.6) + 0.55 * ramp(rho, 0.75, 1.0)) * (1 - 0.35 * ramp(inside, -0.7, 0.0))
    body = canvas.stain("lymphocyte_cytoplasm", rim)
    body = with_nucleus(canvas, body, inside, 1.02 * chromatin(canvas, inside, 2.2, 0.62))
    return body * (coverage(depth) * flattened(rho))[..., None], depth


def draw_monocyte(canvas: Canvas) -> Drawing:
    """A kidney or horseshoe of lacy chromatin in grey-blue cytoplasm with vacuoles."""
    depth, rho = outline(canvas, 0.13, canvas.uniform(1.0, 1.2))
    sweep = canvas.uniform(1.6, 3.6)
    joints = arc(canvas, 5, 0.28 + 0.06 * sweep, sweep)
    radii = canvas.radius * (0.49 - 0.05 * sweep) * canvas.rng.uniform(0.92, 1.14, 5)
    inside = np.minimum(chain(*canvas.displaced(4.0, 0.28), joints, radii, 0.25), depth - 0.5)
    holes, strength = granules(canvas, 2.4, (0.2, 0.6))
    vacuoles = ramp(holes, 0.2, 0.8) * (strength > 0.78)
    ground = 0.9 + 0.12 * canvas.noise(3.0) + 0.12 * canvas.noise(0.6, 2)
    body = canvas.stain("monocyte_cytoplasm", ground * (1 - 0.6 * vacuoles))
    body += canvas.stain("neutrophil_granule", 0.7 * ramp(canvas.noise(0.5, 1), 1.5, 2.4))
    lace = 0.8 + 0.26 * ramp(np.abs(canvas.noise(1.7, 2)), 0.0, 1.0)
    body = with_nucleus(canvas, body, inside, 0.88 * lace * chromatin(canvas, inside, 1.5, 0.46))
    return body * (coverage(depth) * flattened(rho))[..., None], depth


def draw_thrombocyte(canvas: Canvas) -> Drawing:
    """A small, ragged body, violet and granular."""
    depth, _ = outline(canvas, 0.12, canvas.uniform(1.0, 1.5), fall=1.0)
    return platelet(canvas, depth, 0.55), depth


def draw_platelet_clump(canvas: Canvas) -> Drawing:
    """Four to nine thrombocytes that cling together."""
    count = int(canvas.rng.integers(4, 10))
    each = 0.5 * canvas.diameter / np.sqrt(count)
    x, y = canvas.displaced(1.6, 0.16)
    centres = huddle(canvas, count, 1.5 * each)
    radii = (each * canvas.rng.uniform(0.9, 1.25, count)).tolist()
    parts = [radius - np.hypot(x - cx, y - cy) for (cx, cy), radius in zip(centres.tolist(), radii, strict=True)]
    depth = np.maximum.reduce(parts)
    return platelet(canvas, depth, 0.75 * each), depth


def huddle(canvas: Canvas, count: int, apart_um: float) -> Array:
    """(count, 2) um: points that are `apart_um` from a neighbour and hardly closer to any."""
    points = np.zeros((1, 2))
    while len(points) < count:
        angles = canvas.rng.uniform(0, 2 * np.pi, 2)
        tries = points[canvas.rng.integers(len(points))] + apart_um * np.stack([np.cos(angles), np.sin(angles)], -1)
        point = tries[np.linalg.norm(tries - points.mean(0), axis=1).argmin()]
        if np.linalg.norm(points - point, axis=1).min() > 0.85 * apart_um:
            points = np.vstack([points, point])
    return np.asarray(points - points.mean(0))


def platelet(canvas: Canvas, depth_HW: Array, middle_um: float) -> Array:
    """Absorbance: a pale fringe around violet granules that crowd in the middle, `middle_um` deep."""
    crowd = (0.35 + ramp(canvas.noise(0.6, 2), -0.8, 1.6)) * ramp(depth_HW, 0.05, middle_um)
    fringe = canvas.stain("platelet_cytoplasm", 0.9 + 0.2 * canvas.noise(1.0, 2))
    return np.asarray((fringe + canvas.stain("platelet_granule", 0.85 * crowd)) * coverage(depth_HW)[..., None])


def red_cell(canvas: Canvas, pallor: float, crenated: bool) -> Drawing:
    """A disc, some of them oval, thinner in the middle by the fraction `pallor`."""
    oval = canvas.uniform(1.25, 1.5) if canvas.chance(0.1) else canvas.uniform(1.0, 1.15)
    finest, fall = (15, 0.75) if crenated else (6, 1.1)
    depth, rho = outline(canvas, canvas.uniform(0.02, 0.08), oval, finest, fall)
    x, y = canvas.rng.normal(0, 0.12, 2).tolist()
    away = rho + (canvas.x * x + canvas.y * y) / canvas.diameter + 0.05 * canvas.noise(3.0, 1)
    dip = np.exp(-((np.abs(away) / canvas.uniform(0.3, 0.6)) ** canvas.uniform(2.0, 3.5)))
    fall_off = np.sqrt(np.clip(1 - rho**10, 0, 1))
    thick = fall_off * (1 - pallor * dip) * (1 + 0.025 * canvas.noise(2.5)) + 0.16 * line(depth, 0.16, 0.14)
    return canvas.stain("haemoglobin", thick * coverage(depth)), depth


def draw_healthy_rbc(canvas: Canvas) -> Drawing:
    """A salmon disc with central pallor, seldom crenated."""
    return red_cell(canvas, canvas.uniform(0.25, 0.8), canvas.chance(0.02))


def draw_infected_rbc(canvas: Canvas) -> Drawing:
    """A paler disc with one ring form of Plasmodium falciparum, or two; sometimes crenated."""
    absorbance, depth = red_cell(canvas, canvas.uniform(0.05, 0.4), canvas.chance(0.12))
    absorbance = absorbance * canvas.uniform(0.75, 1.0)
    for _ in range(2 if canvas.chance(0.16) else 1):
        absorbance = absorbance + ring_form(canvas)
    return absorbance, depth


def ring_form(canvas: Canvas) -> Array:
    """Absorbance of a thin blue ring, up to a third of the cell wide, with a red dot of chromatin on it."""
    angle, reach = canvas.uniform(0, 2 * np.pi), canvas.radius * canvas.uniform(0.1, 0.58)
    x, y = canvas.displaced(1.5, 0.08)
    x, y = x - reach * float(np.cos(angle)), y - reach * float(np.sin(angle))
    radius, dot = canvas.uniform(0.6, 1.0), canvas.uniform(0, 2 * np.pi)
    dot_x, dot_y = float(np.cos(dot)), float(np.sin(dot))
    r = np.hypot(x, y * canvas.uniform(1.0, 1.35))
    width = 0.15 - 0.05 * (x * dot_x + y * dot_y) / np.maximum(r, 0.1)
    ring = line(r, radius, width) * (0.75 + 0.3 * canvas.noise(1.2, 1))
    grain = ramp(canvas.uniform(0.26, 0.4) - np.hypot(x - radius * dot_x, y - radius * dot_y), -0.12, 0.12)
    hollow = 0.2 * ramp(radius - r, -0.1, 0.2)
    parasite = canvas.stain("parasite_cytoplasm", ring) + canvas.stain("parasite_chromatin", grain)
    return np.asarray(parasite - canvas.stain("haemoglobin", hollow))


DRAWINGS: dict[str, Callable[[Canvas], Drawing]] = {
    "eosinophil": draw_eosinophil,
    "basophil": draw_basophil,
    "neutrophil": draw_neutrophil,
    "lymphocyte": draw_lymphocyte,
    "monocyte": draw_monocyte,
    "thrombocyte": draw_thrombocyte,
    "platelet_clump": draw_platelet_clump,
    "infected_rbc": draw_infected_rbc,
    "healthy_rbc": draw_healthy_rbc,
}
