"""The store of runs: a client, an experiment, and one process at a time where it is a file."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cytoloop.errors import CytoloopError
from cytoloop.tracking.address import quiet_mlflow, scheme, sqlite_file
from cytoloop.tracking.asking import explained, persistent

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = "mlartifacts"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # MLflow shows training, not conversations
INJECTED_RUN = "MLFLOW_RUN_ID"  # an orchestrator's own run, under which ours are opened


@persistent
def open_experiment(name: str) -> str:
    """The id of an experiment, which is made where there is none.

    Runs are opened with this id: `mlflow.set_experiment` may lose a race without a word, and its runs
    then land in the experiment Default. Where MLFLOW_RUN_ID is set, it is that run's experiment.

    Raises:
        CytoloopError: MLflow cannot be reached or used, or the experiment was deleted.
    """
    if INJECTED_RUN in os.environ:
        with explained():
            return str(open_store().get_run(os.environ[INJECTED_RUN]).info.experiment_id)
    return named_experiment(name)


@persistent
def named_experiment(name: str) -> str:
    """As `open_experiment`, whatever MLFLOW_RUN_ID says."""
    with explained():
        client = open_store()
        with store_lock():
            experiment = client.get_experiment_by_name(name) or _make_experiment(client, name)
    if experiment.lifecycle_stage == "deleted":
        raise CytoloopError(
            f"MLflow experiment {name!r} was deleted; restore it (`mlflow experiments restore -x "
            f"{experiment.experiment_id}`), or set another name in MLFLOW_EXPERIMENT_NAME"
        )
    return str(experiment.experiment_id)


def _make_experiment(client: "MlflowClient", name: str) -> Any:
    try:
        client.create_experiment(name, artifact_location=_artifact_location(), tags=KIND)
    except quiet_mlflow().MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # on a server, somebody else may just have made it
            raise
    return client.get_experiment_by_name(name)


def _artifact_location() -> str | None:
    if scheme() in ("http", "https"):
        return None
    database = sqlite_file()
    beside = database.parent if database else Path.cwd()
    return (beside / ARTIFACTS).as_uri()


def open_store() -> "MlflowClient":
    """A client of the store; the tables of a new SQLite file are made by one process at a time.

    Those of a server's database are made before, once, with `mlflow db upgrade`.
    """
    mlflow = quiet_mlflow()
    with explained(), store_lock():
        database = sqlite_file()
        if database:
            _let_readers_in(database)
        client: MlflowClient = mlflow.MlflowClient()
        return client


def _let_readers_in(database: Path) -> None:
    """Write-ahead logging, which the file remembers: readers and a writer no longer wait for each other."""
    with suppress(sqlite3.OperationalError):  # busy under another program: slower, but right
        connection = sqlite3.connect(database)
        connection.execute("pragma journal_mode=wal")
        connection.close()


@contextmanager
def store_lock() -> Iterator[None]:
    """One process at a time, where the store is an SQLite file; elsewhere the server keeps order.

    Not to be taken twice by the same process: `open_store` and `open_experiment` take it.
    """
    database = sqlite_file()
    if database is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f".{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
