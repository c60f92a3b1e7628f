"""What `tune.limits.memory_mib` estimates, beside what training takes here.

    python tests/benchmarks/memory_limit.py

Each network is trained for three steps in a process of its own. Taken is the growth of the process's peak of resident
memory over what it was before the network was built, TensorFlow itself loaded and a first, tiny network trained.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

PICTURES = 24
NETWORKS: list[dict[str, Any]] = [
    {"architecture": "leanunet", "side": 128, "base_filters": 16, "num_layers": 4, "batch": 4},
    {"architecture": "leanunet", "side": 256, "base_filters": 16, "num_layers": 5, "batch": 4},
    {"architecture": "leanunet", "side": 256, "base_filters": 32, "num_layers": 5, "batch": 8},
    {"architecture": "flexunet", "side": 128, "base_filters": 16, "num_layers": 5, "batch": 4},
    {"architecture": "flexunet", "side": 256, "base_filters": 8, "num_layers": 4, "batch": 4},
    {"architecture": "flexunet", "side": 256, "base_filters": 16, "num_layers": 5, "batch": 4},
    {"architecture": "attentionunet", "side": 128, "base_filters": 16, "num_layers": 4, "batch": 4},
]


def main() -> None:
    print("estimate  taken  taken over estimate")
    for network in NETWORKS:
        command = [sys.executable, __file__, json.dumps(network)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        estimate, taken = json.loads(done.stdout.splitlines()[-1])
        print(f"{estimate:8.0f}  {taken:5.0f}  {taken / estimate:19.2f}  {network}", flush=True)


def measure(network: dict[str, Any]) -> None:
    """Print the estimate and what was taken, MiB."""
    with tempfile.TemporaryDirectory() as place:
        _make_table(Path(place))
        _train(Path(place), {"architecture": "leanunet", "side": 32, "base_filters": 2, "num_layers": 2, "batch": 2})
        before = _peak_mib()
        estimate = _train(Path(place), network)
        print(json.dumps([estimate, _peak_mib() - before]))


def _make_table(folder: Path) -> None:
    from tables import row, write_table

    write_table(folder, [row(f"p{i:02d}", mask_HW=np.full((64, 64), i % 3, np.uint8)) for i in range(PICTURES)])


def _train(folder: Path, network: dict[str, Any]) -> float:
    """Three steps; returns the estimate of their peak."""
    from cytoloop.model.architectures import build
    from cytoloop.model.data import PictureStream
    from cytoloop.model.training import start
    from cytoloop.params import ModelParams, TrainParams
    from cytoloop.tuning.limits import memory_mib

    settings = {name: network[name] for name in ("architecture", "base_filters", "num_layers")}
    side, batch = network["side"], network["batch"]
    model = ModelParams(num_classes=3, image_width=side, image_height=side, **settings)
    stream = PictureStream([(folder, None)], model, batch)
    params = TrainParams(epochs=1, batch_size=batch, ema_momentum=0.99)
    training = start(build, model, params, stream)
    training.network.fit(stream.epoch(0, 0), steps_per_epoch=3, verbose=0)
    return memory_mib(training.network, batch, params)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if sys.argv[1:]:
        measure(json.loads(sys.argv[1]))
    else:
        main()
