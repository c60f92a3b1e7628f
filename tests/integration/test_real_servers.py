"""The whole pipeline, from pictures on S3 to a model that reigns, against real servers:

PostgreSQL keeps MLflow's runs and Optuna's study, MLflow's own server hands artifacts on to S3.
"""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import drawn
import servers
from cytoloop import registry, tracking
from cytoloop.artifacts import BEST_PARAMS, RECEIPT, read_json, sha256_file
from cytoloop.door import FOLDERS, STEPS, Numbers, interface, run_step
from cytoloop.params import Params
from s3_server import S3Server, s3, s3_server
from servers import Postgres, postgres

__all__ = ["postgres", "s3", "s3_server"]

pytestmark = pytest.mark.slow

PICTURES = 24


def params(source: str) -> Params:
    classes = drawn.CLASSES["image_mask"]
    return Params.model_validate(
        {
            "classes": classes,
            "ingest": {"layout": "image_mask", "source": source, "licence": "CC0-1.0", "citation": "drawn for tests"},
            "validate": {"min_pictures": 10},
            "split": {"near_duplicate_bits": 0, "seed": 10},
            "model": {"architecture": "leanunet", "num_classes": 2, "image_width": 32, "image_height": 32,
                      "base_filters": 4, "base_kernels": 3, "num_layers": 2},
            "tune": {"trials": 2, "epochs": 1, "pictures": 8,
                     "space": {"model.base_filters": {"choices": [2, 4]}}},
            "train": {"epochs": 2, "batch_size": 4},
            "evaluate": {"bootstrap_samples": 20, "examples": 1},
            "infer": {"limit": 2},
            "register": {"name": "real"},
        }
    )  # fmt: skip


@pytest.fixture
def stack(
    postgres: Postgres, s3_server: S3Server, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The three servers, to which the environment points; the address of the study's database."""
    for bucket in ("pictures", "mlflow"):
        s3.create_bucket(Bucket=bucket)
    told = s3_server.environment() | {"MLFLOW_S3_ENDPOINT_URL": s3_server.endpoint}
    study = postgres.database("study")
    with servers.mlflow_server(postgres.database("runs"), "s3://mlflow/kept", told, tmp_path / "log") as mlflow:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.address)
        monkeypatch.setenv("CYTOLOOP_STUDY_STORAGE", study)
        monkeypatch.setenv("CYTOLOOP_WORK", str(tmp_path / "work"))
        yield study


def upload(s3: Any) -> None:
    """Drawn cells and their masks, each file an object."""
    for i in range(PICTURES):
        drawing = drawn.cells(32, classes=2, seed=i)
        mask_HW3 = np.repeat(np.where(drawing.ids_HW > 0, 255, 0).astype(np.uint8)[..., None], 3, axis=2)
        for folder, array in (("images", drawing.image_HW3), ("masks", mask_HW3)):
            file = BytesIO()
            Image.fromarray(array).save(file, "PNG")
            s3.put_object(Bucket="pictures", Key=f"cells/{folder}/{i:03d}.png", Body=file.getvalue())


def run(step: str, folder: Path, tree: Params) -> Numbers:
    face = interface(step)
    return run_step(step, {name: folder / FOLDERS[name] for name in (*face.inputs, *face.outputs)}, tree)


def test_all_nine_steps_against_all_three_servers(stack: str, s3: Any, tmp_path: Path) -> None:
    upload(s3)
    tree = params("s3://pictures/cells")
    numbers = {step: run(step, tmp_path, tree) for step in STEPS}

    # from S3: every picture is in the table
    assert numbers["ingest"]["pictures"] == PICTURES

    # in PostgreSQL: the study, with its trials
    import optuna

    (study,) = optuna.get_all_study_summaries(stack)
    assert study.n_trials == 2
    assert study.best_trial is not None
    assert read_json(tmp_path / FOLDERS["best_params"] / BEST_PARAMS)["model"] == {
        key.removeprefix("model."): value for key, value in study.best_trial.params.items()
    }

    # in MLflow: one run with its epochs, its evaluation and its pictures
    model, receipt = tmp_path / FOLDERS["model"], read_json(tmp_path / FOLDERS["registration"] / RECEIPT)
    client = tracking.open_store()
    found = client.get_run(receipt["run_id"])
    assert found.info.status == "FINISHED"
    assert [metric.step for metric in client.get_metric_history(receipt["run_id"], "val_loss")] == [1, 2]
    assert found.data.metrics["test/macro_dice"] == numbers["register"]["macro_dice"]
    assert found.info.artifact_uri.startswith("mlflow-artifacts:")

    # on S3, through MLflow's server: what was logged, and the model that reigns, byte for byte
    kept = [item["Key"] for item in s3.list_objects_v2(Bucket="mlflow")["Contents"]]
    assert any(key.endswith(f"{receipt['run_id']}/artifacts/evaluation/report.html") for key in kept)
    reigning = registry.current("real", "champion")
    assert reigning is not None
    assert reigning.version == receipt["version"] == "1"
    fetched = registry.fetch("models:/real@champion", tmp_path / "fetched")
    for name in ("arrays.npz", "bundle.json"):
        assert sha256_file(fetched / name) == sha256_file(model / name)

    # again: the trials are remembered, and the model keeps its version and its run
    assert run("tune", tmp_path, tree) == numbers["tune"]
    assert run("register", tmp_path, tree)["version"] == 1
    assert len(client.search_runs([found.info.experiment_id])) == 1 + 1 + 2  # the training, the search, its two trials
