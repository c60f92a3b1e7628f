"""How fast a dataset of smears is composed, encoded and written: on one processor, and on all.

    python tests/benchmarks/smear_speed.py [pictures] [repeats]

Prints what a process spends before its first picture and on a picture, and then pictures a second of
whole runs of ingest (start of the processes, cells and backgrounds included), one processor and all
of them by turns: medians, their ratio, and the largest memory of a working process.
"""

import os
import resource
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import cv2

from cytoloop.artifacts import read_card
from cytoloop.images.codec import LabelCodec
from cytoloop.images.facts import mask_facts, picture_facts
from cytoloop.params import Params, load_params
from cytoloop.smear import Smears, read_protocol
from cytoloop.smear_dataset import write
from cytoloop.workers import processors

ROOT = Path(__file__).parents[2]


def parts(params: Params, pictures: int = 200) -> None:
    """What one process spends, in milliseconds of processor time."""
    cv2.setNumThreads(1)
    smears = Smears(read_protocol(Path(params.ingest.source)), params.ingest.smear)
    codec = LabelCodec.from_json(params.classes)
    began = time.process_time()
    smears[0]
    first = time.process_time()
    composed = [smears[k] for k in range(1, pictures)]
    made = time.process_time()
    for picture in composed:
        picture_facts(picture.image_HW3)
        mask_facts(picture.ids_HW, picture.instances_HW, codec)
    encoded = time.process_time()
    print(f"cells and first backgrounds: {1000 * (first - began):.0f} ms of processor time")
    print(
        f"a picture: {1000 * (made - first) / len(composed):.2f} ms composed (its share of backgrounds too),", end=" "
    )
    print(f"{1000 * (encoded - made) / len(composed):.2f} ms encoded and described")


def run(to: Path, params: Params, pictures: int, allowed: set[int]) -> float:
    """Pictures a second of a whole run on the allowed processors."""
    tenth = pictures // 10
    os.sched_setaffinity(0, allowed)
    began = time.perf_counter()
    write(to, params, pictures - 2 * tenth, tenth, tenth)
    return pictures / (time.perf_counter() - began)


def main(pictures: int = 2000, repeats: int = 3) -> None:
    """Measure and print."""
    os.chdir(ROOT)
    params = load_params(ROOT / "recipes/default.yaml")
    parts(params)
    every = os.sched_getaffinity(0)
    one: list[float] = []
    all_: list[float] = []
    with TemporaryDirectory() as folder:
        os.environ["CYTOLOOP_WORK"] = f"{folder}/work"
        for _ in range(repeats):
            one.append(run(Path(folder) / "one", params, pictures, {min(every)}))
            all_.append(run(Path(folder) / "all", params, pictures, every))
            assert read_card(Path(folder) / "one") == read_card(Path(folder) / "all")
    print(f"pictures a second, {pictures} pictures: {median(one):.0f} on one processor,", end=" ")
    print(f"{median(all_):.0f} on {processors()}: {median(all_) / median(one):.2f} times")
    print(f"largest working process: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
