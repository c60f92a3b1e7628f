"""Drawing one cell: what it absorbs of the light, and how much of each pixel it covers.

A cell is drawn at twice the final resolution in absorbance (Beer-Lambert: stains add up as
logarithms of light), in coordinates of micrometres from its centre. White cells are a body, a
nucleus and granules; each of these is a signed distance to an outline, displaced by noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from cytoloop.smear.noise import fractal_noise, ramp
from cytoloop.smear.protocol import Protocol

Array = np.ndarray[Any, Any]

SUPERSAMPLING = 2


@dataclass(frozen=True)
class Cell:
    """A drawn or cropped cell, at twice the final resolution.

    layers_HW4: float32; first the (red, green, blue) absorbance that the cell adds, a natural
        logarithm, slightly negative in the bright line that refraction leaves around it; last the
        coverage in 0..1, the part of each pixel that the cell covers.
    diameter_um: of the circle of the same area.
    """

    name: str
    layers_HW4: Array
    diameter_um: float

    @cached_property
    def reach(self) -> int:
        """Final pixels from the centre to the farthest pixel that the cell touches."""
        height, width = self.layers_HW4.shape[:2]
        y, x = np.nonzero(self.layers_HW4[..., 3] > 0)
        farthest = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2).max()
        return int(np.ceil(farthest / SUPERSAMPLING)) + 2

    def turned(self, angle: float, mirrored: bool, offset: tuple[float, float] = (0.0, 0.0)) -> Array:
        """float32 (S, S, 4) layers at the final resolution, S = 2 reach + 1.

        Args:
            angle: rotation, radians.
            mirrored: flip left and right first.
            offset: of the centre from the middle pixel, (x, y) in pixels.
        """
        height, width = self.layers_HW4.shape[:2]
        cos, sin = SUPERSAMPLING * np.cos(angle), SUPERSAMPLING * np.sin(angle)
        flip = -1 if mirrored else 1
        x, y = self.reach + offset[0], self.reach + offset[1]
        into = np.array(
            [
                [flip * cos, -flip * sin, (width - 1) / 2 - flip * (cos * x - sin * y)],
                [sin, cos, (height - 1) / 2 - sin * x - cos * y],
            ]
        )
        side = 2 * self.reach + 1
        return cv2.warpAffine(
            self.layers_HW4, into, (side, side), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )


@dataclass(frozen=True)
class Canvas:
    """Where one cell is drawn: a square grid in micrometres, the stains and a random stream."""

    diameter: float
    um: float
    stains: dict[str, tuple[float, float, float]]
    rng: np.random.Generator
    reach: float = 0.66

    @cached_property
    def x(self) -> Array:
        half = int(self.diameter * self.reach / self.um) + 6
        return np.tile(np.arange(-half, half + 1, dtype=np.float32) * np.float32(self.um), (2 * half + 1, 1))

    @cached_property
    def y(self) -> Array:
        return np.ascontiguousarray(self.x.T)

    def noise(self, period_um: float, octaves: int = 3) -> Array:
        return fractal_noise(self.x.shape, period_um / self.um, self.rng, octaves)

    def uniform(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def warped(self, period_um: float, amount_um: float) -> "tuple[Array, Array]":
        """The coordinates, displaced by noise."""
        return self.x + amount_um * self.noise(period_um, 2), self.y + amount_um * self.noise(period_um, 2)

    def stain(self, name: str, amount_HW: Array) -> Array:
        return amount_HW[..., None] * np.float32(self.stains[name])


def outline(canvas: Canvas, roughness: float, elongation: float = 1.0, finest: int = 9, fall: float = 1.3) -> tuple[Array, Array]:
    """Depth under the outline (um, negative outside) and radius (0 centre, 1 outline) of a round body."""
    angle = np.linspace(0, 2 * np.pi, 1024, endpoint=False)
    turn = canvas.uniform(0, np.pi)
    radius = 1 / np.sqrt(np.cos(angle - turn) ** 2 / elongation + np.sin(angle - turn) ** 2 * elongation)
    for k in range(2, finest + 1):
        radius += roughness * canvas.rng.normal() / k**fall * np.cos(k * angle + canvas.uniform(0, 2 * np.pi))
    radius *= canvas.diameter / 2 / np.sqrt(np.mean(radius**2))
    r_HW, angle_HW = cv2.cartToPolar(canvas.x, canvas.y)
    edge_HW = radius.astype(np.float32)[(angle_HW * (1024 / (2 * np.pi))).astype(np.int32) % 1024]
    return edge_HW - r_HW, r_HW / edge_HW


def coverage(depth_HW: Array, softness_um: float = 0.18) -> Array:
    return np.clip(depth_HW / softness_um + 0.5, 0, 1)


def halo(depth_HW: Array, strength: float, width_um: float = 0.35) -> Array:
    """The bright line that refraction leaves just outside an edge."""
    return -strength * np.exp(-(((depth_HW + width_um) / width_um) ** 2)) * (depth_HW < 0.1)


def granules(canvas: Canvas, spacing_um: float, radius_um: tuple[float, float]) -> tuple[Array, Array]:
    """Spheres on a jittered lattice: thickness in 0..1 of the nearest one, and its own strength."""
    side = canvas.x.shape[0]
    step = spacing_um / canvas.um
    lattice = np.mgrid[0 : side : step * 0.87, 0:side:step]
    lattice[1] += (np.arange(lattice.shape[1]) % 2)[:, None] * step / 2
    points = (lattice.reshape(2, -1) + canvas.rng.uniform(-0.42, 0.42, (2, lattice[0].size)) * step).astype(int)
    points = points[:, ((points >= 0) & (points < side)).all(0)]
    empty = np.full((side, side), 255, np.uint8)
    empty[points[0], points[1]] = 0
    distance, nearest = cv2.distanceTransformWithLabels(empty, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    count = int(nearest.max()) + 1
    radius = canvas.rng.uniform(*radius_um, count).astype(np.float32)[nearest]
    strength = canvas.rng.uniform(0.55, 1.0, count).astype(np.float32)[nearest]
    return np.sqrt(np.clip(1 - (distance * np.float32(canvas.um) / radius) ** 2, 0, 1)), strength


def segment(x: Array, y: Array, ends: Array, radii: tuple[float, float]) -> Array:
    """Depth inside a round-ended segment, um; its radius goes linearly from end to end.

    ends: ((x, y), (x, y)) in um.
    """
    (ax, ay), (bx, by) = np.asarray(ends).tolist()
    along, across = bx - ax, by - ay
    x, y = x - ax, y - ay
    t = np.clip((x * along + y * across) / max(along**2 + across**2, 1e-9), 0, 1)
    return radii[0] + (radii[1] - radii[0]) * t - cv2.magnitude(x - t * along, y - t * across)


def joined(depths: list[Array], blend_um: float) -> Array:
    """Smooth union of depths: k log sum exp(depth / k)."""
    total = sum(np.exp(np.clip(depth / blend_um, -40, 40)) for depth in depths)
    return blend_um * np.log(total)


def chain(x: Array, y: Array, joints: Array, radii: Array, blend_um: float = 0.25) -> Array:
    """Depth inside segments from joint to joint, (n, 2) in um, with a radius at each joint."""
    thick = np.asarray(radii).tolist()
    parts = [segment(x, y, joints[i : i + 2], (thick[i], thick[i + 1])) for i in range(len(thick) - 1)]
    return joined(parts, blend_um)


def chromatin(canvas: Canvas, depth_HW: Array, clump_um: float, contrast: float) -> Array:
    """How much stained chromatin a nucleus holds, about 1: coarse clumps, fine grain and a denser membrane."""
    clumps = np.tanh(1.3 * canvas.noise(clump_um, 3)) + 0.45 * canvas.noise(0.55, 2)
    membrane = np.exp(-((depth_HW - 0.22) ** 2) / 0.06)
    return np.maximum(0.94 + contrast * (0.42 * clumps + 0.35 * membrane) + 0.08 * canvas.noise(4.0, 1), 0.2)


def nucleus(canvas: Canvas, under_HW3: Array, depth_HW: Array, amount_HW: Array, hides: float = 0.85) -> Array:
    """Lay a nucleus over what is there; some are redder, some bluer."""
    inside = ramp(depth_HW, -0.24, 0.24)[..., None]
    tone = np.float32([1 + canvas.rng.normal(0, 0.07), 1.0, 1 + canvas.rng.normal(0, 0.07)])
    return under_HW3 * (1 - hides * inside) + inside * canvas.stain("chromatin", amount_HW) * tone


def dome(rho_HW: Array) -> Array:
    return np.sqrt(np.clip(1 - rho_HW**8, 0, 1))


def lobes(canvas: Canvas, count: int, size: float, spread: float, sweep: tuple[float, float]) -> tuple[Array, Array]:
    """Centres along an arc and radii of a nucleus' lobes, in um; `size` and `spread` in cell radii."""
    R = canvas.diameter / 2
    angles = canvas.uniform(0, 2 * np.pi) + np.linspace(0, canvas.uniform(*sweep), count)
    angles += canvas.rng.normal(0, 0.16, count)
    reach = R * spread * canvas.rng.uniform(0.8, 1.12, count)
    centres = np.stack([np.cos(angles), np.sin(angles)], -1) * reach[:, None]
    shift = canvas.rng.normal(0, 0.07 * R, 2) - 0.35 * centres.mean(0)
    return centres + shift, R * size * canvas.rng.uniform(0.82, 1.14, count)


