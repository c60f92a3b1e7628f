"""Runs in MLflow, which is found through the environment alone.

MLFLOW_TRACKING_URI says where it is; without it MLflow's own default holds, the database `mlflow.db`
in the working folder. What a run stores in files lies in `mlartifacts/` beside such a database (the
database remembers the absolute path: move both and old files are no longer found), or where a
tracking server keeps it.

A server may be away. What is asked of it is asked again for a while (`persistent`); then the work goes
on without it (`LiveRun`), and what the server missed is sent later, from the record that every trained
artifact carries (`Record`, `send`).
"""

import fcntl
import functools
import json
import logging
import os
import re
import socket
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar
from urllib.parse import unquote, urlsplit

from cytoloop.artifacts import RUN, read_json, write_json
from cytoloop.errors import ArtifactError, CytoloopError, ServerAway
from cytoloop.provenance import origin, whence

if TYPE_CHECKING:
    from mlflow import MlflowClient

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Line = Mapping[str, float]

ARTIFACTS = "mlartifacts"
INJECTED_RUN = "MLFLOW_RUN_ID"  # an orchestrator's own run, under which ours are opened
PARENT_TAG = "mlflow.parentRunId"
PATIENCE = "CYTOLOOP_TRACKING_PATIENCE"
DEFAULT_PATIENCE = 90.0
"""Seconds for which a server that is away is asked again: a minute's restart, and some more."""
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # its own 7 wait 4 minutes without a word, and repeat a creation
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds, of a server that takes a request and says nothing
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",  # it would ask a package index
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_UV_AUTO_DETECT": "false",  # it would copy the project's lock file into each model
}
BATCH = 100  # params, tags or metrics that a server takes at once
DIGEST_LENGTH = 36  # of a dataset's digest, as long as MLflow allows
LIBRARIES = frozenset({"mlflow", "requests", "urllib3", "boto3", "botocore", "sqlalchemy", "psycopg"})
"""Whose exceptions leave as ours: MLflow's, and those of what it talks through."""


# ------------------------------------------------------------------------------------ asking a server


