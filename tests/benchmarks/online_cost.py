"""What online augmentation costs a training: epochs with and without it take turns, in one process.

    python tests/benchmarks/online_cost.py [pictures] [turns]

The default recipe's network and pictures, with the deepcell recipe's nine operations and with the default's
flips and quarter turns. Prints the median of an epoch's wall time of each, and the ratios.
"""

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from cytoloop.door import run_step
from cytoloop.model.architectures import build
from cytoloop.model.data import PictureStream, online
from cytoloop.model.training import start
from cytoloop.params import load_params

RECIPES = Path(__file__).parents[2] / "recipes"


def main() -> None:
    pictures, turns = (int(given) for given in (*sys.argv[1:3], *("96", "7")[len(sys.argv) - 1 :]))
    params = load_params(RECIPES / "default.yaml")
    smear = params.ingest.smear.model_copy(update={"train": pictures, "valid": 1, "test": 1})
    params = params.model_copy(update={"ingest": params.ingest.model_copy(update={"smear": smear})})
    ways = {"without": None, "flips": online(params.augment)}
    ways["nine operations"] = online(load_params(RECIPES / "deepcell.yaml").augment)
    with tempfile.TemporaryDirectory() as place:
        run_step("ingest", {"raw": Path(place) / "raw"}, params)
        tables = [(Path(place) / "raw", None)]
        streams = {
            name: PictureStream(tables, params.model, params.train.batch_size, way) for name, way in ways.items()
        }
        network = start(build, params.model, params.train, streams["without"]).network
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(turns + 1):
            for name, stream in streams.items():
                began = time.perf_counter()
                network.fit(stream.epoch(0, turn), verbose=0, shuffle=False)
                seconds[name].append(time.perf_counter() - began)
    medians = {name: median(taken[1:]) for name, taken in seconds.items()}  # the first builds the graph
    for name, taken in medians.items():
        print(f"{name:16} {taken:6.2f} s an epoch of {pictures + 2} pictures  {taken / medians['without']:.3f} x")


if __name__ == "__main__":
    main()
