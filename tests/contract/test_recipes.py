"""Every recipe is a complete params file, and making one the params.yaml keeps what a person wrote."""

import shutil
from pathlib import Path

import pytest
import yaml

from cytoloop.cli import run
from cytoloop.params import load_params

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    shutil.copy(ROOT / "recipes" / "default.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_is_a_complete_params_file(path: Path) -> None:
    assert load_params(path).ingest.layout


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_has_every_section_that_a_stage_depends_on(path: Path) -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text("utf-8"))["stages"].values()
    needed = {section for stage in stages for section in stage["params"]}
    assert needed <= yaml.safe_load(path.read_text("utf-8")).keys()


def test_the_committed_params_are_a_recipe() -> None:
    assert (ROOT / "params.yaml").read_text() == (ROOT / "recipes" / "default.yaml").read_text()


def test_using_a_recipe_puts_the_source_in(project: Path) -> None:
    source = project / 'my pictures "a"'
    source.mkdir()
    assert run(["recipe", "use", "leukemia", "--source", str(source)]) == 0
    params = load_params(project / "params.yaml")
    assert (params.ingest.layout, params.ingest.source) == ("leukemia", str(source))
    assert run(["recipe", "use", "default"]) == 0
    assert (project / "params.yaml").read_text() == (ROOT / "recipes" / "default.yaml").read_text()


def test_a_hand_edited_params_file_is_kept(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("epochs: 22", "epochs: 23"))
    assert run(["recipe", "use", "leukemia", "--source", str(project)]) == 1
    assert "edited by hand" in capsys.readouterr().err
    assert "epochs: 23" in path.read_text()
    assert run(["recipe", "use", "leukemia", "--source", str(project), "--force"]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "no such recipe; allowed:"),
        (["leukemia"], "needs its pictures"),
        (["leukemia", "--source", "nowhere.zip"], "nowhere.zip: no such folder or zip"),
    ],
)
def test_what_cannot_be_used_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    before = (project / "params.yaml").read_text()
    assert run(["recipe", "use", *arguments]) == 1
    assert said in capsys.readouterr().err
    assert (project / "params.yaml").read_text() == before


def test_the_recipes_are_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert run(["recipe", "list"]) == 0
    listed = capsys.readouterr().out
    assert all(path.stem in listed for path in RECIPES)
    assert run(["recipe", "show", "leukemia"]) == 0
    assert "mask_threshold: 150" in capsys.readouterr().out