def persistent(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function, called again with growing pauses while the server is away, until patience ends.

    Patience is $CYTOLOOP_TRACKING_PATIENCE seconds, or 90. The function must bear being called twice, also
    when the first call was heard and only its answer was lost.
    """

    @functools.wraps(function)
    def patiently(*arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        began, patience = time.monotonic(), _patience()
        for turn, pause in enumerate(chain((1, 2, 4, 8), repeat(15))):
            try:
                return function(*arguments, **named)
            except ServerAway as error:
                left = patience - (time.monotonic() - began)
                if pause > left:
                    raise
                if not turn:
                    print(f"{error}; trying again for {left:.0f} s", file=sys.stderr)
                time.sleep(pause)
        raise AssertionError("the pauses never end")

    return patiently


def _patience() -> float:
    given = os.environ.get(PATIENCE, "")
    try:
        return float(given or DEFAULT_PATIENCE)
    except ValueError:
        raise CytoloopError(f"{PATIENCE}={given}: not a number of seconds; {DEFAULT_PATIENCE:g} is usual") from None


@contextmanager
def explained() -> Iterator[None]:
    """Exceptions of MLflow and of what it talks through leave as ours, which name the store.

    Raises:
        ServerAway: the store is a server, and the same request may succeed later.
        CytoloopError: it was refused.
    """
    quiet_mlflow()
    try:
        yield
    except Exception as error:
        if not _is_foreign(error):
            raise
        if _may_pass(error):
            raise ServerAway(f"MLflow at {store_name()} does not answer ({_root(error)})") from error
        raise CytoloopError(f"MLflow at {store_name()}: {error} (set MLFLOW_TRACKING_URI for another store)") from error


def _is_foreign(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] in LIBRARIES


def _may_pass(error: Exception) -> bool:
    """Whether it is the server's trouble, not the request's: no answer, an answer from 500 on, or too much to do."""
    if _scheme() in ("", "file", "sqlite"):
        return False
    status = error.get_http_status_code() if hasattr(error, "get_http_status_code") else 503
    return status >= 500 or status in (408, 429)


def _root(error: BaseException) -> str:
    """What was at the bottom of it, in one line: `Connection refused` rather than who called whom."""
    while True:
        told = (part for part in error.args if isinstance(part, BaseException))
        below = error.__cause__ or error.__context__ or next(told, None)
        if below is None or not (_is_foreign(below) or isinstance(below, OSError)):
            break
        error = below
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


# ---------------------------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class Facts:
    """What a run is, and its settings and tags by name."""

    name: str
    status: str
    began: datetime
    params: dict[str, str]
    tags: dict[str, str]


@dataclass(frozen=True)
class Run:
    """A run to log to; it may be going on or finished. What it has already is not logged again."""

    id: str

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings; a name keeps its first value, another one is refused."""
        from mlflow.entities import Param

        _log(self.id, "params", [Param(name, str(value)) for name, value in params.items()])

    def log_metrics(self, metrics: Line, step: int = 0) -> None:
        """Record numbers (NaN is allowed) at a step, such as an epoch."""
        _log(self.id, "metrics", _metrics(metrics, step))

    @persistent
    def metrics(self) -> dict[str, float]:
        """The numbers of the newest step by name."""
        with explained():
            return dict(open_store().get_run(self.id).data.metrics)

    @persistent
    def log_missing_metrics(self, lines: Sequence[tuple[int, Line]]) -> None:
        """Record those numbers (step, numbers by name) that the run has not yet."""
        known = self.metrics()
        with explained():
            client = open_store()
            names = {name for _, line in lines for name in line if name in known}
            there = {(name, m.step) for name in names for m in client.get_metric_history(self.id, name)}
        found = [metric for step, line in lines for metric in _metrics(line, step)]
        _log(self.id, "metrics", [metric for metric in found if (metric.key, metric.step) not in there])

    @persistent
    def log_artifacts(self, folder: Path, name: str, leave_out: Sequence[str] = ()) -> None:
        """Store a folder's files under a name, but for those in the folders that are left out."""
        with explained():
            client = open_store()
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                inside = path.relative_to(folder).parent
                if not set(leave_out) & set(inside.parts):
                    client.log_artifact(self.id, str(path), (Path(name) / inside).as_posix())

    @persistent
    def log_picture(self, path: Path, series: str, step: int) -> None:
        """Add a picture file to a series of pictures, at a step such as an epoch; a refusal is said on stderr."""
        from PIL import Image

        try:
            with explained(), Image.open(path) as picture:
                client = open_store()
                if not _has_picture(client, self.id, series, step):
                    client.log_image(self.id, picture.convert("RGB"), key=series, step=step)
        except ServerAway:
            raise
        except (CytoloopError, OSError) as error:
            print(f"{path.name} is not in MLflow: {error}", file=sys.stderr)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, anew where they exist."""
        from mlflow.entities import RunTag

        _log(self.id, "tags", [RunTag(name, str(value)) for name, value in tags.items()])

    @persistent
    def log_dataset(self, name: str, digest: str, context: str) -> None:
        """Record what the run was fed with, and for what (`training`, ...).

        MLflow's digest is the first 36 characters; the tag `digest` has all of them.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(name, digest[:DIGEST_LENGTH], source_type="local", source=json.dumps({"uri": name}))
        tags = [InputTag("mlflow.data.context", context), InputTag("digest", digest)]
        with explained():
            open_store().log_inputs(self.id, [DatasetInput(dataset, tags)])

    @persistent
    def facts(self) -> "Facts":
        """What the run is and was told."""
        with explained():
            run = open_store().get_run(self.id)
        began = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
        return Facts(run.info.run_name, run.info.status, began, dict(run.data.params), dict(run.data.tags))

    @persistent
    def fetch(self, file: str, folder: Path) -> Path | None:
        """Download one of the run's files, `folder/name`, or None where it has none of that name."""
        with explained():
            client = open_store()
            there = {found.path for found in client.list_artifacts(self.id, file.rpartition("/")[0])}
            return Path(client.download_artifacts(self.id, file, str(folder))) if file in there else None

    @persistent
    def end(self, status: str) -> None:
        """Mark the run FINISHED or FAILED."""
        _end(self.id, status)


def _end(run_id: str, status: str) -> None:
    with explained():
        open_store().set_terminated(run_id, status)


def _metrics(line: Line, step: int) -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(name, float(value), now, step) for name, value in line.items()]


@persistent
def _log(run_id: str, kind: str, entities: Sequence[Any]) -> None:
    with explained():
        client = open_store()
        for start in range(0, len(entities), BATCH):
            some: dict[str, Any] = {kind: entities[start : start + BATCH]}
            client.log_batch(run_id, **some)


def _has_picture(client: "MlflowClient", run_id: str, series: str, step: int) -> bool:
    begin = f"images/{series}+step+{step}+"  # as MLflow names them
    return any(file.path.startswith(begin) for file in client.list_artifacts(run_id, "images"))


# --------------------------------------------------------------------------- runs of work that goes on


