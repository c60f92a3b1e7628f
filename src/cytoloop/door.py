"""The one door to the steps: `dvc.yaml`, a pipeline component and the command line all use `run_step`.

A step is the function of the same name in the module of the same name under `cytoloop.steps`. Its
signature is the whole interface::

    def split(raw: Input, validated: Input, splits: Output, split_params: SplitParams) -> Numbers

`Input` and `Output` are folders; `<section>_params` is a section of
params.yaml; the numbers returned are printed and can be tracked.
"""

import importlib
import inspect
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from cytoloop.errors import CytoloopError, ValidationFailed
from cytoloop.params import Params

Input = Annotated[Path, "input"]
Output = Annotated[Path, "output"]
Numbers = dict[str, float]

STEPS = ("ingest", "validate", "split", "augment", "tune", "train", "evaluate", "infer", "register")

FOLDERS = {
    "raw": "data/raw",
    "validated": "data/validated",
    "data_docs": "reports/data_docs",
    "splits": "data/splits",
    "augmented": "data/augmented",
    "best_params": "models/best_params",
    "model": "models/segmenter",
    "evaluation": "reports/evaluation",
    "predictions": "reports/predictions",
    "registration": "reports/registration",
}


@dataclass(frozen=True)
class Interface:
    """What a step reads, writes and is told, as its signature says."""

    function: Callable[..., Numbers]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sections: tuple[str, ...]


def interface(step: str) -> Interface:
    """Look a step up; its module is imported here and not before."""
    if step not in STEPS:
        raise CytoloopError(f"{step}: no such step; allowed: {', '.join(STEPS)}")
    function = getattr(importlib.import_module(f"cytoloop.steps.{step}"), step)
    hints = get_type_hints(function, include_extras=True)
    names = list(inspect.signature(function).parameters)
    return Interface(
        function=function,
        inputs=tuple(n for n in names if hints[n] == Input),
        outputs=tuple(n for n in names if hints[n] == Output),
        sections=tuple(n.removesuffix("_params") for n in names if hints[n] not in (Input, Output)),
    )


def run_step(step: str, folders: Mapping[str, Path], params: Params) -> Numbers:
    """Run a step: outputs are written beside their place and renamed when the step has succeeded.

    Args:
        step: one of STEPS.
        folders: a path for each input and output of the step's interface.
        params: the whole tree; the step is given its own sections.

    Raises:
        CytoloopError: as the step does. Nothing half-written is left behind; only a failed
            validation keeps its output, which is the list of what is wrong.
    """
    face = interface(step)
    beside = {name: _beside(Path(folders[name])) for name in face.outputs}
    arguments: dict[str, Any] = {name: Path(folders[name]) for name in face.inputs}
    arguments |= beside
    arguments |= {f"{name}_params": params.section(name) for name in face.sections}
    try:
        for path in beside.values():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        numbers = face.function(**arguments)
    except ValidationFailed:
        _rename(beside, folders)
        raise
    except OSError as error:
        raise CytoloopError(f"{step} could not read or write: {error}") from error
    else:
        _rename(beside, folders)
        return numbers
    finally:
        for path in beside.values():
            shutil.rmtree(path, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _rename(beside: Mapping[str, Path], folders: Mapping[str, Path]) -> None:
    for name, part in beside.items():
        target = Path(folders[name])
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
