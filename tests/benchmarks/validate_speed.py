"""How long does validation take beyond start-up? Run: python tests/benchmarks/validate_speed.py [pictures] [side]

A table of noise pictures with ten classes is written to a temporary folder and judged twice: the
first time pays for the import of Great Expectations. Prints seconds, and peak resident memory.
"""

import hashlib
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cytoloop.artifacts import Card, Row, TableWriter
from cytoloop.images.codec import LabelClass, LabelCodec
from cytoloop.images.decode import encode_rgb_png
from cytoloop.params import ValidateParams
from cytoloop.steps.validate import validate

CODEC = LabelCodec(tuple(LabelClass(f"class_{n}", (25 * n, 0, 255 - 25 * n)) for n in range(10)))


def rows(pictures: int, side: int) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    image = encode_rgb_png(rng.integers(0, 256, (side, side, 3), np.uint8))
    for n in range(pictures):
        file = n - 1 if n % 50 == 1 else n  # some files occur twice
        mask_HW = np.random.default_rng(file).integers(0, 10, (side, side), np.uint8)
        yield Row(
            id=f"p{n:06}",
            group=f"g{n // 4:06}",
            source_file=f"images/p{n:06}.png",
            mask_file=f"masks/p{n:06}.png",
            sha256=hashlib.sha256(str(file).encode()).hexdigest(),
            width=side,
            height=side,
            mode="RGB",
            mask_width=side,
            mask_height=side,
            image=image,
            mask=CODEC.encode_png(mask_HW),
            class_pixels=np.bincount(mask_HW.ravel(), minlength=10).tolist(),
            unknown_pixels=0,
            phash=rng.bytes(32),
        )


def main(pictures: int = 1000, side: int = 224) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with TableWriter(folder / "raw", Card("noise", CODEC.to_json(), "CC0-1.0", "drawn")) as table:
            for row in rows(pictures, side):
                table.write(row)
        for name in ("with start-up", "beyond start-up"):
            validated = folder / name
            validated.mkdir()
            start = time.perf_counter()
            numbers = validate(folder / "raw", validated, folder / "docs", ValidateParams())
            print(f"{pictures} pictures, {name}: {time.perf_counter() - start:.2f} s  {numbers}")
    print(f"peak resident memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