class LiveRun:
    """A run to log to while its work goes on, which MLflow never stops.

    When the server stays away for longer than patience lasts, that is said once on stderr, and nothing more is
    asked of it until `complete`.

    Args:
        experiment: its name.
        run_name: as MLflow shows it.
        tags: `work` among them names the very work: what was killed goes on in its run.

    Raises:
        CytoloopError: MLflow can be reached and refuses.
    """

    def __init__(self, experiment: str, run_name: str, tags: Mapping[str, str]) -> None:
        self._opening = (experiment, run_name, {"work": uuid.uuid4().hex} | dict(tags))
        self._run: Run | None = None
        self._monitor: Any = None
        self._alone = False
        try:
            self._open()
        except ServerAway as error:
            self._go_alone(error)

    @property
    def id(self) -> str:
        if self._run is None:
            raise CytoloopError("this run could not be opened in MLflow yet, and has no id")
        return self._run.id

    def log_params(self, params: Mapping[str, Any]) -> None:
        self._try(lambda run: run.log_params(params))

    def log_metrics(self, metrics: Line, step: int = 0) -> None:
        self._try(lambda run: run.log_metrics(metrics, step))

    def log_artifacts(self, folder: Path, name: str) -> None:
        self._try(lambda run: run.log_artifacts(folder, name))

    def log_picture(self, path: Path, series: str, step: int) -> None:
        self._try(lambda run: run.log_picture(path, series, step))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        self._try(lambda run: run.set_tags(tags))

    def log_dataset(self, name: str, digest: str, context: str) -> None:
        self._try(lambda run: run.log_dataset(name, digest, context))

    def complete(self, folder: Path) -> None:
        """Send what the run has not yet of the record in a folder, and the folder; a last try where it was alone."""
        self._alone = False
        try:
            fill(self._open(), folder)
        except CytoloopError as error:
            self._alone = True
            print(f"{error}; `cytoloop register --resume` sends what is missing", file=sys.stderr)

    def end(self, status: str) -> None:
        """Mark the run FINISHED or FAILED, if the server is there; a run that it missed stays RUNNING until `send`."""
        if self._run is None or self._alone:
            return
        self._monitor.finish()
        try:
            _end(self._run.id, status)
        except CytoloopError as error:
            print(f"{error}; the run stays RUNNING until `cytoloop register`", file=sys.stderr)

    def _open(self) -> Run:
        if self._run is None:
            self._run = Run(_open_run(*self._opening))
            self._monitor = _monitor(self._run.id)
        return self._run

    def _try(self, log: Callable[[Run], None]) -> None:
        if self._run is None or self._alone:
            return
        try:
            log(self._run)
        except CytoloopError as error:
            self._go_alone(error)

    def _go_alone(self, error: CytoloopError) -> None:
        self._alone = True
        print(f"{error}; the work goes on without it, and tries once more at its end", file=sys.stderr)


@contextmanager
def start_run(experiment: str, run_name: str, tags: Mapping[str, str]) -> Iterator[LiveRun]:
    """Open a run; an exception inside marks it FAILED and goes on.

    Where an orchestrator has set MLFLOW_RUN_ID, ours becomes a child of that run, in its experiment.
    System metrics (processor, memory, disk, network) are sampled every 10 s, as long as the server answers.
    The tags `host` and `pid` tell whose run it is, should it ever be found RUNNING with nobody there.

    Raises:
        CytoloopError: as LiveRun.
    """
    run = LiveRun(experiment, run_name, tags)
    try:
        yield run
    except BaseException:
        run.end("FAILED")
        raise
    run.end("FINISHED")


def make_run(experiment: str, run_name: str, tags: Mapping[str, str]) -> str:
    """The id of a new, finished run with nothing in it yet; `work` among the tags, as for LiveRun."""
    run = Run(_open_run(experiment, run_name, tags))
    run.end("FINISHED")
    return run.id


def _monitor(run_id: str) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=True)
    monitor.start()
    return monitor


@persistent
def _open_run(experiment: str, run_name: str, tags: Mapping[str, str]) -> str:
    """The id of the run of this very work that is RUNNING on this host, or else of a new one."""
    from mlflow.tracking.context.registry import resolve_tags

    here = {"host": socket.gethostname(), "work": tags["work"]}
    experiment_id = open_experiment(experiment)
    with explained():
        client = open_store()
        begun = _newest(client, experiment_id, "RUNNING", here)
        if begun is not None:
            client.set_tag(begun, "pid", os.getpid())
            return begun
        parent = {PARENT_TAG: os.environ[INJECTED_RUN]} if INJECTED_RUN in os.environ else {}
        told = resolve_tags(parent | origin() | whence() | here | {"pid": str(os.getpid())} | dict(tags))
        return str(client.create_run(experiment_id, tags=told, run_name=run_name).info.run_id)


