"""A component for each step, with the step's inputs, outputs and params; and what its body calls."""

import ast
import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from kfp.dsl import Dataset

from cytoloop.door import STEPS, interface, run_component, run_step
from cytoloop.errors import ParamsError
from cytoloop.params import load_params, sections_as_json, sections_from_json
from cytoloop.sharding import predict_shard
from pipelines.site import COMPONENTS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "components"
PROVENANCE = {"git_commit", "image", "data_revision", "data_hash"}


def component(name: str) -> Any:
    return getattr(importlib.import_module(f"components.{name}"), name)


def split_names(ports: dict[str, Any]) -> tuple[set[str], set[str]]:
    """Artifacts and parameters."""
    artifacts = {name for name, port in ports.items() if port.type.startswith("system.")}
    return artifacts, set(ports) - artifacts


def test_a_component_for_each_step_and_two_more() -> None:
    files = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "step"}
    assert files == set(COMPONENTS) == {*STEPS, "due", "predict"}


@pytest.mark.parametrize("step", STEPS)
def test_a_component_is_its_step(step: str) -> None:
    face, spec = interface(step), component(step).component_spec
    inputs, parameters = split_names(spec.inputs)
    assert spec.name == step
    assert inputs == set(face.inputs)
    assert set(spec.outputs) == {*face.outputs, "metrics"}
    assert parameters - PROVENANCE == {f"{name}_params" for name in face.sections}
    assert {spec.inputs[name].type for name in parameters} == {"String"}


@pytest.mark.parametrize("step", STEPS)
def test_a_component_hands_over_what_it_is_given(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    face, called = interface(step), []
    monkeypatch.setattr("cytoloop.door.run_component", lambda *told: called.append(told) or {"pictures": 3.0})
    names = list(inspect.signature(component(step).python_func).parameters)
    folders = {name: Dataset(name=name, uri=f"/{name}") for name in (*face.inputs, *face.outputs, "metrics")}
    component(step).python_func(**{name: folders.get(name, f"<{name}>") for name in names})
    name, paths, sections, *origin = called[0]
    assert name == step
    assert paths == {name: f"/{name}" for name in (*face.inputs, *face.outputs)}
    assert sections == {name: f"<{name}_params>" for name in face.sections}
    assert origin in ([], [{name: f"<{name}>" for name in names if name in PROVENANCE}])
    assert folders["metrics"].metadata == {"pictures": 3.0}


def test_provenance_reaches_the_steps_that_keep_it() -> None:
    assert component("train").component_spec.inputs.keys() >= PROVENANCE
    assert component("ingest").component_spec.inputs.keys() >= {"data_revision", "data_hash"}  # of its cache key


def test_predict_is_told_what_the_function_asks_for() -> None:
    _, parameters = split_names(component("predict").component_spec.inputs)
    assert parameters == set(inspect.signature(predict_shard).parameters)


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_body_is_thin(name: str) -> None:
    tree = ast.parse((FOLDER / f"{name}.py").read_text("utf-8"))
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    branches = (ast.If, ast.For, ast.While, ast.Try, ast.With)
    assert not [node for node in ast.walk(function) if isinstance(node, branches)]
    assert len(function.body) <= 6


def test_the_door_for_components_does_what_the_door_does(tmp_path: Path) -> None:
    params = load_params(ROOT / "params.yaml")
    small = params.ingest.smear.model_copy(
        update={"train": 2, "valid": 2, "test": 2, "size": 64, "cells_per_class": 10}
    )
    ingest = params.ingest.model_copy(update={"smear": small, "source": str(ROOT / params.ingest.source)})
    params = params.model_copy(update={"ingest": ingest})
    texts = sections_as_json(params)
    plain = run_step("ingest", {"raw": tmp_path / "plain"}, params)
    told = {name: texts[name] for name in ("ingest", "classes")}
    assert run_component("ingest", {"raw": str(tmp_path / "raw")}, told) == plain
    files = sorted(path.name for path in (tmp_path / "plain").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "raw").iterdir())
    assert all((tmp_path / "raw" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes() for name in files)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"copies": -1}', "component augment: 1 problem(s)\n  augment.copies = -1: Input should be greater"),
        ('{"copy": 1}', "augment.copy = 1: unknown key"),
        ('{"copies": 1', "component augment: augment = '{\"copies\": 1': is not JSON"),
        ('{"shear": null, "copies": 2, "elastic": {"displacement": 0.2}}', "could fold the picture over itself"),
    ],
)
def test_a_wrong_section_is_refused_before_any_work(text: str, said: str, tmp_path: Path) -> None:
    paths = {name: str(tmp_path / name) for name in ("raw", "splits", "augmented")}
    with pytest.raises(ParamsError) as refused:
        run_component("augment", paths, {"augment": text})
    assert said in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_sections_survive_json() -> None:
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        params = load_params(path)
        texts = sections_as_json(params)
        again = [sections_from_json(texts, "test")]
        # a cluster may send integers as floats
        floats = {name: json.dumps(json.loads(text, parse_int=float)) for name, text in texts.items()}
        again.append(sections_from_json(floats, "test"))
        assert all(some.section(name) == params.section(name) for some in again for name in texts)
