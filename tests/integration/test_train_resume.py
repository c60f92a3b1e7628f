"""Killed in mid-training and started again, a training ends with the files of an undisturbed one."""

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from cytoloop.artifacts import ARRAYS, BUNDLE, read_json, sha256_file, write_json
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
train: {epochs: 6, batch_size: 4, SCHEDULE, learning_rate: 0.01, epoch_pictures: 2, checkpoints: 2}
"""
SCHEDULES = {
    "one_cycle": "schedule: one_cycle",
    "reduce_on_plateau": "schedule: reduce_on_plateau, reducer_patience: 1",
    "piecewise": "schedule: piecewise, rates: {3: 0.004, 5: 0.001}, optimizer: muon",
}


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


def train(data: Path, run: Path, schedule: str, more: str = "seed: 0") -> Path:
    run.mkdir(exist_ok=True)
    (run / "params.yaml").write_text(PARAMS.replace("SCHEDULE", f"{SCHEDULES[schedule]}, {more}"))
    done = subprocess.run(command(data, run), cwd=run, env=environment(run), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return run / "model"


def kill_in_mid_training(data: Path, run: Path, schedule: str) -> None:
    """Start a training and kill -9 it once its second epoch is saved."""
    run.mkdir()
    (run / "params.yaml").write_text(PARAMS.replace("SCHEDULE", SCHEDULES[schedule]))
    process = subprocess.Popen(
        command(data, run), cwd=run, env=environment(run), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 240
    while not any(run.glob("work/train-*/checkpoints/epoch-0002.npz")):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def files(folder: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_files(one: Path, other: Path) -> None:
    ours, theirs = files(one), files(other)
    assert sorted(ours) == sorted(theirs)
    assert [name for name, content in ours.items() if content != theirs[name]] == []


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The model folder of a training that was left alone, by schedule."""
    return functools.cache(lambda schedule: train(data, tmp_path_factory.mktemp("undisturbed"), schedule))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_killed_training_ends_with_the_same_files(
    data: Path, undisturbed: Callable[[str], Path], tmp_path: Path, schedule: str
) -> None:
    kill_in_mid_training(data, tmp_path / "killed", schedule)
    assert not (tmp_path / "killed" / "model").exists()
    resumed = train(data, tmp_path / "killed", schedule)
    assert_same_files(resumed, undisturbed(schedule))
    assert list((tmp_path / "killed" / "work").iterdir()) == []


@pytest.mark.slow
def test_the_same_training_twice_gives_the_same_bytes(
    data: Path, undisturbed: Callable[[str], Path], tmp_path: Path
) -> None:
    assert_same_files(train(data, tmp_path / "again", "one_cycle"), undisturbed("one_cycle"))


@pytest.mark.slow
def test_a_model_has_its_montages_and_checkpoints_and_another_goes_on_from_them(
    data: Path, undisturbed: Callable[[str], Path], tmp_path: Path
) -> None:
    model = undisturbed("piecewise")
    assert sorted(path.name for path in (model / "epochs").iterdir()) == [f"epoch-{i:04d}.png" for i in range(7)]
    best = read_json(model / "checkpoints/epoch-0006.json")["best_epoch"]
    kept = [f"epoch-{epoch:04d}.{kind}" for epoch in sorted({best, 5, 6}) for kind in ("json", "npz")]
    assert sorted(path.name for path in (model / "checkpoints").iterdir()) == kept
    start = model / "checkpoints/epoch-0005.npz"
    resumed = train(data, tmp_path / "from_checkpoint", "piecewise", f"start_from: {start}")
    assert (resumed / ARRAYS).read_bytes() == (model / ARRAYS).read_bytes()
    assert (resumed / "history.csv").read_text() == (model / "history.csv").read_text()
    drawn = files(resumed / "epochs")
    assert sorted(drawn) == ["epoch-0005.png", "epoch-0006.png"]
    assert drawn == {name: content for name, content in files(model / "epochs").items() if name in drawn}
    assert read_json(resumed / BUNDLE)["provenance"]["digests"]["start_from"] == sha256_file(start)
