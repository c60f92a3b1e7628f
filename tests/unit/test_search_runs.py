import os
import time
from pathlib import Path
from typing import Any

import optuna
import pytest

from cytoloop import tracking
from cytoloop.artifacts import RUN, Card, read_json, write_json
from cytoloop.tracking.searches import SENDING
from cytoloop.tuning.runs import report
from cytoloop.tuning.trials import write_trials
from mlflow_store import store
from searched import BEGAN, RATE, five

__all__ = ["store"]

CARD = Card("cells", [], "", "", digest="d" * 64)
PARAMS = {"tune.trials": 5, "model.base_filters": 8}


@pytest.fixture
def folder(store: Path) -> Path:
    made = store.parent / "best_params"
    made.mkdir()
    write_json(made / "best_params.json", {"model": {"base_filters": 4}})
    write_trials(five(), made / "trials.csv")
    return made


def runs() -> list[Any]:
    client = tracking.open_store()
    return list(client.search_runs([tracking.open_experiment("cytoloop")]))


def parent_and_trials() -> tuple[Any, dict[int, Any]]:
    (parent,) = [run for run in runs() if "number" not in run.data.tags]
    below = [run for run in runs() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    trials = {int(run.data.tags["number"]): run for run in below}
    assert len(trials) == len(below) == len(runs()) - 1
    return parent, trials


def told(run: Any) -> tuple[Any, ...]:
    """A run without what depends on where and when it was sent."""
    metrics = {name: value for name, value in run.data.metrics.items() if name not in ("seconds", "latency_ms")}
    tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
    return run.info.run_name, run.info.status, run.data.params, metrics, tags


def test_a_search_is_a_run_with_a_run_a_trial(folder: Path) -> None:
    report(five(), folder, PARAMS, CARD)
    parent, trials = parent_and_trials()
    assert parent.info.run_name.startswith("tune augment strength, base filters, learning rate 20")  # and when
    assert parent.info.status == "FINISHED"
    assert parent.data.params == {"tune.trials": "5", "model.base_filters": "8"}
    assert parent.data.metrics["best_val_macro_dice"] == 0.7
    assert parent.data.metrics["trials_complete"] == 3
    assert [trials[n].info.status for n in range(6)] == [
        "FINISHED",
        "FINISHED",
        "KILLED",
        "KILLED",
        "FAILED",
        "FINISHED",
    ]
    assert [trials[n].data.tags["state"] for n in (2, 3, 4)] == ["pruned", "skipped", "failed"]
    assert trials[3].data.tags["reason"] == "parameters 1600 is beyond 1000"
    assert trials[5].data.tags["retry_of"] == "4"
    assert trials[1].info.run_name == "1 augment strength 1, base filters 8, learning rate 0.002"
    assert trials[1].data.params[RATE] == "0.002"
    client = tracking.open_store()
    curve = client.get_metric_history(trials[1].info.run_id, "val_macro_dice")
    assert [(m.step, m.value) for m in curve] == [(1, 0.3), (2, 0.6), (3, 0.55)]
    assert trials[1].data.metrics["best_val_macro_dice"] == 0.6
    assert {file.path for file in client.list_artifacts(parent.info.run_id, "best_params")} >= {
        "best_params/trials.csv"
    }


def test_times_are_in_the_store_and_not_in_the_record(folder: Path) -> None:
    report(five(), folder, PARAMS, CARD)
    _, trials = parent_and_trials()
    assert trials[0].data.metrics["seconds"] == 3.25
    assert trials[0].data.metrics["latency_ms"] == 4.5
    assert trials[0].info.start_time == 1000 * BEGAN.timestamp()
    assert trials[0].info.end_time - trials[0].info.start_time == 30_000
    text = (folder / RUN).read_text()
    assert "3.25" not in text
    assert "latency" not in text


def test_the_same_search_is_sent_once(folder: Path) -> None:
    report(five(), folder, PARAMS, CARD)
    ids = {run.info.run_id for run in runs()}
    report(five(), folder, PARAMS, CARD)
    tracking.send_search(folder)
    assert {run.info.run_id for run in runs()} == ids


def test_what_was_not_sent_is_sent_from_the_record(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody is there
        patch.setenv("CYTOLOOP_TRACKING_PATIENCE", "0")
        report(five(), folder, PARAMS, CARD)
    assert "`cytoloop register --resume` sends what is missing of the search" in capsys.readouterr().err
    with tracking.start_run("cytoloop", "train", {}) as run:
        run.send_search(folder)
    later = [told(one) for one in runs() if not one.info.run_name.startswith("train")]
    assert len(later) == 7
    assert read_json(folder / RUN)["nested"][1]["name"] in [name for name, *_ in later]


@pytest.mark.parametrize("stop_after", [0, 1, 3])
def test_a_killed_sender_is_gone_on_from(folder: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int) -> None:
    """Killed in a trial's numbers; whoever is next, a process of another id on this machine, completes the rest."""
    import mlflow

    whole, calls = mlflow.MlflowClient.log_batch, []

    def dying(self: Any, *arguments: Any, **named: Any) -> None:
        whole(self, *arguments, **named)
        if named.get("params") and named.get("metrics"):
            calls.append(1)
            if len(calls) > stop_after:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "log_batch", dying)
        with pytest.raises(KeyboardInterrupt):
            report(five(), folder, PARAMS, CARD)
    assert len(runs()) == stop_after + 2
    monkeypatch.setattr(os, "getpid", lambda: 2**22 + 1)
    (parent,) = [run for run in runs() if "number" not in run.data.tags]
    tracking.open_store().set_tag(parent.info.run_id, "pid", 2**22 + 2)  # no process has it
    report(five(), folder, PARAMS, CARD)
    parent, trials = parent_and_trials()
    assert parent.info.status == "FINISHED"
    assert [trials[n].info.status for n in (0, 4)] == ["FINISHED", "FAILED"]
    client = tracking.open_store()
    for number, epochs in ((0, 2), (1, 3), (2, 2), (5, 2)):
        assert len(client.get_metric_history(trials[number].info.run_id, "val_macro_dice")) == epochs


@pytest.mark.parametrize(("host", "age", "sent"), [("elsewhere", 0, False), ("elsewhere", SENDING + 1, True)])
def test_who_is_sending_elsewhere_is_left_alone_for_a_while(folder: Path, host: str, age: float, sent: bool) -> None:
    report(five(), folder, PARAMS, CARD)
    work = read_json(folder / RUN)["work"]
    client = tracking.open_store()
    for run in runs():
        client.delete_run(run.info.run_id)
    began = int(1000 * (time.time() - age))
    tags = {"work": work, "host": host, "pid": "1"}
    client.create_run(tracking.open_experiment("cytoloop"), began, tags, "tune")
    tracking.send_search(folder)
    assert len(runs()) == (7 if sent else 1)


def test_the_record_is_the_same_again(folder: Path) -> None:
    report(five(), folder, PARAMS, CARD)
    once = (folder / RUN).read_bytes()
    report(five(), folder, PARAMS, CARD)
    assert (folder / RUN).read_bytes() == once


def test_a_folder_without_a_record_sends_nothing(store: Path, tmp_path: Path) -> None:
    tracking.send_search(tmp_path)
    assert runs() == []


def test_long_names_are_cut(folder: Path) -> None:
    study = optuna.create_study(direction="maximize")
    keys = [f"model.a_setting_with_a_long_name_{n}" for n in range(12)]
    study.optimize(lambda trial: sum(trial.suggest_float(key, 0, 1) for key in keys), n_trials=1)
    report(study, folder, PARAMS, CARD)
    parent, trials = parent_and_trials()
    assert parent.info.run_name.rpartition(" 20")[0].endswith("and 8 more")
    assert len(trials[0].info.run_name) == 200