@persistent
def find_run(experiment: str, status: str = "FINISHED", **tags: str) -> str | None:
    """The id of the newest run of the experiment that has this status and all these tags."""
    with explained():
        return _newest(open_store(), open_experiment(experiment), status, tags)


def _newest(client: "MlflowClient", experiment_id: str, status: str, tags: Mapping[str, str]) -> str | None:
    conditions = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
    runs = client.search_runs(
        [experiment_id],
        " and ".join([*conditions, f"attributes.status = '{status}'"]),
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return runs[0].info.run_id if runs else None


# ------------------------------------------------------------------------------- what a run leaves behind


@dataclass(frozen=True)
class Record:
    """All that a run holds in the end, as `run.json` in the folder of the artifact that it made.

    Nothing in it depends on when or where it was, or on whether there was a server.
    """

    run_name: str
    work: str
    """The very work, by a fingerprint of what it depends on."""
    params: dict[str, Any]
    dataset: Sequence[str]
    """Name, digest, and what for."""
    metrics: Sequence[tuple[int, Line]]
    """Step, and numbers by name."""
    tags: dict[str, str]
    artifact: str
    """The name of the folder's files among those of the run."""
    leave_out: Sequence[str] = ()
    """Folders in it that stay where they are."""
    pictures: str | None = None
    """A folder in it, and a series of that name, with a picture a step: `epoch-0003.png`."""

    def write(self, folder: Path) -> None:
        """Put it into the folder."""
        write_json(folder / RUN, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Record | None":
        """The record in a folder, if it has one."""
        if not (folder / RUN).is_file():
            return None
        try:
            return cls(**read_json(folder / RUN))
        except TypeError as error:
            raise ArtifactError(f"{folder / RUN}: not a run's record of this version of cytoloop: {error}") from None


def fill(run: Run, folder: Path) -> None:
    """Log what a run has not yet of the record in a folder, and the folder itself; the tags come last."""
    record = Record.read(folder)
    if record is None:
        raise CytoloopError(f"{folder / RUN}: not found; the run cannot be logged from here")
    name, digest, context = record.dataset
    run.log_params(record.params)
    run.log_dataset(name, digest, context)
    run.log_missing_metrics(record.metrics)
    for picture in sorted((folder / record.pictures).glob("*.png")) if record.pictures else ():
        run.log_picture(picture, record.pictures or "", int(re.sub(r"\D", "", picture.stem)))
    run.log_artifacts(folder, record.artifact, record.leave_out)
    run.set_tags(record.tags)


def send(folder: Path) -> str | None:
    """The id of the finished run of an artifact; what MLflow missed of it is sent from the record in its folder.

    Returns:
        None where the folder has no record.

    Raises:
        ServerAway: what is missing is still missing; may be called again.
    """
    record = Record.read(folder)
    if record is None:
        return None
    finished = find_run(experiment_name(), **record.tags)
    if finished is not None:
        return finished
    begun = find_run(experiment_name(), "RUNNING", work=record.work)
    run = Run(begun or _open_run(experiment_name(), record.run_name, {"work": record.work}))
    fill(run, folder)
    run.end("FINISHED")
    return run.id


# ---------------------------------------------------------------------------------------- the store


def experiment_name() -> str:
    """The experiment of all runs: $MLFLOW_EXPERIMENT_NAME, or `cytoloop`."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "cytoloop")


@persistent
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
    try:
        client.create_experiment(name, artifact_location=_artifact_location())
    except quiet_mlflow().MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":  # on a server, somebody else may just have made it
            raise
    return client.get_experiment_by_name(name)


def _artifact_location() -> str | None:
    if _scheme() in ("http", "https"):
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
    path = urlsplit(quiet_mlflow().get_tracking_uri()).path
    return Path(unquote(path[1:])).absolute() if _scheme() == "sqlite" else None


def _scheme() -> str:
    """`sqlite`, `https`, ... without the driver that may stand behind it."""
    return str(urlsplit(quiet_mlflow().get_tracking_uri()).scheme).partition("+")[0]


def store_name() -> str:
    """The store's address as it may be shown: without user and password."""
    return re.sub("//[^/]*@", "//", quiet_mlflow().get_tracking_uri())


def quiet_mlflow() -> Any:
    """The module, imported on first use: no telemetry, no chatter; set any of QUIET to have it otherwise."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for chatterer in ("urllib3.connectionpool", "mlflow.system_metrics"):  # what is away is said once, by us
        logging.getLogger(chatterer).setLevel(logging.CRITICAL)
    import mlflow

    return mlflow
