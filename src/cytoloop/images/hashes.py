"""Perceptual hashes: pictures that look the same have nearly the same bits."""

import hashlib
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]

BITS = 256
SIDE = 64
"""Side to which a picture is averaged before its frequencies are taken, pixels."""
FLAT = 0.25
"""Standard deviation below which the averaged picture shows nothing, grey levels of 0..255."""
NEGLIGIBLE = 1e-3
"""Coefficients below this part of all of them together count as not positive: noise must not decide."""
COMPARISONS = 2**24
"""Pairs compared at once by `near_duplicates`."""


def perceptual_hash(rgb_HW3: Array) -> bytes:
    """32 bytes = 256 bits that hardly change when a picture is re-encoded, resized or brightened.

    How it works: the grey picture is averaged to 64 x 64, and each bit tells whether one of its
    lowest 16 x 16 spatial frequencies (discrete cosine transform, those without any variation in
    one direction left out) is positive. Brightness and contrast do not change signs, and a dark
    picture with a few bright nuclei has as many bits set as any other. Differences of neighbouring
    pixels, the other common choice, are noise wherever fluorescence pictures are black.

    A flat picture has no signs; its bits are a digest of its colour, so that only flat pictures of
    the same colour are alike.

    Args:
        rgb_HW3: uint8 (H, W, 3).
    """
    grey_SS = cv2.resize(_grey(rgb_HW3), (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    if cv2.meanStdDev(grey_SS)[1].item() < FLAT:
        return hashlib.sha256(np.rint(rgb_HW3.mean((0, 1))).astype(np.uint8).tobytes()).digest()
    frequencies = cv2.dct(grey_SS)[1:17, 1:17].ravel()
    return np.packbits(frequencies > NEGLIGIBLE * np.linalg.norm(frequencies)).tobytes()


def _grey(rgb_HW3: Array) -> Array:
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(rgb_HW3), cv2.COLOR_RGB2GRAY), np.float32)


def near_duplicates(hashes: Sequence[bytes], bits: int) -> list[tuple[int, int]]:
    """Pairs (i, j), i < j, of hashes that differ in at most `bits` bits, in order.

    Memory is that of one block of comparisons and of the pairs found, however many hashes there are.
    """
    if not hashes:
        return []
    # with bits as -1 and 1, the scalar product is the number of equal bits less that of different ones
    signs_NB = np.unpackbits(np.frombuffer(b"".join(hashes), np.uint8).reshape(len(hashes), -1), axis=1) * 2.0 - 1
    signs_NB = signs_NB.astype(np.float32)
    least = signs_NB.shape[1] - 2 * bits
    rows = max(1, COMPARISONS // len(hashes))
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(hashes), rows):
        alike_RN = signs_NB[start : start + rows] @ signs_NB[start:].T >= least
        first, second = np.nonzero(np.triu(alike_RN, 1))
        pairs += zip((first + start).tolist(), (second + start).tolist(), strict=True)
    return pairs
