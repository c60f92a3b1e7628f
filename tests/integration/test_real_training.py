"""Every real package goes from its zip to a trained model: ingest, validate, split, one short epoch, evaluate."""

import os
from pathlib import Path

import pytest
import yaml

from cytoloop.artifacts import read_json
from cytoloop.door import FOLDERS, run_step
from cytoloop.model.predict import Predictor
from cytoloop.params import Params, check_params

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("CYTOLOOP_DATA", ROOT.parent / "shared/data"))
PACKAGES = {
    "krd_wbc": "krd_wbc/krd_wbc.zip",
    "leukemia": "all/leukemia.zip",
    "dsb2018": "dsb2018/stage1_train.zip",
    "segmentation_wbc": "segmentation_wbc/dataset1.zip",
    "blood_smear_samples": "blood_smear/blood_smear.zip",
}


def short(recipe: str, source: Path) -> Params:
    """The recipe with a tiny network, one epoch and no search."""
    tree = yaml.safe_load((ROOT / "recipes" / f"{recipe}.yaml").read_text("utf-8"))
    tree["ingest"]["source"] = str(source)
    tree["model"] |= {"image_width": 64, "image_height": 64, "base_filters": 4, "num_layers": 2}
    tree["train"] |= {"epochs": 1}
    tree["tune"] = {"trials": 0}
    tree["augment"] = {"copies": 0}
    tree["evaluate"] = {"bootstrap_samples": 20, "examples": 1}
    return check_params(tree, recipe)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", PACKAGES)
def test_a_real_package_from_zip_to_report(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = DATA / PACKAGES[recipe]
    if not source.is_file():
        pytest.skip(f"{source} is not here; set CYTOLOOP_DATA")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    params, folders = short(recipe, source), {name: tmp_path / folder for name, folder in FOLDERS.items()}
    numbers = {step: run_step(step, folders, params) for step in ("ingest", "validate", "split", "augment", "tune")}
    assert numbers["ingest"]["problems"] == 0
    assert numbers["validate"]["failed"] == 0
    assert numbers["split"]["train"] > numbers["split"]["test"] > 0
    assert run_step("train", folders, params)["epochs"] == 1
    Predictor.load(folders["model"]).check_sample(folders["model"])
    assert 0 <= run_step("evaluate", folders, params)["foreground_dice"] <= 1
    assert read_json(folders["evaluation"] / "metrics.json")["pictures"] == numbers["split"]["test"]
