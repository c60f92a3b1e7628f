"""Perceptual hashes: what looks the same is near, what does not is far."""

import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cytoloop.images.hashes import BITS, near_duplicates, perceptual_hash
from drawn import Array, cells, disc, empty_picture, one_pixel_cell, painted

NEAR, FAR = 20, 60


def distance(a: bytes, b: bytes) -> int:
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).bit_count()


def sparse(seed: int) -> Array:
    """A dark fluorescence picture: a few bright nuclei on black, hardly any grain."""
    rng = np.random.default_rng(seed)
    image = np.zeros((96, 96), np.float32)
    for _ in range(4):
        image[disc(96, tuple(rng.integers(8, 88, 2)), int(rng.integers(4, 9)))] = rng.integers(30, 90)
    image = cv2.GaussianBlur(image, (5, 5), 0) + rng.normal(0, 1, image.shape)
    return np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, -1)


def jpeg(image: Array, quality: int = 80) -> Array:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


@pytest.mark.parametrize("draw", [lambda seed: cells(96, 6, seed=seed).image_HW3, sparse], ids=["bright", "dark"])
@pytest.mark.parametrize(
    "change",
    [
        jpeg,
        lambda image: cv2.resize(image, (48, 48), interpolation=cv2.INTER_AREA),
        lambda image: cv2.resize(image, (160, 160), interpolation=cv2.INTER_LINEAR),
        lambda image: np.clip(image * 1.04 + 3, 0, 255).astype(np.uint8),
    ],
    ids=["jpeg", "half", "larger", "brighter"],
)
def test_a_copy_is_near(draw, change):
    for seed in range(5):
        image = draw(seed)
        assert distance(perceptual_hash(image), perceptual_hash(change(image))) <= NEAR


@pytest.mark.parametrize("draw", [lambda seed: cells(96, 6, seed=seed).image_HW3, sparse], ids=["bright", "dark"])
def test_other_pictures_are_far(draw):
    hashes = [perceptual_hash(draw(seed)) for seed in range(30)]
    assert min(distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > FAR


def test_a_hash_has_256_bits():
    assert len(perceptual_hash(one_pixel_cell().image_HW3)) * 8 == BITS == 256


def test_flat_pictures_are_alike_only_when_they_have_the_same_colour():
    flat = [np.full((40, 60, 3), grey, np.uint8) for grey in (0, 10, 128, 255)]
    hashes = [perceptual_hash(image) for image in flat]
    assert min(distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > FAR
    assert perceptual_hash(np.full((80, 30, 3), 128, np.uint8)) == hashes[2]


def test_empty_pictures_with_grain_do_not_collide():
    empties = [perceptual_hash(painted(np.zeros((64, 64), np.uint8), seed=seed).image_HW3) for seed in range(20)]
    assert min(distance(a, b) for i, a in enumerate(empties) for b in empties[:i]) > FAR
    assert distance(empties[0], perceptual_hash(empty_picture(64).image_HW3)) == 0


def test_a_symmetrical_picture_is_near_its_copy():
    image = painted(disc(65, (32, 32), 12).astype(np.uint8)).image_HW3
    clean = np.repeat(np.where(disc(65, (32, 32), 12), 60, 210).astype(np.uint8)[..., None], 3, -1)
    assert distance(perceptual_hash(clean), perceptual_hash(jpeg(clean, 95))) <= NEAR
    assert perceptual_hash(image) == perceptual_hash(image.copy())


def test_one_pixel_high_pictures_have_a_hash():
    assert len(perceptual_hash(np.arange(300, dtype=np.uint8).reshape(1, 100, 3))) == 32


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=2, max_size=2), max_size=30), st.integers(0, 16))
def test_pairs_are_those_of_the_definition(hashes, bits):
    expected = [
        (i, j) for i in range(len(hashes)) for j in range(i + 1, len(hashes)) if distance(hashes[i], hashes[j]) <= bits
    ]
    assert near_duplicates(hashes, bits) == expected


def test_pairs_are_found_across_blocks(monkeypatch):
    monkeypatch.setattr("cytoloop.images.hashes.COMPARISONS", 1)
    near = [bytes(32), bytes(31) + b"\x01", b"\xff" * 32, bytes(31) + b"\x03"]
    assert near_duplicates(near, 1) == [(0, 1), (1, 3)]
    assert near_duplicates(near, 2) == [(0, 1), (0, 3), (1, 3)]
    assert near_duplicates([], 3) == []
