"""The labelled real crops go from their zip to a trained classifier, its page, and labels for pictures."""

import os
from pathlib import Path

import pytest
import yaml

from cytoloop import classification
from cytoloop.artifacts import read_json, read_rows, read_splits
from cytoloop.door import FOLDERS, run_step
from cytoloop.params import Params, check_params
from mlflow_store import empty_database

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("CYTOLOOP_DATA", ROOT.parent / "shared/data"))
SOURCE = DATA / "segmentation_wbc/dataset1.zip"


def short() -> Params:
    """The recipe on small pictures, for two epochs."""
    tree = yaml.safe_load((ROOT / "recipes" / "wbc_classes.yaml").read_text("utf-8"))
    tree["ingest"]["source"] = str(SOURCE)
    tree["classifier"] |= {"image_size": 32, "epochs": 2, "checkpoints": 1}
    tree["evaluate"] |= {"bootstrap_samples": 50, "examples": 1}
    return check_params(tree, "wbc_classes")


@pytest.mark.slow
@pytest.mark.skipif(not SOURCE.is_file(), reason=f"{SOURCE} is not here; set CYTOLOOP_DATA")
def test_the_labelled_crops_from_zip_to_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_database())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    params, folders = short(), {name: tmp_path / folder for name, folder in FOLDERS.items()}
    for step in ("ingest", "validate", "split"):
        run_step(step, folders, params)
    numbers = classification.train(folders["raw"], folders["splits"], tmp_path / "classifier", params)
    told = read_json(tmp_path / "classifier" / "metrics.json")
    assert list(told["per_class"]) == ["basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil"]
    test = {id_ for id_, split in read_splits(folders["splits"]).items() if split == "test"}
    assert told["pictures"] == told["pointing"]["pictures"] == len(test) == sum(map(sum, told["confusion"]))
    assert numbers["epochs"] == 2
    assert 0.1 < told["pointing"]["area"] < told["pointing"]["middle"] == 1
    row = next(read_rows(folders["raw"], test, ["image"]))
    (tmp_path / "cell.png").write_bytes(row.image or b"")
    classification.predict(tmp_path / "classifier", [tmp_path / "cell.png"], tmp_path / "labels")
    line = (tmp_path / "labels" / "classification.csv").read_text().splitlines()[1].split(",")
    expected = [one for one in (tmp_path / "classifier" / "per_picture.csv").read_text().splitlines() if row.id in one]
    assert line[1:3] == expected[0].split(",")[3:5]
