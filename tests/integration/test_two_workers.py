"""Two devices, or two worker processes, train what one device trains.

Losses agree within 1e-4 of themselves and weights within 1e-3, a tenth of a step of Adam's: sums are taken in another
order, and Adam makes whole steps of gradients that are nothing but rounding.
"""

import csv
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cytoloop.artifacts import ARRAYS, BUNDLE, Row, read_json, write_json
from cytoloop.images.decode import encode_rgb_png
from cytoloop.model.bundle import read_arrays
from drawn import painted
from mlflow_store import empty_database
from servers import free_ports
from tables import mask_of, row, write_table

TOLERANCE, WEIGHTS = 1e-4, 1e-3
PARAMS = """
classes:
  - {name: background, color: [0, 0, 0]}
  - {name: nucleus, color: [255, 0, 0]}
  - {name: cytoplasm, color: [0, 0, 255]}
ingest: {layout: image_mask, source: nowhere}
model: {architecture: leanunet, image_width: 32, image_height: 32, num_classes: 3, num_layers: 2, base_filters: 4,
        normalization: group, dropout_rate: 0}
tune: {trials: 0}
train: {epochs: 8, batch_size: BATCH, learning_rate: RATE, schedule: one_cycle, loss: cce_dice, class_weight_cap: 3,
        clip_norm: 0.5, ema_momentum: 0.9, epoch_pictures: 0, checkpoints: 1}
"""
TRAIN, VAL = 12, 4  # pictures
PIPES: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}

MIRRORED = """
import sys
from pathlib import Path
import numpy as np
import tensorflow as tf
from cytoloop.model import training as trainer
from cytoloop.model.architectures import build
from cytoloop.model.bundle import arrays_of
from cytoloop.model.data import PictureStream
from cytoloop.model.distribution import Replicas, scaled
from cytoloop.params import ModelParams, TrainParams

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
table, folder = map(Path, sys.argv[1:])
model = ModelParams(architecture="leanunet", image_width=32, image_height=32, num_classes=3, num_layers=2,
                    base_filters=4, normalization="batch", dropout_rate=0)
params = TrainParams(epochs=4, batch_size=2, learning_rate=0.01, schedule="reduce_on_plateau", reducer_patience=1,
                     loss="cce_dice", class_weight_cap=3, clip_norm=1e-5, ema_momentum=0.9)
together = scaled(params, 2)
stream = PictureStream([(table, None)], model, together.batch_size)

two = Replicas(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
for name, replicas in {"one": None, "two": two}.items():
    training = trainer.start(build, model, together, stream, replicas)
    trainer.run(training, stream, stream, lambda training: None)
    lines = [list(line.values()) for line in training.progress.history]
    np.savez(folder / f"{name}.npz", lines, *arrays_of(training.network).values())
"""


def grained(i: int) -> Row:
    """A picture with grain: where it is flat, rounding decides between classes."""
    mask_HW = mask_of(32, 32, 8 + i)
    return row(f"p{i:02d}", mask_HW=mask_HW, image=encode_rgb_png(painted(mask_HW, seed=i).image_HW3))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_table(folder / "raw", [grained(i) for i in range(TRAIN + VAL)])
    write_table(folder / "augmented", [])
    (folder / "splits").mkdir()
    lines = [f"p{i:02d},p{i:02d},{'val' if i % 4 == 0 else 'train'}," for i in range(TRAIN + VAL)]
    (folder / "splits" / "splits.csv").write_text("\n".join(["id,group,split,reason", *lines]) + "\n")
    (folder / "mlflow.db").write_bytes(empty_database())
    (folder / "best_params").mkdir()
    write_json(folder / "best_params" / "best_params.json", {"model": {}})
    return folder


def places() -> list[str]:
    """TF_CONFIG of the chief and of the other worker."""
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    return [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in (0, 1)]


def environment(place: str = "", **more: str) -> dict[str, str]:
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **({"TF_CONFIG": place} if place else {}), **more}


def begin(data: Path, folder: Path, batch: int, rate: float, place: str = "") -> "subprocess.Popen[str]":
    """A `cytoloop train` at work in the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text(PARAMS.replace("BATCH", str(batch)).replace("RATE", repr(rate)))
    inputs = [f"--{name.replace('_', '-')}={data / name}" for name in ("raw", "splits", "augmented", "best_params")]
    return subprocess.Popen(
        [sys.executable, "-m", "cytoloop", "train", *inputs, "--model=model"],
        cwd=folder,
        env=environment(place, MLFLOW_TRACKING_URI=f"sqlite:///{data / 'mlflow.db'}"),
        **PIPES,
    )


def begin_two(data: Path, chief: Path, worker: Path) -> list["subprocess.Popen[str]"]:
    """Together they have the batches and rates of one device with 4 and 0.01."""
    return [begin(data, *told) for told in zip((chief, worker), (2, 2), (0.01 / 2**0.5,) * 2, places(), strict=True)]


def end(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code and stderr."""
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def wait_for(folder: Path, file: str, process: "subprocess.Popen[str]") -> None:
    """Until the file is in the folder, while the process is at work."""
    deadline = time.monotonic() + 240
    while not any(folder.glob(file)):
        assert process.poll() is None, end(process)
        assert time.monotonic() < deadline
        time.sleep(0.002)


