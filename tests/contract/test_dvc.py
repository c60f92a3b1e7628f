"""dvc.yaml has a stage for each step, and its deps, params and outs are those of the step."""

from pathlib import Path

import pytest
import yaml

from cytoloop.door import FOLDERS, STEPS, interface
from pipelines.dvc_deps import DVC, closure, stage_deps, with_closures

TEXT = DVC.read_text("utf-8")
STAGES = yaml.safe_load(TEXT)["stages"]


def test_a_stage_for_each_step_in_flow_order() -> None:
    assert list(STAGES) == list(STEPS)


@pytest.mark.parametrize("step", STEPS)
def test_a_stage_is_its_step(step: str) -> None:
    face, stage = interface(step), STAGES[step]
    assert stage["cmd"] == f"python -m cytoloop {step}"
    assert sorted(stage["params"]) == sorted(face.sections)
    assert stage["outs"] == [FOLDERS[name] for name in face.outputs]
    data_deps = [dep for dep in stage["deps"] if not dep.startswith("src/")]
    expected = ["${ingest.source}"] if step == "ingest" else [FOLDERS[name] for name in face.inputs]
    assert data_deps == expected


@pytest.mark.parametrize("step", STEPS)
def test_deps_cover_the_import_closure(step: str) -> None:
    assert stage_deps(TEXT, step) == closure(step), "run `make deps`"


def test_a_missing_dep_is_noticed() -> None:
    without = TEXT.replace("      - src/cytoloop/images/codec.py\n", "", 1)
    assert with_closures(without) != without
    assert with_closures(without) == TEXT


def test_the_closure_is_neither_everything_nor_nothing() -> None:
    assert "src/cytoloop/images/codec.py" in closure("ingest")
    assert "src/cytoloop/model/training.py" in closure("train")
    assert "src/cytoloop/model/training.py" not in closure("validate")
    assert not any("cli.py" in path for step in STEPS for path in closure(step))


def test_metrics_and_plots_lie_inside_outs() -> None:
    tree = yaml.safe_load(TEXT)
    outs = [out for stage in STAGES.values() for out in stage["outs"]]
    assert Path(tree["metrics"][0]).parent.as_posix() in outs
