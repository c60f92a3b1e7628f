"""Warps: for each point of a new picture, where in the old one it comes from.

A warp answers with the source of a point, so that a chain of warps is a chain of functions and
nothing is resampled between them. Points are x and y in pixels, (0, 0) in the middle of the first
pixel, y downwards. The chain is followed for nodes that are close against the lengths over which its
warps bend, and is linear between them: within a pixel of the chain itself for all that params allow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, inf, sqrt
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

Array = np.ndarray[Any, Any]

SPREAD = sqrt(3)
"""Spacing of a cubic B-spline in standard deviations of the Gaussian that it resembles."""


class Points(NamedTuple):
    """float32 arrays of the same shape, pixels."""

    x: Array
    y: Array


class Warp(Protocol):
    """A function from points to where they come from."""

    @property
    def length(self) -> float:
        """Pixels over which it bends; nodes a third of it apart are enough."""

    def source(self, points: Points) -> Points: ...


@dataclass(frozen=True, eq=False)
class Linear:
    """Whatever a matrix does about the middle of the picture: p' = M (p - c) + c."""

    matrix_22: Array
    middle: tuple[float, float]
    """x and y."""
    length: float = inf

    def source(self, points: Points) -> Points:
        (a, b), (c, d) = self.matrix_22.tolist()
        middle_x, middle_y = self.middle
        x, y = points.x - middle_x, points.y - middle_y
        return Points(a * x + b * y + middle_x, c * x + d * y + middle_y)


@dataclass(frozen=True)
class Lens:
    """A disc whose middle is magnified (barrel) or made smaller (pincushion).

    A point at r from the centre, r < R, comes from r (1 - a (1 - r^2 / R^2)^2) on the same ray. The
    middle is magnified 1 / (1 - a) times, and the disc joins its surroundings without a kink. For
    -1.25 < a < 1 no two points have the same source.
    """

    x: float
    y: float
    radius: float
    """R, pixels."""
    amount: float
    """a; positive for a barrel, negative for a pincushion."""

    @property
    def length(self) -> float:
        return self.radius / 8

    def source(self, points: Points) -> Points:
        x, y = points.x - self.x, points.y - self.y
        inside = np.maximum(1 - (x * x + y * y) / self.radius**2, 0)
        nearer = self.amount * inside * inside
        return Points(points.x - nearer * x, points.y - nearer * y)


@dataclass(frozen=True, eq=False)
class Displacement:
    """A smooth field of displacements: a uniform cubic B-spline (Rueckert et al. 1999, doi 10.1109/42.796284).

    p' = p + sum over i, j >= 0 of c_ij B(y / h + 2 - i) B(x / h + 2 - j), with the cubic B-spline B and the
    spacing h = sqrt(3) sigma; from h beyond the picture on, the displacement is that of the edge there.
    With independent random coefficients it resembles noise that a Gaussian of sigma has smoothed. It is
    nowhere larger than the largest coefficient, and where that is less than h / 2.0464 = 0.846 sigma, no
    two points have the same source (Choi and Lee 2000, doi 10.1006/gmod.2000.0531).
    """

    coefficients_2NM: Array
    """float32 (2, N, M), displacements along x and y, pixels; N along the height, M along the width."""
    sigma: float
    """Smoothness, pixels."""

    @staticmethod
    def lattice(height: int, width: int, sigma: float) -> tuple[int, int]:
        """N and M of the coefficients for a picture of that size, pixels."""
        spacing = SPREAD * sigma
        return int((height - 1) / spacing) + 6, int((width - 1) / spacing) + 6

    @property
    def length(self) -> float:
        return self.sigma

    def source(self, points: Points) -> Points:
        """By a table of the displacements, linear between its entries."""
        spacing = SPREAD * self.sigma
        parts = ceil(spacing / _nodes_apart(self.sigma))
        _, rows, columns = self.coefficients_2NM.shape
        down, across = _spline(rows, parts), _spline(columns, parts)
        narrow = [cv2.gemm(down, c_NM, 1, None, 0) for c_NM in self.coefficients_2NM]
        tables = [cv2.gemm(table, across, 1, None, 0, flags=cv2.GEMM_2_T) for table in narrow]
        x, y = ((axis + spacing) * (parts / spacing) for axis in points)
        by_x, by_y = (cv2.remap(t, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for t in tables)
        return Points(points.x + by_x, points.y + by_y)


@lru_cache(maxsize=64)
def _spline(coefficients: int, parts: int) -> Array:
    """float32 (nodes, coefficients): weights of the cubic B-spline at nodes, `parts` between two coefficients."""
    nodes = np.arange((coefficients - 3) * parts + 1) / parts
    away = np.abs(nodes[:, None] + 1 - np.arange(coefficients))
    weights = (np.maximum(2 - away, 0) ** 3 - 4 * np.maximum(1 - away, 0) ** 3) / 6
    return np.asarray(weights, np.float32)


def _nodes_apart(length: float) -> float:
    """Pixels between the nodes that stand for something which bends over that length: 1 to 3."""
    return min(max(length / 3, 1), 3)


def coordinate_map(warps: Sequence[Warp], height: int, width: int, reflect: bool = False) -> Points:
    """For each pixel of a picture the point that it comes from, through all warps, the first one first.

    Args:
        warps: at least one.
        height: of the picture, pixels.
        width: of the picture, pixels.
        reflect: bring points beside the picture to their mirror images in it.

    Returns:
        float32 (H, W) of x and of y, pixels.
    """
    step = round(_nodes_apart(min(warp.length for warp in warps)))
    # one node more on each side, since a resize does not continue a slope beyond its last node
    x, y = (step * (np.arange(ceil(side / step) + 2) - 0.5) - 0.5 for side in (width, height))
    nodes = Points(*np.meshgrid(x.astype(np.float32), y.astype(np.float32)))
    for warp in warps:
        nodes = warp.source(nodes)
    fine = Points(*(cv2.resize(axis, None, fx=step, fy=step, interpolation=cv2.INTER_LINEAR) for axis in nodes))
    if reflect:
        _reflect(fine.x, width - 1)
        _reflect(fine.y, height - 1)
    return Points(*(axis[step : step + height, step : step + width] for axis in fine))


def _reflect(axis: Array, last: int) -> None:
    """In place last - |last - |axis||, which is in 0..last for what is no further away than the picture is large.

    OpenCV can reflect too, but does it pixel by pixel.
    """
    np.abs(axis, out=axis)
    np.abs(np.subtract(last, axis, out=axis), out=axis)
    np.subtract(last, axis, out=axis)
