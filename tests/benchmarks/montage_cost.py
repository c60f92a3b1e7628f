"""What a picture of an epoch costs in MLflow: ratios to a batch of the epoch's numbers, in a real store on SQLite.

    python tests/benchmarks/montage_cost.py [EPOCHS]

The store looks whether the picture is there before it is stored (a killed training draws its last epoch again), so
the first ten and the last ten epochs are told apart.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cytoloop import tracking

NUMBERS = {f"n{i}": 0.5 for i in range(18)}
WIDTH, HEIGHT = 812, 412  # a montage of six pictures


def seconds(work: Callable[..., None], *arguments: Any) -> float:
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def main(epochs: int) -> None:
    """Log numbers and a picture an epoch, and print medians of both."""
    folder = Path(tempfile.mkdtemp())
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    os.chdir(folder)
    colors = np.random.default_rng(0).integers(0, 64, (HEIGHT, WIDTH), np.uint8)
    Image.fromarray(colors, "P").save(folder / "page.png")
    numbers, pictures = [], []
    with tracking.start_run("cells", "montages", {}) as run:
        for epoch in range(epochs):
            numbers.append(seconds(run.log_metrics, NUMBERS, epoch))
            pictures.append(seconds(run.log_picture, folder / "page.png", "epochs", epoch))
    base = statistics.median(numbers)
    for name, some in (("first ten", pictures[:10]), ("last ten", pictures[-10:])):
        middle = statistics.median(some)
        print(f"a picture, {name} of {epochs} epochs: {middle * 1000:.0f} ms, {middle / base:.1f} x the numbers")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