def history(model: Path) -> list[dict[str, str]]:
    with (model / "history.csv").open() as file:
        return list(csv.DictReader(file))


def assert_same_training(one: Path, other: Path) -> None:
    assert list(history(one)[0]) == list(history(other)[0])
    for ours, theirs in zip(history(one), history(other), strict=True):
        for name, value in ours.items():
            assert float(theirs[name]) == pytest.approx(float(value), rel=TOLERANCE), (name, ours["epoch"])
    state, others = (read_arrays(model / "checkpoints/epoch-0008.npz") for model in (one, other))
    assert [(name, array.shape) for name, array in state.items() if name != "progress"] == [
        (name, array.shape) for name, array in others.items() if name != "progress"
    ]
    arrays, others = read_arrays(one / ARRAYS), read_arrays(other / ARRAYS)
    assert list(arrays) == list(others)
    for name, array in arrays.items():
        np.testing.assert_allclose(others[name], array, rtol=0, atol=WEIGHTS, err_msg=name)


def runs(data: Path) -> list[str]:
    """What became of each MLflow run, in order."""
    with sqlite3.connect(data / "mlflow.db") as store:
        return [status for (status,) in store.execute("select status from runs order by start_time")]


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two workers that were left alone; they share it."""
    folder = tmp_path_factory.mktemp("two")
    before = runs(data)
    ended = [end(process) for process in begin_two(data, folder, folder)]
    assert [code for code, _ in ended] == [0, 0], ended
    assert runs(data) == [*before, "FINISHED"]
    assert "train: 2 devices of 2 worker(s), steps of 4 pictures, learning rate 0.01\n" in ended[0][1]
    return folder


@pytest.mark.slow
def test_two_workers_train_what_one_does(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    code, errors = end(begin(data, tmp_path / "one", 4, 0.01))
    assert code == 0, errors
    assert_same_training(tmp_path / "one/model", undisturbed / "model")
    one, two = (read_json(model / BUNDLE)["provenance"] for model in (tmp_path / "one/model", undisturbed / "model"))
    assert two["devices"] == 2
    assert two["params"]["train"]["batch_size"] == one["params"]["train"]["batch_size"] == 4


@pytest.mark.slow
def test_the_chief_alone_writes(undisturbed: Path) -> None:
    assert sorted(path.name for path in undisturbed.iterdir()) == ["model", "params.yaml", "work"]
    assert list((undisturbed / "work").iterdir()) == []


@pytest.mark.slow
def test_a_dead_worker_ends_the_chief_and_the_training_goes_on_later(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / "chief", tmp_path / "worker"]
    chief, worker = begin_two(data, *folders)
    wait_for(folders[0], "work/train-*/checkpoints/epoch-*.npz", chief)
    worker.terminate()
    assert end(worker)[0] == -signal.SIGTERM  # TensorFlow would not have heard it
    code, errors = end(chief)
    assert code == 1
    assert "\ncytoloop: worker 0 of 2: another worker of the training is gone, or cannot be reached (" in errors
    assert not (folders[0] / "model").exists()
    assert runs(data)[-1] == "FAILED"

    assert [end(process)[0] for process in begin_two(data, *folders)] == [0, 0]
    for name in (ARRAYS, "history.csv", "checkpoints/epoch-0008.npz"):
        assert (folders[0] / "model" / name).read_bytes() == (undisturbed / "model" / name).read_bytes()
    assert [path.name for path in folders[1].iterdir()] == ["params.yaml"]


@pytest.mark.slow
def test_a_worker_at_other_work_is_refused() -> None:
    code = (
        "import sys; from cytoloop.model import distribution as d\nwith d.together() as us: print(us.lead(sys.argv[1]))"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code, work], env=environment(place), **PIPES)
        for work, place in zip(("this", "that"), places(), strict=True)
    ]
    assert workers[0].communicate(timeout=300)[0] == "True\n"
    code, errors = end(workers[1])
    assert code == 1
    assert "ModelError: worker 1 has other data, params or versions than the chief" in errors


@pytest.mark.slow
def test_two_devices_of_one_machine_train_what_one_does(data: Path, tmp_path: Path) -> None:
    """With batch normalization, a rate that falls on a plateau, and gradients so short that Adam feels their scale."""
    done = subprocess.run(
        [sys.executable, "-c", MIRRORED, data / "raw", tmp_path],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    one, two = (np.load(tmp_path / f"{name}.npz") for name in ("one", "two"))
    np.testing.assert_allclose(two["arr_0"], one["arr_0"], rtol=TOLERANCE)
    for name in one.files[1:]:
        np.testing.assert_allclose(two[name], one[name], rtol=0, atol=WEIGHTS, err_msg=name)


@pytest.mark.slow
def test_a_worker_that_never_connects_is_not_waited_for() -> None:
    """What listens at the other address is no worker; TensorFlow would wait on and on, deaf to signals."""
    place = places()[0]
    other = json.loads(place)["cluster"]["worker"][1]
    code = "from cytoloop.model import distribution as d; d.CONNECTING = 3; d.together().__enter__()"
    with socket.create_server(("", int(other.rpartition(":")[2]))):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment(place),
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert done.returncode == 1
    assert "train: all 2 workers are there; they have 3 s to connect\nTimeout (0:00:03)!" in done.stderr
