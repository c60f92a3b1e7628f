"""Runs: opened, found, logged to; what a run has already is not logged again."""

import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cytoloop.errors import CytoloopError, ServerAway
from cytoloop.provenance import origin, whence
from cytoloop.tracking.asking import explained, persistent
from cytoloop.tracking.store import INJECTED_RUN, open_experiment, open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

Line = Mapping[str, float]

NOTE_TAG = "mlflow.note.content"
PARENT_TAG = "mlflow.parentRunId"
BATCH = 100  # params, tags or metrics that a server takes at once
DIGEST_LENGTH = 36  # of a dataset's digest, as long as MLflow allows


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

    def describe(self, markdown: str) -> None:
        """Say in a few lines what the run is; MLflow shows it as the description."""
        self.set_tags({NOTE_TAG: markdown})

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
        end_run(self.id, status)


def end_run(run_id: str, status: str) -> None:
    """Mark a run FINISHED or FAILED, asking once."""
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


def make_run(experiment: str, run_name: str, tags: Mapping[str, str]) -> str:
    """The id of a new, finished run with nothing in it yet; `work` among the tags, as for LiveRun."""
    run = Run(open_run(experiment, run_name, tags))
    run.end("FINISHED")
    return run.id


@persistent
def open_run(experiment: str, run_name: str, tags: Mapping[str, str]) -> str:
    """The id of the run of this very work that is RUNNING on this host, or of a new one, its name with the date."""
    here = {"host": socket.gethostname(), "work": tags["work"]}
    experiment_id = open_experiment(experiment)
    with explained():
        client = open_store()
        begun = _newest(client, experiment_id, "RUNNING", here)
        if begun is not None:
            client.set_tag(begun, "pid", os.getpid())
            return begun
        told = context_tags(here | {"pid": str(os.getpid())} | dict(tags))
        return str(client.create_run(experiment_id, tags=told, run_name=dated(run_name)).info.run_id)


def context_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of a new run: these, who runs what, where it comes from, and the orchestrator's run above it."""
    from mlflow.tracking.context.registry import resolve_tags

    parent = {PARENT_TAG: os.environ[INJECTED_RUN]} if INJECTED_RUN in os.environ else {}
    return dict(resolve_tags(parent | origin() | whence() | dict(tags)))


def dated(name: str) -> str:
    """The name with the minute, UTC."""
    return f"{name} {datetime.now(UTC):%Y-%m-%d %H:%M}"


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
