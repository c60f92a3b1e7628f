"""A run of work that goes on: MLflow may be away, and never stops it."""

import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cytoloop.errors import CytoloopError, ServerAway
from cytoloop.tracking.records import fill
from cytoloop.tracking.runs import Line, Run, end_run, open_run
from cytoloop.tracking.searches import send_search


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

    def send_search(self, folder: Path) -> None:
        """Send what MLflow missed of the search whose record is in a folder, if there is one."""
        self._try(lambda _: send_search(folder))

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
            end_run(self._run.id, status)
        except CytoloopError as error:
            print(f"{error}; the run stays RUNNING until `cytoloop register`", file=sys.stderr)

    def _open(self) -> Run:
        if self._run is None:
            self._run = Run(open_run(*self._opening))
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


def _monitor(run_id: str) -> Any:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitor = SystemMetricsMonitor(run_id, resume_logging=True)
    monitor.start()
    return monitor
