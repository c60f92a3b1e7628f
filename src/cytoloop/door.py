"""The one door to the steps: `dvc.yaml`, a pipeline component and the command line all use `run_step`.

A step is the function of the same name in the module of the same name under `cytoloop.steps`. Its
signature is the whole interface::

    def split(raw: Input, validated: Input, splits: Output, split_params: SplitParams) -> Numbers

`Input` and `Output` are folders; `<section>_params` is a section of
params.yaml; the numbers returned are printed and can be tracked.
"""

import importlib
import inspect
import math
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic_core import to_jsonable_python

from cytoloop import cluster
from cytoloop.errors import CytoloopError, ValidationFailed
from cytoloop.packing import pack, unpacked
from cytoloop.params import Sections, sections_from_json
from cytoloop.provenance import remember_origin

Input = Annotated[Path, "input"]
Output = Annotated[Path, "output"]
Numbers = dict[str, float]

STEPS = ("ingest", "validate", "split", "augment", "tune", "train", "evaluate", "infer", "register")

SHARED = ("train",)
"""Steps that several workers can do together."""

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


def run_step(step: str, folders: Mapping[str, Path], params: Sections) -> Numbers:
    """Run a step: outputs are written beside their place and renamed when the step has succeeded.

    Args:
        step: one of STEPS.
        folders: a path for each input and output of the step's interface.
        params: the whole tree, or some sections; the step is given its own.

    Of several workers that share a step (`cytoloop.cluster`), the chief alone has outputs. Each output holds the
    step's sections, as params.json.

    Raises:
        CytoloopError: as the step does. Nothing half-written is left behind; only a failed
            validation keeps its output, which is the list of what is wrong.
    """
    from cytoloop.artifacts import PARAMS, write_json  # pyarrow takes a while to import

    face = interface(step)
    place = cluster.place() if step in SHARED else cluster.ALONE
    beside = {name: _beside(Path(folders[name]), place) for name in face.outputs}
    arguments: dict[str, Any] = {name: Path(folders[name]) for name in face.inputs}
    arguments |= beside
    arguments |= {f"{name}_params": params.section(name) for name in face.sections}
    told = {name: _recorded(params.section(name)) for name in face.sections}
    try:
        for path in beside.values():
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
            write_json(path / PARAMS, told)
        numbers = face.function(**arguments)
    except ValidationFailed:
        _rename(beside, folders)
        raise
    except OSError as error:
        raise CytoloopError(f"{step} could not read or write: {error}") from error
    else:
        if place.is_chief:
            _rename(beside, folders)
        return numbers
    finally:
        for path in beside.values():
            shutil.rmtree(path, ignore_errors=True)


def run_component(
    step: str, paths: Mapping[str, str], sections: Mapping[str, str], origin: Mapping[str, str] | None = None
) -> Numbers:
    """Run a step in a pod, where all that it is told comes as strings.

    Args:
        step: one of STEPS.
        paths: of each input and output of the step's interface; where an artifact has many files, it is one
            archive (`cytoloop.packing`).
        sections: the step's sections of params.yaml by name, each as JSON.
        origin: where the run comes from, as `provenance.origin` has it.

    Returns:
        The step's numbers, but for those that are NaN or infinite, which JSON does not know.

    Raises:
        CytoloopError: as `run_step`; ParamsError where a section is not what the typed tree allows.
    """
    params = sections_from_json(sections, f"component {step}")
    remember_origin(origin or {})
    face = interface(step)
    with ExitStack() as stack:
        inputs = {name: stack.enter_context(unpacked(Path(paths[name]))) for name in face.inputs}
        outputs = {name: Path(paths[name]) for name in face.outputs}
        numbers = run_step(step, inputs | outputs, params)
    for folder in outputs.values():
        pack(folder)
    return {name: value for name, value in numbers.items() if math.isfinite(value)}


def _recorded(section: Any) -> Any:
    """A section as JSON, but for where the pictures lie: the same from elsewhere give the same artifact."""
    plain = to_jsonable_python(section)
    return {key: value for key, value in plain.items() if key != "source"} if isinstance(plain, dict) else plain


def _beside(path: Path, place: cluster.Place) -> Path:
    return path.with_name(f".{path.name}.part" if place.is_chief else f".{path.name}.worker-{place.index}")


def _rename(beside: Mapping[str, Path], folders: Mapping[str, Path]) -> None:
    for name, part in beside.items():
        target = Path(folders[name])
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
