"""How a training is divided among devices: places, shares, batch and learning rate."""

import json
import socket
import threading
from itertools import product

import numpy as np
import pytest

from cytoloop import cluster
from cytoloop.errors import CytoloopError, ModelError
from cytoloop.model.data import PictureStream, Share
from cytoloop.model.distribution import Replicas, scaled, together
from cytoloop.params import ModelParams, TrainParams
from servers import free_ports
from tables import mask_of, row, write_table

MODEL = ModelParams(
    architecture="leanunet", num_classes=3, image_width=32, image_height=32, num_layers=2, base_filters=2
)


def config(task: object, **jobs: object) -> str:
    return json.dumps({"cluster": jobs, "task": task})


# ------------------------------------------------------------------------------ batch and learning rate


def test_a_batch_is_a_devices_and_the_rates_grow_by_the_square_root() -> None:
    params = TrainParams(batch_size=3, learning_rate=0.1, schedule="piecewise", rates={2: 0.01})
    together = scaled(params, 4)
    assert (together.batch_size, together.learning_rate, together.rates) == (12, 0.2, {2: 0.02})
    assert scaled(params, 2).learning_rate == pytest.approx(0.1414, abs=1e-4)
    unchanged = {"batch_size", "learning_rate", "rates"}
    assert together.model_dump(exclude=unchanged) == params.model_dump(exclude=unchanged)


def test_one_device_has_the_params_as_they_are() -> None:
    assert scaled(TrainParams(learning_rate=0.0123), 1) == TrainParams(learning_rate=0.0123)


def test_the_params_say_the_rule() -> None:
    fields = TrainParams.model_fields
    assert "D devices take D times as many" in str(fields["batch_size"].description)
    assert "D devices take sqrt(D) times as much" in str(fields["learning_rate"].description)


# ---------------------------------------------------------------------------------------------- shares


@pytest.fixture(scope="module")
def stream(tmp_path_factory: pytest.TempPathFactory) -> PictureStream:
    rows = [row(f"p{i:02d}", mask_HW=mask_of(32, 32, 4 + i)) for i in range(19)]
    return PictureStream([(write_table(tmp_path_factory.mktemp("table"), rows), None)], MODEL, 8)


@pytest.mark.parametrize(("workers", "pieces"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 2)])
def test_the_shares_of_a_batch_are_the_batch(stream: PictureStream, workers: int, pieces: int) -> None:
    whole = [tuple(np.asarray(part) for part in batch) for batch in stream.epoch(0, 3)]
    shares = [list(stream.epoch(0, 3, Share(worker, workers, pieces))) for worker in range(workers)]
    assert [len(share) for share in shares] == [stream.steps * pieces] * workers
    for step, (pictures, truth) in enumerate(whole):
        parts = [shares[worker][step * pieces + piece] for worker, piece in product(range(workers), range(pieces))]
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), pictures)
        np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), truth)


def test_a_batch_that_cannot_be_divided_is_refused(stream: PictureStream) -> None:
    class Three:
        num_replicas_in_sync = 3

    with pytest.raises(ModelError, match=r"8 pictures.*3 devices; lower train\.batch_size"):
        Replicas(Three()).scope(stream)


# ---------------------------------------------------------------------------------------------- places


def test_without_tf_config_and_with_one_worker_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("", "{}", config({"type": "worker", "index": 0}, worker=["a:1"])):
        monkeypatch.setenv("TF_CONFIG", text)
        assert cluster.place() == cluster.ALONE


def test_one_device_trains_in_no_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with together() as replicas:
        assert replicas is None


@pytest.mark.parametrize(
    ("task", "jobs", "index"),
    [
        ({"type": "worker", "index": 0}, {"worker": ["a:1", "b:2"]}, 0),
        ({"type": "worker", "index": 1}, {"worker": ["a:1", "b:2"]}, 1),
        ({"type": "worker", "index": "0"}, {"chief": ["a:1"], "worker": ["b:2"]}, 1),
        ({"type": "chief", "index": 0}, {"worker": ["b:2"], "chief": ["a:1"]}, 0),
    ],
)
def test_a_place_is_what_tf_config_says(
    monkeypatch: pytest.MonkeyPatch, task: object, jobs: dict[str, object], index: int
) -> None:
    monkeypatch.setenv("TF_CONFIG", config(task, **jobs))
    assert cluster.place() == cluster.Place(("a:1", "b:2"), index)
    assert cluster.place().is_chief == (index == 0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "Expecting property name"),
        ("[]", "no attribute"),
        (config({"type": "worker", "index": 2}, worker=["a:1", "b:2"]), "task worker 2 is not in its cluster"),
        (config({"type": "worker", "index": 0}, worker=["a:1", "b:2"], ps=["c:3"]), "cluster.ps: no such job"),
        (config({"type": "worker", "index": 0}, worker=["a:1", "b"]), "'b' is not host:port"),
        (config({"type": "worker"}, worker=["a:1", "b:2"]), "'index'"),
    ],
)
def test_a_tf_config_that_cannot_be_used_is_refused(monkeypatch: pytest.MonkeyPatch, text: str, told: str) -> None:
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(CytoloopError, match=r"must be like \{") as refused:
        cluster.place()
    assert told in str(refused.value)


# --------------------------------------------------------------------------------------------- meeting


def test_workers_wait_for_the_last_one() -> None:
    addresses = tuple(f"localhost:{port}" for port in free_ports(3))
    met: list[int] = []

    def come(index: int) -> None:
        cluster.meet(cluster.Place(addresses, index), patience=30)
        met.append(index)

    early = [threading.Thread(target=come, args=(index,)) for index in (0, 1)]
    for thread in early:
        thread.start()
    early[0].join(0.5)
    assert met == []
    last = socket.create_server(("", int(addresses[2].rpartition(":")[2])))
    for thread in early:
        thread.join(30)
    last.close()
    assert sorted(met) == [0, 1]


def test_a_worker_that_does_not_come_is_named() -> None:
    own, missing = free_ports(2)
    with pytest.raises(CytoloopError, match=rf"worker 0 waited 0.3 s in vain for localhost:{missing}; start all 2"):
        cluster.meet(cluster.Place((f"localhost:{own}", f"localhost:{missing}"), 0), patience=0.3)


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("", 0)) as taken:
        own = f"localhost:{taken.getsockname()[1]}"
        with pytest.raises(CytoloopError, match=f"{own}: this worker cannot listen there"):
            cluster.meet(cluster.Place((own, "localhost:1"), 0), patience=0.1)
