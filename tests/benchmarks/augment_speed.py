"""How many pairs of picture and mask a second, against albumentations 2 in the same run.

    python tests/benchmarks/augment_speed.py [pairs] [repeats]

The same nine operations on 512 x 512 RGB pictures with their masks, one core, one thread: each operation
with probability 1, then 0.5. Where the peer has a choice it has the cheaper one: its elastic transform with
our sigma (that of 50 pixels, its default, takes twice as long), its grid for our field of distortions. The two
take turns, so that whatever else the machine does meets both. Prints the median of the repeats of pairs a
second of the processor's time, and their ratio.
"""

import os
import sys

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1") | {"NO_ALBUMENTATIONS_UPDATE": "1"}

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import albumentations
import cv2
import numpy as np

from cytoloop.images.augment import Sample
from cytoloop.params import AugmentParams
from cytoloop.variation import chance, vary

SIDE = 512
METHODS = ("horizontal_flip", "vertical_flip", "shear", "shrink", "rotation")
METHODS = (*METHODS, "barrel", "pincushion", "distortion", "elastic")
Pair = Callable[[Sample], Any]


def ours(probability: float) -> Pair:
    """All nine with their default magnitudes."""
    sections = {name: {"probability": probability} for name in METHODS}
    params = AugmentParams.model_validate({"quarter_turns": None, **sections})
    rng = chance(params.seed, "benchmark")
    return lambda sample: vary(sample, params, rng)


def theirs(p: float) -> Pair:
    """The same nine with the same magnitudes, as far as they are the same operation."""
    border: dict[str, Any] = {"border_mode": cv2.BORDER_REFLECT_101, "p": p}
    degrees = float(np.degrees(np.arctan(0.1)))
    slopes = {"x": (-degrees, degrees), "y": (-degrees, degrees)}
    compose = albumentations.Compose(
        [
            albumentations.HorizontalFlip(p=p),
            albumentations.VerticalFlip(p=p),
            albumentations.Affine(shear=slopes, **border),
            albumentations.Affine(scale=(0.6, 1), **border),
            albumentations.Rotate(limit=180, **border),
            albumentations.OpticalDistortion(distort_limit=(0, 0.3), **border),
            albumentations.OpticalDistortion(distort_limit=(-0.3, 0), **border),
            albumentations.GridDistortion(num_steps=5, distort_limit=0.3, **border),
            albumentations.ElasticTransform(alpha=87, sigma=8, **border),  # RMS 1.8 pixels, as ours
        ],
        seed=0,
    )
    return lambda sample: compose(image=sample.image_HWC, mask=sample.mask_HW)


def drawn(number: int) -> list[Sample]:
    """Smooth noise with masks of six classes."""
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(number):
        image_HW3 = cv2.resize(rng.integers(0, 256, (64, 64, 3), np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        mask_HW = np.kron(rng.integers(0, 6, (16, 16), np.uint8), np.ones((32, 32), np.uint8))
        samples.append(Sample(image_HW3, mask_HW))
    return samples


def pairs_a_second(vary_one: Pair, samples: list[Sample]) -> float:
    """Of the processor's time, each pair in its cache as if it had just been decoded."""
    spent = 0.0
    for sample in samples:
        decoded = sample.each(np.copy, np.copy)
        start = time.process_time()
        vary_one(decoded)
        spent += time.process_time() - start
    return len(samples) / spent


def main(pairs: int = 40, repeats: int = 9) -> None:
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    cv2.setNumThreads(1)
    samples = drawn(pairs)
    for probability in (1, 0.5):
        ways = {"cytoloop": ours(probability), "albumentations": theirs(probability)}
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(repeats):
            for name, way in ways.items():
                speeds[name].append(pairs_a_second(way, samples))
        middle = {name: median(found) for name, found in speeds.items()}
        said = ", ".join(f"{name} {speed:.1f}" for name, speed in middle.items())
        print(f"p = {probability}: pairs a second: {said}: {middle['cytoloop'] / middle['albumentations']:.1f} times")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
