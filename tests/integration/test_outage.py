"""MLflow's own server goes away and comes back: nothing is lost, nothing is logged twice, no work stops for it."""

import http.client
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import servers
from cytoloop import ledger, registry, tracking
from cytoloop.artifacts import METRICS, read_card, read_json, write_json
from cytoloop.errors import CytoloopError, ServerAway
from cytoloop.model.predict import Predictor
from cytoloop.params import RegisterParams
from cytoloop.rescoring import rescore
from cytoloop.steps.register import register
from gated import TEST_SET, Bench
from mlflow_store import empty_database, write_bundle_stub
from servers import MlflowServer
from tables import row, write_receipt, write_table

pytestmark = pytest.mark.slow

EPOCHS = {1: {"loss": 0.9, "val_dice": 0.1}, 2: {"loss": 0.5, "val_dice": 0.4}, 3: {"loss": 0.3, "val_dice": 0.625}}
NOTE = "Val macro Dice **0.5** at epoch 2.\n\n- the same again: `git checkout c0ffee && dvc repro`\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("mlflow")
    (folder / "mlflow.db").write_bytes(empty_database())
    with servers.mlflow_server(f"sqlite:///{folder}/mlflow.db", f"{folder}/artifacts", {}, folder / "log") as running:
        yield running


@pytest.fixture
def away(server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    """The server, to which the environment points with little patience; an experiment for each test."""
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    for name, value in environment(server.address, tmp_path.name).items():
        monkeypatch.setenv(name, value)
    yield server
    server.thaw() if server.runs else server.start()


def environment(address: str, experiment: str, patience: int = 4) -> dict[str, str]:
    return {
        "MLFLOW_TRACKING_URI": address,
        "MLFLOW_EXPERIMENT_NAME": experiment,
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "1",
        "CYTOLOOP_TRACKING_PATIENCE": str(patience),
    }


def artifact(folder: Path) -> Path:
    """A model's folder as a training leaves it: a bundle, pictures, a checkpoint, and the record of its run."""
    digest = write_bundle_stub(folder, 1, dice=0.5)
    for name in ("epochs", "checkpoints"):
        (folder / name).mkdir()
    for epoch in EPOCHS:
        Image.new("RGB", (8, 8), (epoch, 0, 0)).save(folder / "epochs" / f"epoch-{epoch:04d}.png")
    (folder / "checkpoints" / "epoch-0003.npz").write_bytes(b"heavy")
    tracking.Record(
        run_name="train leanunet",
        work=f"train-{folder.parent.name}",
        params={"train.epochs": 3},
        dataset=("smear", "d" * 64, "training"),
        metrics=list(EPOCHS.items()),
        tags={"model_digest": digest, "git_commit": "c0ffee"},
        artifact="model",
        leave_out=("checkpoints",),
        pictures="epochs",
        note=NOTE,
    ).write(folder)
    return folder


def live(folder: Path) -> tracking.LiveRun:
    return tracking.LiveRun(tracking.experiment_name(), "train leanunet", {"work": f"train-{folder.parent.name}"})


def assert_complete(run_id: str, folder: Path, note: str = NOTE) -> None:
    """All that the record says is there, each epoch and each picture once."""
    client = tracking.open_store()
    found = client.get_run(run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"train.epochs": "3"}
    assert found.data.tags["model_digest"] == read_json(folder / "bundle.json")["model_digest"]
    assert note in found.data.tags["mlflow.note.content"]
    assert [one.dataset.name for one in found.inputs.dataset_inputs] == ["smear"]
    for name in ("loss", "val_dice"):
        history = sorted((metric.step, metric.value) for metric in client.get_metric_history(run_id, name))
        assert history == [(epoch, line[name]) for epoch, line in EPOCHS.items()]
    pictures = [Path(file.path).name for file in client.list_artifacts(run_id, "images")]
    steps = sorted(name.split("+")[2] for name in pictures if name.endswith(".png"))
    assert steps == [str(epoch) for epoch in EPOCHS]
    files = {file.path for file in client.list_artifacts(run_id, "model")}
    assert {f"model/{name}" for name in ("arrays.npz", "bundle.json", "epochs", "run.json")} <= files
    assert "model/checkpoints" not in files


def runs() -> list[str]:
    client = tracking.open_store()
    return [run.info.run_id for run in client.search_runs([tracking.open_experiment(tracking.experiment_name())])]


# ------------------------------------------------------------------------------- away for a short while


@pytest.mark.parametrize("way", ["frozen", "killed"])
def test_a_short_absence_is_waited_for(
    away: MlflowServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], way: str
) -> None:
    monkeypatch.setenv("CYTOLOOP_TRACKING_PATIENCE", "60")
    with tracking.start_run(tracking.experiment_name(), "a run", {}) as run:
        away.freeze() if way == "frozen" else away.kill()
        back = threading.Timer(2, away.thaw if way == "frozen" else away.start)
        back.start()
        for epoch, line in EPOCHS.items():
            run.log_metrics(line, epoch)
        back.join()
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1
    assert away.address in said[0]
    assert "does not answer" in said[0]
    assert "trying again for" in said[0]
    client = tracking.open_store()
    assert client.get_run(run.id).info.status == "FINISHED"
    history = sorted((metric.step, metric.value) for metric in client.get_metric_history(run.id, "loss"))
    assert history == [(epoch, line["loss"]) for epoch, line in EPOCHS.items()]


