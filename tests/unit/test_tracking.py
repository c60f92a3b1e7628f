import math
import os
import re
import sqlite3
from pathlib import Path

import pytest

from cytoloop import tracking
from cytoloop.errors import CytoloopError
from mlflow_store import store

__all__ = ["store"]


def _client():
    return tracking.open_store()


def test_the_store_is_the_environments_and_files_lie_beside_it(store: Path, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "page.html").write_text("x")
    with tracking.start_run("cells", "a run", {}) as run:
        run.log_artifacts(tmp_path / "files", "report")
    assert (tmp_path / "mlartifacts" / run.id / "artifacts" / "report" / "page.html").is_file()
    assert not (tmp_path / "mlruns").exists()


def test_without_the_variable_it_is_mlflow_db_in_the_working_folder(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking.sqlite_file() == store
    with tracking.start_run("cells", "a run", {"kind": "default"}) as run:
        pass
    assert tracking.find_run("cells", kind="default") == run.id


def test_what_is_logged_is_there(store: Path) -> None:
    with tracking.start_run("cells", "a run", {"kind": "x"}) as run:
        run.log_params({f"p{i}": i for i in range(250)})
        run.log_metrics({"dice": 0.25, "void": math.nan}, 1)
        run.log_metrics({"dice": 0.75}, 2)
        run.set_tags({"model_digest": "abc"})
        run.log_dataset("smear", "d" * 64, "training")
    found = _client().get_run(run.id)
    assert found.info.status == "FINISHED"
    assert re.fullmatch(r"a run \d{4}-\d\d-\d\d \d\d:\d\d", found.info.run_name)
    assert found.data.params == {f"p{i}": str(i) for i in range(250)}
    assert [(m.step, m.value) for m in _client().get_metric_history(run.id, "dice")] == [(1, 0.25), (2, 0.75)]
    assert math.isnan(found.data.metrics["void"])
    assert found.data.tags["model_digest"] == "abc"
    assert found.data.tags["pid"] == str(os.getpid())
    (fed,) = found.inputs.dataset_inputs
    assert (fed.dataset.name, fed.dataset.digest) == ("smear", "d" * 36)
    assert {tag.key: tag.value for tag in fed.tags} == {"mlflow.data.context": "training", "digest": "d" * 64}


def test_a_finished_run_takes_more_and_stays_finished(store: Path) -> None:
    with tracking.start_run("cells", "a run", {}) as run:
        pass
    ended = _client().get_run(run.id).info.end_time
    tracking.Run(run.id).log_metrics({"test/dice": 0.5})
    found = _client().get_run(run.id)
    assert found.data.metrics["test/dice"] == 0.5
    assert (found.info.status, found.info.end_time) == ("FINISHED", ended)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_marks_the_run_failed_and_goes_on(store: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), tracking.start_run("cells", "a run", {"kind": "broken"}) as run:
        raise error
    assert _client().get_run(run.id).info.status == "FAILED"
    assert tracking.find_run("cells", kind="broken") is None


def test_the_newest_run_with_all_the_tags_is_found(store: Path) -> None:
    ids = []
    for colour in ("red", "red", "blue"):
        with tracking.start_run("cells", "a run", {"colour": colour, "kind": "x"}) as run:
            ids.append(run.id)
    assert tracking.find_run("cells", colour="red", kind="x") == ids[1]
    assert tracking.find_run("cells", colour="red", kind="y") is None
    assert tracking.find_run("other", colour="red") is None


def test_an_orchestrators_run_becomes_the_parent(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking.start_run("pipelines", "the pipeline's", {}) as outer:
        pass
    monkeypatch.setenv("MLFLOW_RUN_ID", outer.id)
    with tracking.start_run("cells", "ours", {"kind": "child"}) as run:
        pass
    found = _client().get_run(run.id)
    assert run.id != outer.id
    assert found.data.tags["mlflow.parentRunId"] == outer.id
    assert found.info.experiment_id == _client().get_run(outer.id).info.experiment_id
    assert os.environ["MLFLOW_RUN_ID"] == outer.id
    assert tracking.find_run("cells", kind="child") == run.id


def test_runs_do_not_land_in_the_default_experiment(store: Path) -> None:
    with tracking.start_run("cells", "a run", {}) as run:
        pass
    assert _client().get_run(run.id).info.experiment_id == tracking.open_experiment("cells") != "0"
    assert _client().get_experiment_by_name("cells").tags["mlflow.experimentKind"] == "custom_model_development"


def test_an_sqlite_store_writes_ahead(store: Path) -> None:
    tracking.open_store()
    connection = sqlite3.connect(store)
    assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_deleted_experiment_says_how_to_get_it_back(store: Path) -> None:
    number = tracking.open_experiment("cells")
    _client().delete_experiment(number)
    with pytest.raises(CytoloopError, match=f"restore -x {number}"):
        tracking.open_experiment("cells")


def test_an_old_folder_of_runs_is_refused_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlruns" / "1").mkdir(parents=True)
    (tmp_path / "mlruns" / "1" / "meta.yaml").touch()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CytoloopError, match=r"mlruns.*set MLFLOW_TRACKING_URI"):
        tracking.open_experiment("cells")


def test_errors_name_the_store_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg://ann:s3cret@db.example:5432/runs")
    assert tracking.store_name() == "postgresql+psycopg://db.example:5432/runs"


def test_a_path_with_spaces_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my data").mkdir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path / "my data")
    assert tracking.sqlite_file() == tmp_path / "my data" / "mlflow.db"
