"""Peak memory of one epoch of training as the data grows 1x, 4x, 16x: it must stay flat.

Each size runs in a process of its own. Usage: python tests/benchmarks/training_memory.py [PICTURES]
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

SIDE = 256


def make_table(folder: Path, pictures: int) -> int:
    """Noise pictures, which do not compress; returns the table's bytes."""
    from cytoloop.artifacts import TableWriter, shards
    from cytoloop.images.decode import encode_rgb_png
    from tables import CODEC, card, row

    random = np.random.default_rng(0)
    with TableWriter(folder, card()) as table:
        for i in range(pictures):
            mask_HW = np.zeros((SIDE, SIDE), np.uint8)
            mask_HW[10 : 10 + i % 200] = 1
            noise_HW3 = random.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
            table.write(
                row(f"p{i:06d}", mask_HW=mask_HW, image=encode_rgb_png(noise_HW3), mask=CODEC.encode_png(mask_HW))
            )
    return sum(path.stat().st_size for path in shards(folder))


def one_epoch(folder: Path) -> None:
    """Train a small network for an epoch and print this process's peak memory, MiB."""
    from cytoloop.model.architectures import build
    from cytoloop.model.data import PictureStream
    from cytoloop.model.training import start
    from cytoloop.params import ModelParams, TrainParams

    model = ModelParams(num_classes=3, image_width=32, image_height=32, num_layers=2, base_filters=2)
    stream = PictureStream([(folder, None)], model, 8)
    training = start(build, model, TrainParams(epochs=1), stream)
    training.network.fit(stream.epoch(0, 0), verbose=0)
    print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def main() -> None:
    pictures = int(sys.argv[1]) if len(sys.argv) > 1 else 150
    peaks = {}
    for times in (1, 4, 16):
        with tempfile.TemporaryDirectory() as place:
            size = make_table(Path(place), times * pictures)
            done = subprocess.run(
                [sys.executable, __file__, "--epoch", place], check=True, capture_output=True, text=True
            )
        peaks[times] = float(done.stdout.splitlines()[-1])
        print(f"{times:3}x  {times * pictures:6} pictures  table {size / 2**20:6.0f} MiB  peak {peaks[times]:6.0f} MiB")
    print(f"16x the data: {peaks[16] / peaks[1]:.2f}x the memory")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--epoch"]:
        one_epoch(Path(sys.argv[2]))
    else:
        main()