def test_an_orchestrators_run_becomes_the_parent_on_a_server(
    away: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking.start_run("pipelines", "the pipeline's", {}) as outer:
        pass
    monkeypatch.setenv("MLFLOW_RUN_ID", outer.id)
    with tracking.start_run("ignored", "ours", {}) as run:
        run.log_params({"depth": 4})
    client = tracking.open_store()
    ours, theirs = client.get_run(run.id), client.get_run(outer.id)
    assert run.id != outer.id
    assert ours.data.tags["mlflow.parentRunId"] == outer.id
    assert ours.info.experiment_id == theirs.info.experiment_id
    assert theirs.data.params == {}
    assert os.environ["MLFLOW_RUN_ID"] == outer.id


def test_what_a_server_refuses_is_not_asked_again(away: MlflowServer, capfd: pytest.CaptureFixture[str]) -> None:
    number = tracking.open_experiment(tracking.experiment_name())
    tracking.open_store().delete_experiment(number)
    with pytest.raises(CytoloopError, match="restore -x") as refused, live(Path()):
        pass
    assert not isinstance(refused.value, ServerAway)
    assert capfd.readouterr().err == ""


# ----------------------------------------------------------------------------------------- away for good


def test_work_that_began_without_a_server_is_sent_whole(away: MlflowServer, tmp_path: Path) -> None:
    folder = artifact(tmp_path / "model")
    away.freeze()
    run = live(folder)
    run.log_params({"train.epochs": 3})
    run.complete(folder)
    run.end("FINISHED")
    with pytest.raises(ServerAway, match="does not answer"):
        tracking.send(folder)
    away.thaw()
    assert_complete(tracking.send(folder) or "", folder)
    assert len(runs()) == 1


def test_what_was_logged_before_is_completed_and_not_repeated(
    away: MlflowServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = artifact(tmp_path / "model")
    run = live(folder)
    run.log_params({"train.epochs": 3})
    for epoch, line in EPOCHS.items():
        if epoch == 2:
            away.freeze()
        run.log_metrics(line, epoch)
        run.log_picture(folder / "epochs" / f"epoch-{epoch:04d}.png", "epochs", epoch)
    said = capfd.readouterr().err.splitlines()
    assert [line.split("; ")[1].split()[0] for line in said] == ["trying", "the"]  # once, whatever is logged after
    assert said[1].endswith("the work goes on without it, and tries once more at its end")
    away.thaw()
    run.complete(folder)
    run.end("FINISHED")
    assert_complete(run.id, folder)
    assert tracking.send(folder) == run.id
    assert_complete(run.id, folder)
    assert runs() == [run.id]


@pytest.mark.parametrize("interrupted", ["log_dataset", "log_picture", "log_artifacts", "set_tags"])
def test_a_sending_that_was_interrupted_goes_on(
    away: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: str
) -> None:
    folder = artifact(tmp_path / "model")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tracking.Run, interrupted, interrupt)
        with pytest.raises(KeyboardInterrupt):
            tracking.send(folder)
    assert_complete(tracking.send(folder) or "", folder)
    assert len(runs()) == 1


# --------------------------------------------------------------------------------- answers that get lost


class LossyProxy(ThreadingHTTPServer):
    """Hands each request on, and swallows the first answer of each kind: the server has heard, the client not."""

    def __init__(self, port: int) -> None:
        self.behind = port
        self.lost: set[tuple[str, str]] = set()
        super().__init__(("127.0.0.1", 0), _Handing)


class _Handing(BaseHTTPRequestHandler):
    server: LossyProxy

    def hand_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        behind = http.client.HTTPConnection("127.0.0.1", self.server.behind)
        headers = {name: value for name, value in self.headers.items() if name != "Host"}
        behind.request(self.command, self.path, body, headers)
        answer = behind.getresponse()
        content = answer.read()
        kind = (self.command, self.path.partition("?")[0])
        self.close_connection = True
        if kind not in self.server.lost:
            self.server.lost.add(kind)
            return
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = hand_on

    def log_message(self, *_: object) -> None:
        """Nothing is said."""


@pytest.fixture
def lossy(away: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[LossyProxy]:
    proxy = LossyProxy(away.port)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{proxy.server_port}")
    monkeypatch.setenv("CYTOLOOP_TRACKING_PATIENCE", "600")
    monkeypatch.setattr("time.sleep", lambda _: None)
    yield proxy
    proxy.shutdown()


def test_nothing_is_made_twice_where_every_answer_is_lost_once(
    away: MlflowServer, lossy: LossyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = artifact(tmp_path / "model")
    for name in ("evaluation", "registration"):
        (tmp_path / name).mkdir()
    digest = read_json(folder / "bundle.json")["model_digest"]
    write_json(tmp_path / "evaluation" / METRICS, {"model_digest": digest, "test_digest": TEST_SET, "macro_dice": 0.5})
    params = RegisterParams(name=tmp_path.name.replace("_", "-"))
    inputs = Bench.standing(tmp_path, monkeypatch).inputs()
    numbers = register(*inputs, folder, tmp_path / "evaluation", tmp_path / "registration", params)
    assert numbers == {"version": 1.0, "promoted": 1.0, "macro_dice": 0.5}
    assert len(lossy.lost) > 20
    monkeypatch.setenv("MLFLOW_TRACKING_URI", away.address)
    (run_id,) = runs()
    assert_complete(run_id, folder, "the gate: promote")
    client = tracking.open_store()
    assert [v.version for v in client.search_model_versions(f"name = '{params.name}'")] == ["1"]
    experiment = tracking.open_experiment(tracking.experiment_name())
    assert [model.status for model in client.search_logged_models([experiment])] == ["READY"]
    assert len(client.get_run(run_id).outputs.model_outputs) == 1
    reigning = registry.current(params.name, params.alias)
    assert reigning is not None
    assert reigning.tags["decision"] == "promote"
    acts = ledger.read(params.name)
    assert [entry.act.what for entry in acts] == ["register", "promote"]
    assert ledger.verify(*ledger.read_with_head(params.name)) == []


def test_a_bundle_that_is_gone_from_a_server_is_no_outage(
    away: MlflowServer, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    digest = write_bundle_stub(tmp_path / "model", 7)
    with tracking.start_run(tracking.experiment_name(), "a run", {}) as run:
        pass
    version = registry.register_version("gone", tmp_path / "model", run.id, {"model_digest": digest})
    kept = tmp_path_factory.getbasetemp().glob("mlflow[0-9]*/artifacts/**/bundle/bundle.json")
    (bundle,) = (path.parent for path in kept if read_json(path)["model_digest"] == digest)
    shutil.rmtree(bundle)
    with pytest.raises(CytoloopError, match="404") as refused:
        registry.fetch(version.uri, tmp_path / "fetched")
    assert not isinstance(refused.value, ServerAway)


# ------------------------------------------------------------------- a whole training, and its registration

PARAMS = """
classes: [{name: background, color: [0, 0, 0]}, {name: nucleus, color: [255, 0, 0]}]
ingest: {layout: image_mask, source: nowhere}
model: {architecture: leanunet, image_width: 32, image_height: 32, num_classes: 2, num_layers: 2, base_filters: 2}
tune: {trials: 0}
train: {epochs: 4, batch_size: 4, epoch_pictures: 1, checkpoints: 1}
register: {name: outage}
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [row(f"p{i:02d}", mask_HW=np.full((32, 32), i % 2, np.uint8)) for i in range(12)]
    write_table(tmp_path / "raw", rows)
    write_table(tmp_path / "augmented", [])
    for name in ("splits", "best_params"):
        (tmp_path / name).mkdir()
    parts = ["test", "test", "val", "val", *["train"] * 8]
    lines = ["id,group,split,reason", *(f"{r.id},{r.id},{part}," for r, part in zip(rows, parts, strict=True))]
    (tmp_path / "splits" / "splits.csv").write_text("\n".join(lines) + "\n")
    write_json(tmp_path / "splits" / "splits.json", {"test_digest": "t" * 64})
    write_receipt(tmp_path / "validated", read_card(tmp_path / "raw").digest)
    write_json(tmp_path / "best_params" / "best_params.json", {"model": {}})
    (tmp_path / "params.yaml").write_text(PARAMS)
    return tmp_path


def cytoloop(data: Path, run: Path, address: str, *command: str) -> subprocess.Popen[str]:
    inputs = ("raw", "validated", "splits", "augmented", "best_params")
    flags = [f"--{name.replace('_', '-')}={data / name}" for name in inputs]
    flags += ["--evaluation=evaluation", "--registration=registration"]
    run.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "cytoloop", *command, f"--params={data / 'params.yaml'}", "--model=model", *flags],
        cwd=run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **environment(address, "outage"), "CYTOLOOP_WORK": "work"},
    )  # fmt: skip


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_training_ends_alike_without_a_server_and_is_registered_when_it_is_back(
    server: MlflowServer, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, watched = data / "alone", data / "watched"
    training = cytoloop(data, alone, server.address, "train")
    servers.until(lambda: any(alone.glob("work/train-*/checkpoints/epoch-0001.npz")) or training.poll() is not None)
    server.kill()
    said = training.communicate(timeout=120)[1]
    assert training.returncode == 0, said
    assert "the work goes on without it" in said
    assert "`cytoloop register --resume` sends what is missing" in said

    digest = read_json(alone / "model" / "bundle.json")["model_digest"]
    (alone / "evaluation").mkdir()
    macro_dice = rescore(Predictor.load(alone / "model"), data / "raw", data / "splits", "it").macro_dice
    metrics = {"model_digest": digest, "test_digest": "t" * 64, "macro_dice": macro_dice}
    write_json(alone / "evaluation" / METRICS, metrics)
    refused = cytoloop(data, alone, server.address, "register")
    said = refused.communicate(timeout=60)[1]
    assert refused.returncode == 1
    assert "Nothing is lost" in said
    assert "cytoloop register --resume" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not (alone / "registration").exists()

    server.start()
    resumed = cytoloop(data, alone, server.address, "register", "--resume")
    said = "".join(resumed.communicate(timeout=240))
    assert resumed.returncode == 0, said
    assert read_json(alone / "registration" / "receipt.json")["decision"] == "promote"

    for name, value in environment(server.address, "outage").items():
        monkeypatch.setenv(name, value)
    (run_id,) = runs()
    client = tracking.open_store()
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [metric.step for metric in client.get_metric_history(run_id, "val_loss")] == [1, 2, 3, 4]
    pictures = [file.path for file in client.list_artifacts(run_id, "images") if file.path.endswith(".png")]
    assert len(pictures) == 5
    assert {"test/macro_dice"} <= client.get_run(run_id).data.metrics.keys()

    training = cytoloop(data, watched, server.address, "train")
    said = training.communicate(timeout=120)[1]
    assert training.returncode == 0, said
    assert files(watched / "model") == files(alone / "model")
