"""Killed in mid-training and started again, a training ends with the weights of an undisturbed one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from cytoloop.artifacts import ARRAYS, write_json
from tables import row, write_table

PARAMS = """
classes:
  - {name: background, color: [0, 0, 0]}
  - {name: nucleus, color: [255, 0, 0]}
  - {name: cytoplasm, color: [0, 0, 255]}
ingest: {layout: image_mask, source: nowhere}
model: {architecture: leanunet, image_width: 32, image_height: 32, num_classes: 3, num_layers: 2, base_filters: 4,
        normalization: group, dropout_rate: 0.2}
tune: {trials: 0}
train: {epochs: 6, batch_size: 4, schedule: SCHEDULE, reducer_patience: 1, learning_rate: 0.01}
"""


def square_at(i: int) -> np.ndarray:
    """A nucleus in a cell, elsewhere in each picture."""
    mask_HW = np.zeros((32, 32), np.uint8)
    mask_HW[i % 16 : i % 16 + 12, i % 9 : i % 9 + 12] = 2
    mask_HW[i % 16 + 3 : i % 16 + 8, i % 9 + 3 : i % 9 + 8] = 1
    return mask_HW


def write_splits(folder: Path, assignment: Mapping[str, str]) -> None:
    folder.mkdir()
    lines = ["id,group,split,reason", *(f"{i},{i},{split}," for i, split in assignment.items())]
    (folder / "splits.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rows = [row(f"p{i:02d}", mask_HW=square_at(i)) for i in range(24)]
    write_table(folder / "raw", rows)
    write_table(folder / "augmented", [])
    write_splits(folder / "splits", {r.id: "val" if i % 4 == 0 else "train" for i, r in enumerate(rows)})
    (folder / "best_params").mkdir()
    write_json(folder / "best_params" / "best_params.json", {"model": {}})
    return folder


def command(data: Path, run: Path) -> list[str]:
    folders = [f"--{name.replace('_', '-')}={data / name}" for name in ("raw", "splits", "augmented", "best_params")]
    return [sys.executable, "-m", "cytoloop", "train", f"--params={run / 'params.yaml'}", *folders, "--model=model"]


def environment(run: Path) -> Mapping[str, str]:
    return {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{run / 'mlflow.db'}", "TF_CPP_MIN_LOG_LEVEL": "3"}


def train(data: Path, run: Path, schedule: str) -> Path:
    run.mkdir(exist_ok=True)
    (run / "params.yaml").write_text(PARAMS.replace("SCHEDULE", schedule))
    done = subprocess.run(command(data, run), cwd=run, env=environment(run), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return run / "model"


def kill_in_mid_training(data: Path, run: Path, schedule: str) -> None:
    """Start a training and kill -9 it once its second epoch is saved."""
    run.mkdir()
    (run / "params.yaml").write_text(PARAMS.replace("SCHEDULE", schedule))
    process = subprocess.Popen(
        command(data, run), cwd=run, env=environment(run), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 240
    saves: set[float] = set()
    while len(saves) < 2:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        saves |= {path.stat().st_mtime for path in run.glob("work/train-*/state.npz")}
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["one_cycle", "reduce_on_plateau"])
def test_a_killed_training_ends_with_the_same_weights(data: Path, tmp_path: Path, schedule: str) -> None:
    undisturbed = train(data, tmp_path / "undisturbed", schedule)
    kill_in_mid_training(data, tmp_path / "killed", schedule)
    assert not (tmp_path / "killed" / "model").exists()
    resumed = train(data, tmp_path / "killed", schedule)
    assert (resumed / ARRAYS).read_bytes() == (undisturbed / ARRAYS).read_bytes()
    assert (resumed / "history.csv").read_text() == (undisturbed / "history.csv").read_text()
    assert list((tmp_path / "killed" / "work").iterdir()) == []


@pytest.mark.slow
def test_the_same_training_twice_gives_the_same_bytes(data: Path, tmp_path: Path) -> None:
    folders = [train(data, tmp_path / name, "one_cycle") for name in ("first", "second")]
    files = sorted(path.name for path in folders[0].iterdir())
    assert files == sorted(path.name for path in folders[1].iterdir())
    assert [n for n in files if (folders[0] / n).read_bytes() != (folders[1] / n).read_bytes()] == []
