"""Runs in MLflow, which is found through the environment alone.

MLFLOW_TRACKING_URI says where it is; without it MLflow's own default holds, the database `mlflow.db`
in the working folder. What a run stores in files lies in `mlartifacts/` beside such a database (the
database remembers the absolute path: move both and old files are no longer found), or where a
tracking server keeps it.
"""

import fcntl
import json
import os
import re
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from cytoloop.errors import CytoloopError

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = "mlartifacts"
INJECTED_RUN = "MLFLOW_RUN_ID"  # an orchestrator's own run, under which ours are opened
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",  # it would ask a package index
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",  # it would copy the project's lock file into each model
}
BATCH = 100  # params or tags that a server takes at once
DIGEST_LENGTH = 36  # of a dataset's digest, as long as MLflow allows


@dataclass(frozen=True)
class Run:
    """A run to log to; it may be going on or finished."""

    id: str

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings; a name keeps its first value, another one is refused."""
        from mlflow.entities import Param

        _log(self.id, "params", [Param(name, str(value)) for name, value in params.items()])

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record numbers (NaN is allowed) at a step, such as an epoch."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        _log(self.id, "metrics", [Metric(name, float(value), now, step) for name, value in metrics.items()])

    def log_artifacts(self, folder: Path, name: str) -> None:
        """Store a folder's files under a name."""
        with explained():
            open_store().log_artifacts(self.id, str(folder), name)

    def log_picture(self, path: Path, series: str, step: int) -> None:
        """Add a picture file to a series of pictures, at a step such as an epoch; a failure is said on stderr."""
        from PIL import Image

        try:
            with explained(), Image.open(path) as picture:
                open_store().log_image(self.id, picture.convert("RGB"), key=series, step=step)
        except (CytoloopError, OSError) as error:
            print(f"{path.name} is not in MLflow: {error}", file=sys.stderr)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, anew where they exist."""
        from mlflow.entities import RunTag

        _log(self.id, "tags", [RunTag(name, str(value)) for name, value in tags.items()])

    def log_dataset(self, name: str, digest: str, context: str) -> None:
        """Record what the run was fed with, and for what (`training`, ...).

        MLflow's digest is the first 36 characters; the tag `digest` has all of them.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name, digest[:DIGEST_LENGTH], source_type="local", source=json.dumps({"uri": name}))
        tags = [InputTag("mlflow.data.context", context), InputTag("digest", digest)]
        with explained():
            open_store().log_inputs(self.id, [DatasetInput(dataset, tags)])


def _log(run_id: str, kind: str, entities: Sequence[Any]) -> None:
    with explained():
        client = open_store()
        for start in range(0, len(entities), BATCH):
            some: dict[str, Any] = {kind: entities[start : start + BATCH]}
            client.log_batch(run_id, **some)


@contextmanager
def start_run(experiment: str, run_name: str, tags: Mapping[str, str]) -> Iterator[Run]:
    """Open a run; an exception inside marks it FAILED and goes on.

    Where an orchestrator has set MLFLOW_RUN_ID, ours becomes a child of that run, in its experiment.
    System metrics (processor, memory, disk, network) are sampled every 10 s. The tags `host` and `pid`
    tell whose run it is, should it ever be found RUNNING with nobody there.
    """
    experiment_id = open_experiment(experiment)
    origin = {"host": socket.gethostname(), "pid": str(os.getpid())}
    parent = os.environ.pop(INJECTED_RUN, None)  # else MLflow would take up that run instead of opening ours
    try:
        with quiet_mlflow().start_run(
            experiment_id=experiment_id,
            run_name=run_name,
            nested=True,
            parent_run_id=parent,
            tags=origin | dict(tags),
            log_system_metrics=True,
        ) as active:
            yield Run(active.info.run_id)
    finally:
        if parent is not None:
            os.environ[INJECTED_RUN] = parent


def find_run(experiment: str, **tags: str) -> str | None:
    """The id of the newest finished run of the experiment that has all these tags."""
    conditions = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
    with explained():
        runs = open_store().search_runs(
            [open_experiment(experiment)],
            " and ".join([*conditions, "attributes.status = 'FINISHED'"]),
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
    return runs[0].info.run_id if runs else None


def experiment_name() -> str:
    """The experiment of all runs: $MLFLOW_EXPERIMENT_NAME, or `cytoloop`."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "cytoloop")


def open_experiment(name: str) -> str:
    """The id of an experiment, which is made where there is none.

    Runs are opened with this id: `mlflow.set_experiment` may lose a race without a word, and its runs
    then land in the experiment Default. Where MLFLOW_RUN_ID is set, it is that run's experiment.

    Raises:
        CytoloopError: MLflow cannot be reached or used, or the experiment was deleted.
    """
    with explained():
        client = open_store()
        if INJECTED_RUN in os.environ:
            return str(client.get_run(os.environ[INJECTED_RUN]).info.experiment_id)
        with store_lock():
            experiment = client.get_experiment_by_name(name) or _make_experiment(client, name)
    if experiment.lifecycle_stage == "deleted":
        raise CytoloopError(
            f"MLflow experiment {name!r} was deleted; restore it (`mlflow experiments restore -x "
            f"{experiment.experiment_id}`), or set another name in MLFLOW_EXPERIMENT_NAME"
        )
    return str(experiment.experiment_id)


def _make_experiment(client: "MlflowClient", name: str) -> Any:
    with suppress(quiet_mlflow().MlflowException):  # on a server, somebody else may just have made it
        client.create_experiment(name, artifact_location=_artifact_location())
    return client.get_experiment_by_name(name)


def _artifact_location() -> str | None:
    if urlsplit(quiet_mlflow().get_tracking_uri()).scheme in ("http", "https"):
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


def sqlite_file() -> Path | None:
    """The database, absolute, where the store is an SQLite file."""
    address = urlsplit(quiet_mlflow().get_tracking_uri())
    return Path(unquote(address.path[1:])).absolute() if address.scheme.startswith("sqlite") else None


@contextmanager
def explained() -> Iterator[None]:
    """MLflow's own exceptions leave as a CytoloopError that names the store."""
    mlflow = quiet_mlflow()
    try:
        yield
    except mlflow.MlflowException as error:
        raise CytoloopError(f"MLflow at {store_name()}: {error} (set MLFLOW_TRACKING_URI for another store)") from error


def store_name() -> str:
    """The store's address as it may be shown: without user and password."""
    return re.sub("//[^/]*@", "//", quiet_mlflow().get_tracking_uri())


def quiet_mlflow() -> Any:
    """The module, imported on first use: no telemetry, no chatter; set any of QUIET to have it otherwise."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    import mlflow

    return mlflow
