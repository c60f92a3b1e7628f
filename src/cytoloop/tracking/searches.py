"""A search and its trials in MLflow: one run with a run a trial below it, sent when the search is over."""

import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import psutil

from cytoloop.errors import CytoloopError
from cytoloop.tracking.address import experiment_name
from cytoloop.tracking.asking import explained, persistent
from cytoloop.tracking.nested import Measured
from cytoloop.tracking.records import Record, fill
from cytoloop.tracking.runs import Run, context_tags, dated
from cytoloop.tracking.store import open_experiment, open_store, store_lock

if TYPE_CHECKING:
    from mlflow import MlflowClient

SENDING = 300
"""Seconds after which a process on another machine that has begun to send is taken for dead."""
NOTHING: Mapping[int, Measured] = MappingProxyType({})


def report_search(folder: Path, measured: Mapping[int, Measured] = NOTHING) -> None:
    """`send_search`, for a search that is over and good whatever MLflow says: what it says is told on stderr."""
    try:
        send_search(folder, measured)
    except CytoloopError as error:
        print(f"{error}; `cytoloop register --resume` sends what is missing of the search", file=sys.stderr)


def send_search(folder: Path, measured: Mapping[int, Measured] = NOTHING) -> None:
    """Send what MLflow has not yet of the search whose record is in a folder; nothing where there is no record.

    Of several processes that end the same search one sends it. What a killed one has begun is completed.

    Raises:
        ServerAway: may be called again.
        CytoloopError: MLflow refuses.
    """
    record = Record.read(folder)
    ours = None if record is None else _claim(record)
    if ours is not None:
        run = Run(ours)
        fill(run, folder, measured)
        run.end("FINISHED")


@persistent
def _claim(record: Record) -> str | None:
    """The id of the search's run, where it is ours to fill; None where it is there or another process is at it.

    A server has no locks: of two runs that were made at once the older stays, as both of their makers see.
    """
    experiment_id = open_experiment(experiment_name())
    here = {"host": socket.gethostname(), "pid": str(os.getpid())}
    with explained():
        client = open_store()
        with store_lock():
            first = _first(client, experiment_id, record.work)
            if first is None:
                told = context_tags({"work": record.work} | here)
                made = client.create_run(experiment_id, tags=told, run_name=dated(record.run_name))
                first = _first(client, experiment_id, record.work) or made
                if first.info.run_id != made.info.run_id:
                    client.delete_run(made.info.run_id)
        if first.info.status != "RUNNING" or not _is_ours(first, here):
            return None
        for name, value in here.items():
            client.set_tag(first.info.run_id, name, value)
        return str(first.info.run_id)


def _first(client: "MlflowClient", experiment_id: str, work: str) -> Any:
    order = ["attributes.start_time ASC", "attributes.run_id ASC"]
    found = client.search_runs([experiment_id], f"tags.work = '{work}'", order_by=order, max_results=1)
    return found[0] if found else None


def _is_ours(run: Any, here: Mapping[str, str]) -> bool:
    """Whether we have opened it, or whoever did is dead."""
    host, pid = run.data.tags.get("host"), run.data.tags.get("pid", "")
    if host != here["host"]:
        return bool(time.time() - run.info.start_time / 1000 > SENDING)
    return pid == here["pid"] or not (pid.isdecimal() and psutil.pid_exists(int(pid)))
