"""Killed in mid-training and started again, the classifier ends with the bytes of an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from cytoloop.params import ClassifierParams
from labelled import params, write_labelled
from mlflow_store import empty_database

SETTINGS = ClassifierParams(image_size=32, epochs=5, batch_size=4, rates={4: 3e-4}, checkpoints=1)
TRAIN = """
import json, sys
from pathlib import Path
from cytoloop.classification import train
from cytoloop.params import check_params
raw, splits, params = sys.argv[1:]
train(Path(raw), Path(splits), Path("classifier"), check_params(json.loads(params), "test"))
"""


def command(data: Sequence[Path]) -> list[str]:
    tree = params(SETTINGS).model_dump(mode="json", by_alias=True)
    return [sys.executable, "-c", TRAIN, *map(str, data), json.dumps(tree)]


def environment(run: Path) -> dict[str, str]:
    run.mkdir(exist_ok=True)
    database = run / "mlflow.db"
    if not database.exists():
        database.write_bytes(empty_database())
    return {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{database}", "TF_CPP_MIN_LOG_LEVEL": "3"}


def train(data: Sequence[Path], run: Path) -> Path:
    done = subprocess.run(command(data), cwd=run, env=environment(run), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return run / "classifier"


def kill_in_mid_training(data: Sequence[Path], run: Path) -> None:
    """Start a training and kill -9 it once its second epoch is saved."""
    process = subprocess.Popen(
        command(data), cwd=run, env=environment(run), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 240
    while not list(run.glob("work/classify-*/epoch-0002.json")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_killed_training_ends_with_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    data = write_labelled(tmp_path, {"train": 12, "val": 4, "test": 4})
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
    undisturbed = train(data, tmp_path / "undisturbed")
    kill_in_mid_training(data, tmp_path / "killed")
    assert not (tmp_path / "killed" / "classifier").exists()
    resumed = train(data, tmp_path / "killed")
    files = sorted(path.relative_to(resumed) for path in resumed.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(undisturbed) for path in undisturbed.rglob("*") if path.is_file())
    assert [f for f in files if (resumed / f).read_bytes() != (undisturbed / f).read_bytes()] == []
    assert list((tmp_path / "killed" / "work").iterdir()) == []
