"""Outlines, lobes and granules of cells, on a canvas in micrometres.

How it works: a shape is its depth, the distance (um) from a point to the shape's edge, positive
inside. Depths can be joined smoothly, displaced by noise, and turned into coverage at their zero.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from cytoloop.smear.noise import fractal_noise, ramp

Array = np.ndarray[Any, Any]
Pair = tuple[float, float]


@dataclass(frozen=True)
class Canvas:
    """Where one cell is drawn: a square grid around its centre, the stains and a random stream.

    diameter: of the cell, um.
    um: side of a canvas pixel.
    stains: name -> (red, green, blue) absorbance at full strength.
    reach: half the side, in diameters.
    """

    diameter: float
    um: float
    stains: dict[str, tuple[float, float, float]]
    rng: np.random.Generator
    reach: float = 0.66

    @cached_property
    def x(self) -> Array:
        """float32 (S, S) um to the right of the centre."""
        half = int(self.diameter * self.reach / self.um) + 6
        return np.tile(np.arange(-half, half + 1, dtype=np.float32) * np.float32(self.um), (2 * half + 1, 1))

    @cached_property
    def y(self) -> Array:
        """float32 (S, S) um below the centre."""
        return np.ascontiguousarray(self.x.T)

    @property
    def radius(self) -> float:
        return self.diameter / 2

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def noise(self, period_um: float, octaves: int = 3) -> Array:
        """float32 (S, S) of mean 0 and standard deviation 1."""
        side = len(self.x)
        return fractal_noise((side, side), period_um / self.um, self.rng, octaves)

    def displaced(self, period_um: float, amount_um: float) -> tuple[Array, Array]:
        """x and y, displaced by noise."""
        return self.x + amount_um * self.noise(period_um, 2), self.y + amount_um * self.noise(period_um, 2)

    def stain(self, name: str, amount_HW: Array) -> Array:
        """float32 (S, S, 3) absorbance of a stain."""
        red, green, blue = self.stains[name]
        return np.asarray(cv2.merge([np.float32(part) * amount_HW.astype(np.float32) for part in (red, green, blue)]))


def outline(
    canvas: Canvas, roughness: float, elongation: float = 1.0, finest: int = 9, fall: float = 1.3
) -> tuple[Array, Array]:
    """A round body of exactly the canvas' diameter (that of the circle of the same area).

    An ellipse with random harmonics 2..finest of the angle, of amplitude roughness / k^fall.

    Returns:
        depth (um) and radius (0 at the centre, 1 on the outline), each (S, S).
    """
    angle = np.linspace(0, 2 * np.pi, 1024, endpoint=False)
    turn = canvas.uniform(0, np.pi)
    edge = 1 / np.sqrt(np.cos(angle - turn) ** 2 / elongation + np.sin(angle - turn) ** 2 * elongation)
    for k in range(2, finest + 1):
        edge += roughness * canvas.rng.normal() / k**fall * np.cos(k * angle + canvas.uniform(0, 2 * np.pi))
    edge *= canvas.radius / np.sqrt(np.mean(edge**2))
    radius_HW, angle_HW = cv2.cartToPolar(canvas.x, canvas.y)
    edge_HW = edge.astype(np.float32)[(angle_HW * (1024 / (2 * np.pi))).astype(np.int32) % 1024]
    return edge_HW - radius_HW, radius_HW / edge_HW


def coverage(depth_HW: Array, softness_um: float = 0.18) -> Array:
    """Part of each pixel that is covered, 0..1; a half on the edge."""
    return np.asarray(np.clip(depth_HW / softness_um + 0.5, 0, 1))


def flattened(rho_HW: Array) -> Array:
    """Thickness of a body that has spread on glass: flat, and falling at its outline."""
    return np.asarray(np.sqrt(np.clip(1 - rho_HW**8, 0, 1)))


def line(depth_HW: Array, at_um: float, width_um: float | Array) -> Array:
    """A line along an edge, `at_um` deep: 1 on it, falling as a normal curve."""
    return np.exp(-(((depth_HW - at_um) / width_um) ** 2))


def segment(x: Array, y: Array, ends: Array, radii: Pair) -> Array:
    """Depth in a round-ended segment; `ends` ((x, y), (x, y)) in um, its radius goes from one to the other."""
    (ax, ay), (bx, by) = np.asarray(ends).tolist()
    along, across = bx - ax, by - ay
    x, y = x - ax, y - ay
    t = np.clip((x * along + y * across) / max(along**2 + across**2, 1e-9), 0, 1)
    return np.asarray(radii[0] + (radii[1] - radii[0]) * t - cv2.magnitude(x - t * along, y - t * across))


def joined(depths: list[Array], blend_um: float) -> Array:
    """Smooth union of depths: b log sum exp(depth / b)."""
    return np.asarray(blend_um * np.log(sum(np.exp(np.clip(depth / blend_um, -40, 40)) for depth in depths)))


def chain(x: Array, y: Array, joints: Array, radii: Array, blend_um: float) -> Array:
    """Depth in segments from joint to joint, (n, 2) in um, with a radius at each joint, (n,)."""
    thick = np.asarray(radii).tolist()
    parts = [segment(x, y, joints[i : i + 2], (thick[i], thick[i + 1])) for i in range(len(thick) - 1)]
    return joined(parts, blend_um)


def arc(canvas: Canvas, count: int, spread: float, sweep: float) -> Array:
    """(count, 2) um: points along an arc of `sweep` radians at `spread` cell radii, moved towards the centre."""
    angles = canvas.uniform(0, 2 * np.pi) + np.linspace(0, sweep, count) + canvas.rng.normal(0, 0.16, count)
    reach = canvas.radius * spread * canvas.rng.uniform(0.8, 1.12, count)
    points = np.stack([np.cos(angles), np.sin(angles)], -1) * reach[:, None]
    return np.asarray(points + canvas.rng.normal(0, 0.07 * canvas.radius, 2) - 0.35 * points.mean(0))


def lobes(canvas: Canvas, centres: Array, size: float, bridge_um: float, unrest_um: float = 0.26) -> Array:
    """Depth in lobes (short, tapered sausages of about `size` cell radii) that thin bridges join."""
    x, y = canvas.displaced(2.4, unrest_um)
    tangents = np.gradient(centres, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    parts = []
    for centre, tangent in zip(centres, tangents, strict=True):
        radius = canvas.radius * size * canvas.uniform(0.82, 1.14)
        bend = np.array([-tangent[1], tangent[0]]) * canvas.uniform(-0.25, 0.25)
        half = (tangent + bend) * radius * canvas.uniform(0.1, 0.5)
        thick = radius * canvas.uniform(0.75, 1.0), radius * canvas.uniform(0.75, 1.0)
        parts.append(segment(x, y, np.stack([centre - half, centre + half]), thick))
    parts += [segment(x, y, centres[i : i + 2], (bridge_um, bridge_um)) for i in range(len(centres) - 1)]
    return joined(parts, 0.14)


def granules(canvas: Canvas, spacing_um: float, radius_um: Pair) -> tuple[Array, Array]:
    """Spheres on a jittered lattice.

    Returns:
        thickness of the nearest sphere (0..1) and a strength of its own (0.55..1), each (S, S).
    """
    side, step = len(canvas.x), spacing_um / canvas.um
    rows, columns = np.mgrid[0 : side : step * 0.87, 0:side:step]
    columns[1::2] += step / 2
    points = np.stack([rows.ravel(), columns.ravel()]) + canvas.rng.uniform(-0.42, 0.42, (2, rows.size)) * step
    rows, columns = points[:, ((points >= 0) & (points < side)).all(0)].astype(int)
    empty = np.full((side, side), 255, np.uint8)
    empty[rows, columns] = 0
    distance, nearest = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    count = int(nearest.max()) + 1
    radius = canvas.rng.uniform(*radius_um, count).astype(np.float32)[nearest]
    strength = canvas.rng.uniform(0.55, 1.0, count).astype(np.float32)[nearest]
    return np.sqrt(np.clip(1 - (distance * np.float32(canvas.um) / radius) ** 2, 0, 1)), strength


def chromatin(canvas: Canvas, depth_HW: Array, clump_um: float, contrast: float) -> Array:
    """How much stained chromatin a nucleus holds, about 1: coarse clumps, fine grain and a denser membrane."""
    clumps = np.tanh(1.3 * canvas.noise(clump_um, 3)) + 0.45 * canvas.noise(0.55, 2)
    texture = contrast * (0.42 * clumps + 0.35 * line(depth_HW, 0.22, 0.245))
    return np.maximum(0.94 + texture + 0.08 * canvas.noise(4.0, 1), 0.2)


def with_nucleus(canvas: Canvas, under_HW3: Array, depth_HW: Array, amount_HW: Array) -> Array:
    """Lay a nucleus over the (S, S, 3) absorbance of a body; some nuclei are redder, some bluer."""
    inside = ramp(depth_HW, -0.24, 0.24)[..., None]
    tone = np.array([1 + canvas.rng.normal(0, 0.07), 1, 1 + canvas.rng.normal(0, 0.07)], np.float32)
    return np.asarray(under_HW3 * (1 - 0.85 * inside) + inside * canvas.stain("chromatin", amount_HW) * tone)
