"""What does Kubeflow's route cost over calling the steps? Run from the project's folder:

    PYTHONPATH=. python tests/benchmarks/kfp_overhead.py [rounds]

Four light steps on a small table, by turns: by the command line, and as tasks of a compiled pipeline on KFP's local
runner; a process a step in both. Beside them, what a process pays for importing kfp. Prints medians a step: seconds of
wall time, and of processor time, which a busy machine changes less.
"""

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from subprocess import run
from typing import Any

import yaml
from kfp import compiler, components, dsl, local

from components.augment import augment
from components.ingest import ingest
from components.split import split
from components.validate import validate
from cytoloop.params import Params, load_params, sections_as_json
from pipelines.placing import Placing
from pipelines.site import Site

ROOT = Path(__file__).parents[2]
STEPS = ("ingest", "validate", "split", "augment")
FOLDERS = ("raw", "validated", "data_docs", "splits", "augmented")
SMALL = {"train": 8, "valid": 4, "test": 4, "size": 64, "cells_per_class": 10}


def small(folder: Path) -> Path:
    """A params file for a table of few pictures."""
    tree = yaml.safe_load((ROOT / "params.yaml").read_text("utf-8"))
    tree["ingest"] |= {"source": str(ROOT / tree["ingest"]["source"]), "smear": SMALL}
    tree["validate"] = {"min_pictures": 3}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree), "utf-8")
    return folder / "params.yaml"


def compiled(params: Params, path: Path) -> Any:
    """The four steps as a pipeline, written and read back."""
    place = Placing("cytoloop-python:1.0.0", Site())
    told = {f"{name}_params": text for name, text in sections_as_json(params).items()}

    @dsl.pipeline(name="light")
    def light() -> None:
        raw = place(ingest, told).outputs["raw"]
        validated = place(validate, told, raw=raw).outputs["validated"]
        splits = place(split, told, raw=raw, validated=validated).outputs["splits"]
        place(augment, told, raw=raw, splits=splits)

    compiler.Compiler().compile(light, str(path))
    return components.load_component_from_file(str(path))


def by_command_line(params: Path, folder: Path) -> None:
    flags = [flag for name in FOLDERS for flag in (f"--{name.replace('_', '-')}", str(folder / name))]
    for step in STEPS:
        run([sys.executable, "-m", "cytoloop", step, "--params", str(params), *flags], check=True, capture_output=True)


def importing_kfp() -> None:
    for _ in STEPS:
        run([sys.executable, "-c", "import kfp.dsl.executor_main"], check=True)


def seconds_a_step(work: Callable[[], Any]) -> tuple[float, float]:
    """Wall time, and processor time of all processes that were started."""
    began = time.perf_counter(), processor_time()
    work()
    return (time.perf_counter() - began[0]) / len(STEPS), (processor_time() - began[1]) / len(STEPS)


def processor_time() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(rounds: int = 5) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        params = small(folder)
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "kfp"))
        ways: dict[str, Callable[[], Any]] = {
            "command line": lambda: by_command_line(params, folder / "plain"),
            "kubeflow": compiled(load_params(params), folder / "light.yaml"),
            "importing kfp": importing_kfp,
        }
        taken = [{name: seconds_a_step(way) for name, way in ways.items()} for _ in range(rounds)]
    print(f"{'':14}  wall s  processor s   (medians a step)")
    for name in ways:
        wall, processor = (median(turn[name][kind] for turn in taken) for kind in (0, 1))
        print(f"{name:14}  {wall:6.2f}  {processor:6.2f}")
    more = [median(turn["kubeflow"][kind] - turn["command line"][kind] for turn in taken) for kind in (0, 1)]
    print(f"kubeflow's route costs {more[0]:.2f} s more a step, {more[1]:.2f} s of a processor, its import included")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