def lobed(canvas: Canvas, centres: Array, radii: Array, bridge_um: float, warp_um: float = 0.26) -> Array:
    """Depth inside lobes (each a short, tapered sausage) that thin bridges join."""
    x, y = canvas.warped(2.4, warp_um)
    tangents = np.gradient(centres, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    parts = []
    for centre, tangent, radius in zip(centres, tangents, radii.tolist(), strict=True):
        bend = np.array([-tangent[1], tangent[0]]) * canvas.uniform(-0.25, 0.25)
        half = (tangent + bend) * radius * canvas.uniform(0.15, 0.6)
        thick = (radius * canvas.uniform(0.75, 1.0), radius * canvas.uniform(0.75, 1.0))
        parts.append(segment(x, y, np.stack([centre - half, centre + half]), thick))
    parts += [segment(x, y, centres[i : i + 2], (bridge_um, bridge_um)) for i in range(len(centres) - 1)]
    return joined(parts, 0.14)


def draw_neutrophil(canvas: Canvas) -> tuple[Array, Array]:
    depth, rho = outline(canvas, 0.065, canvas.uniform(1.0, 1.18))
    body = coverage(depth)
    cytoplasm = 0.9 + 0.14 * canvas.noise(3.0) + 0.2 * ramp(rho, 0.8, 1.0)
    thick, strength = granules(canvas, 0.42, (0.12, 0.24))
    fine = 0.75 * thick * strength**2 * ramp(canvas.noise(1.5, 2), -1.6, 1.0)
    absorbance = canvas.stain("neutrophil_cytoplasm", cytoplasm) + canvas.stain("neutrophil_granule", fine)
    count = int(canvas.rng.choice([2, 3, 4, 5], p=[0.05, 0.38, 0.38, 0.19]))
    centres, radii = lobes(canvas, count, {2: 0.33, 3: 0.30, 4: 0.27, 5: 0.24}[count], 0.5, (0.85 * count, 1.15 * count))
    inside = np.minimum(lobed(canvas, centres, radii, canvas.uniform(0.14, 0.34)), depth - 0.5)
    absorbance = nucleus(canvas, absorbance, inside, chromatin(canvas, inside, 1.3, 0.42))
    return absorbance * (body * dome(rho))[..., None], depth


def draw_eosinophil(canvas: Canvas) -> tuple[Array, Array]:
    depth, rho = outline(canvas, 0.065, canvas.uniform(1.0, 1.15))
    body = coverage(depth)
    thick, strength = granules(canvas, 0.78, (0.3, 0.54))
    absorbance = canvas.stain("eosinophil_cytoplasm", 0.8 + 0.15 * canvas.noise(3.0))
    absorbance += canvas.stain("eosinophil_granule", thick * strength * (depth > 0.25))
    count = int(canvas.rng.choice([2, 3], p=[0.86, 0.14]))
    centres, radii = lobes(canvas, count, 0.34 if count == 2 else 0.28, 0.52, (1.9, 2.9) if count == 2 else (2.2, 3.4))
    inside = np.minimum(lobed(canvas, centres, radii, canvas.uniform(0.2, 0.4)), depth - 0.35)
    absorbance = nucleus(canvas, absorbance, inside, 0.9 * chromatin(canvas, inside, 1.7, 0.4), 0.8)
    return absorbance * (body * dome(rho))[..., None], depth


def draw_basophil(canvas: Canvas) -> tuple[Array, Array]:
    depth, rho = outline(canvas, 0.075, canvas.uniform(1.0, 1.15))
    body = coverage(depth)
    absorbance = canvas.stain("basophil_cytoplasm", 0.9 + 0.2 * canvas.noise(2.5))
    centres, radii = lobes(canvas, int(canvas.rng.integers(2, 4)), 0.42, 0.34, (1.8, 3.2))
    inside = lobed(canvas, centres, radii, 0.6, 0.35)
    blurred = ramp(inside, -0.7, 0.7)
    absorbance = absorbance + canvas.stain("chromatin", 0.42 * blurred * chromatin(canvas, inside, 1.8, 0.4))
    thick, strength = granules(canvas, 0.88, (0.32, 0.62))
    sparse = 0.25 + 0.75 * ramp(canvas.noise(1.6, 2), -1.2, 0.2)
    absorbance += canvas.stain("basophil_granule", thick * strength * sparse * (depth > 0.2))
    return absorbance * (body * dome(rho))[..., None], depth


def draw_lymphocyte(canvas: Canvas) -> tuple[Array, Array]:
    depth, rho = outline(canvas, 0.06, canvas.uniform(1.0, 1.15))
    body = coverage(depth)
    rim = 0.6 + 0.12 * canvas.noise(1.6) + 0.55 * ramp(rho, 0.75, 1.0)
    R = canvas.diameter / 2
    large = ramp(np.float32(canvas.diameter), 9.5, 14.0)
    size = R * canvas.uniform(0.84, 0.9) * (1 - 0.2 * float(large) * canvas.uniform(0.4, 1))
    angle, shift = canvas.uniform(0, 2 * np.pi), (R - size) * canvas.uniform(0.3, 0.8)
    centre = shift * np.array([np.cos(angle), np.sin(angle)])
    x, y = canvas.warped(4.0, 0.16)
    stretch = canvas.uniform(0.02, 0.18) * size
    across = np.array([-np.sin(angle), np.cos(angle)]) * stretch
    inside = segment(x, y, np.stack([centre - across, centre + across]), (size - stretch / 2, size - stretch / 2))
    inside = np.minimum(inside, depth - 0.22)
    absorbance = canvas.stain("lymphocyte_cytoplasm", rim * (1 - 0.35 * ramp(inside, -0.7, 0.0)))
    absorbance = nucleus(canvas, absorbance, inside, 1.02 * chromatin(canvas, inside, 2.2, 0.5))
    return absorbance * (body * dome(rho))[..., None], depth


def draw_monocyte(canvas: Canvas) -> tuple[Array, Array]:
    depth, rho = outline(canvas, 0.13, canvas.uniform(1.0, 1.2))
    body = coverage(depth)
    R = canvas.diameter / 2
    sweep = canvas.uniform(1.6, 3.6)
    angles = canvas.uniform(0, 2 * np.pi) + np.linspace(-0.5, 0.5, 5) * sweep
    reach = R * (0.26 + 0.06 * sweep) * canvas.rng.uniform(0.9, 1.1, 5)
    joints = np.stack([np.cos(angles), np.sin(angles)], -1) * reach[:, None]
    joints -= 0.45 * joints.mean(0)
    radii = R * (0.46 - 0.05 * sweep) * np.array([1.0, 1.02, 1.0, 1.02, 1.0]) * canvas.rng.uniform(0.9, 1.1, 5)
    x, y = canvas.warped(4.0, 0.28)
    inside = np.minimum(chain(x, y, joints, radii), depth - 0.5)
    ground = 0.9 + 0.12 * canvas.noise(3.0) + 0.12 * canvas.noise(0.6, 2)
    holes, strength = granules(canvas, 2.4, (0.2, 0.6))
    vacuoles = ramp(holes, 0.2, 0.8) * (strength > 0.78)
    absorbance = canvas.stain("monocyte_cytoplasm", ground * (1 - 0.6 * vacuoles))
    dust = ramp(canvas.noise(0.5, 1), 1.5, 2.4)
    absorbance += canvas.stain("neutrophil_granule", 0.7 * dust)
    strands = np.abs(canvas.noise(1.7, 2))
    lace = 0.88 * chromatin(canvas, inside, 1.3, 0.34) * (0.8 + 0.26 * ramp(strands, 0.0, 1.0))
    absorbance = nucleus(canvas, absorbance, inside, lace)
    return absorbance * (body * dome(rho))[..., None], depth


def platelet(canvas: Canvas, depth: Array) -> Array:
    """A pale fringe around violet granules that crowd in the middle."""
    granular = (0.35 + ramp(canvas.noise(0.6, 2), -0.8, 1.6)) * ramp(depth, 0.05, 0.55)
    fringe = 0.9 + 0.2 * canvas.noise(1.0, 2)
    return canvas.stain("platelet_cytoplasm", fringe) + canvas.stain("platelet_granule", 0.8 * granular)


def draw_thrombocyte(canvas: Canvas) -> tuple[Array, Array]:
    depth, _ = outline(canvas, 0.12, canvas.uniform(1.0, 1.5), 9, 1.0)
    return platelet(canvas, depth) * coverage(depth)[..., None], depth


def draw_platelet_clump(canvas: Canvas) -> tuple[Array, Array]:
    count = int(canvas.rng.integers(4, 10))
    each = 0.5 * canvas.diameter / np.sqrt(count)
    centres = [np.zeros(2)]
    while len(centres) < count:
        angles = canvas.rng.uniform(0, 2 * np.pi, 4)
        tries = centres[canvas.rng.integers(len(centres))] + each * 1.4 * np.stack([np.cos(angles), np.sin(angles)], -1)
        centre = min(tries, key=lambda spot: np.hypot(*(spot - np.mean(centres, 0))))
        if min(np.hypot(*(centre - other)) for other in centres) > 1.15 * each:
            centres.append(centre)
    joints = np.array(centres) - np.mean(centres, 0)
    x, y = canvas.warped(1.0, 0.2)
    depths = [r - np.hypot(x - c[0], y - c[1]) for c, r in zip(joints, each * canvas.rng.uniform(0.85, 1.2, count), strict=True)]
    depth = np.maximum.reduce(depths)
    return platelet(canvas, depth) * coverage(depth)[..., None], depth


def red_cell(canvas: Canvas, pallor: float) -> tuple[Array, Array]:
    crenated = canvas.rng.random() < 0.05
    oval = canvas.uniform(1.25, 1.5) if canvas.rng.random() < 0.1 else canvas.uniform(1.0, 1.15)
    depth, rho = outline(canvas, canvas.uniform(0.02, 0.08), oval, 18 if crenated else 6, 0.6 if crenated else 1.1)
    R = canvas.diameter / 2
    shift = canvas.rng.normal(0, 0.06 * R, 2).tolist()
    off = rho + (canvas.x * shift[0] + canvas.y * shift[1]) / R**2 + 0.05 * canvas.noise(3.0, 1)
    width = canvas.uniform(0.3, 0.6)
    dip = np.exp(-((np.abs(off) / width) ** canvas.uniform(2.0, 3.5)))
    rim = np.clip(1 - np.clip(rho, 0, 1) ** 10, 0, 1) ** 0.5
    thick = rim * (1 - pallor * dip) * (1 + 0.025 * canvas.noise(2.5, 3)) + 0.16 * np.exp(-((depth - 0.16) ** 2) / 0.02)
    return canvas.stain("haemoglobin", thick * coverage(depth)), depth


def draw_healthy_rbc(canvas: Canvas) -> tuple[Array, Array]:
    return red_cell(canvas, canvas.uniform(0.2, 0.75))


def draw_infected_rbc(canvas: Canvas) -> tuple[Array, Array]:
    absorbance, depth = red_cell(canvas, canvas.uniform(0.05, 0.4))
    absorbance = absorbance * canvas.uniform(0.75, 1.0)
    for _ in range(1 + (canvas.rng.random() < 0.16)):
        absorbance = absorbance + ring_form(canvas)
    return absorbance, depth


def ring_form(canvas: Canvas) -> Array:
    R = canvas.diameter / 2
    angle, reach = canvas.uniform(0, 2 * np.pi), R * canvas.uniform(0.1, 0.58)
    x, y = canvas.warped(1.5, 0.08)
    x, y = x - reach * np.cos(angle), y - reach * np.sin(angle)
    radius, dot = canvas.uniform(0.6, 1.0), canvas.uniform(0, 2 * np.pi)
    r = np.hypot(x, y * canvas.uniform(1.0, 1.35))
    away = 1 - 0.35 * (x * np.cos(dot) + y * np.sin(dot)) / np.maximum(r, 0.1)
    ring = np.exp(-(((r - radius) / (0.15 * away)) ** 2)) * (0.75 + 0.3 * canvas.noise(1.2, 1))
    grain = np.hypot(x - radius * np.cos(dot), y - radius * np.sin(dot))
    chromatin_dot = ramp(canvas.uniform(0.26, 0.4) - grain, -0.12, 0.12)
    inside = ramp(radius - r, -0.1, 0.2)
    return (
        canvas.stain("parasite_cytoplasm", ring)
        + canvas.stain("parasite_chromatin", chromatin_dot)
        - canvas.stain("haemoglobin", 0.2 * inside)
    )


DRAWN: dict[str, Callable[[Canvas], tuple[Array, Array]]] = {
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


def draw_cell(protocol: Protocol, name: str, rng: np.random.Generator) -> Cell:
    um = protocol.pixel_um / SUPERSAMPLING
    reach = 1.2 if name == "platelet_clump" else 0.66
    canvas = Canvas(float(rng.uniform(*protocol.diameters_um[name])), um, protocol.stains, rng, reach)
    absorbance, depth = DRAWN[name](canvas)
    absorbance = absorbance * canvas.uniform(0.88, 1.12) + canvas.stain("haemoglobin", halo(depth, 0.05))
    covered = coverage(depth)
    layers = cv2.GaussianBlur(np.dstack([absorbance, covered]).astype(np.float32), (0, 0), 0.75)
    return Cell(name, trimmed(layers), 2 * float(np.sqrt(covered.sum() * um * um / np.pi)))


def trimmed(layers_HW4: Array) -> Array:
    """float32 layers without the empty margin, centred on what the cell touches."""
    x, y, width, height = cv2.boundingRect((np.abs(layers_HW4).max(-1) > 0.004).astype(np.uint8))
    return np.ascontiguousarray(layers_HW4[y : y + height, x : x + width])
