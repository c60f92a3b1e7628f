"""Runs in MLflow, which is found through the environment alone.

MLFLOW_TRACKING_URI says where it is; without it MLflow's own default holds, the database `mlflow.db`
in the working folder. What a run stores in files lies in `mlartifacts/` beside such a database (the
database remembers the absolute path: move both and old files are no longer found), or where a
tracking server keeps it.

A server may be away. What is asked of it is asked again for a while (`persistent`); then the work goes
on without it (`LiveRun`), and what the server missed is sent later, from the record that every trained
artifact carries (`Record`, `send`).
"""

from cytoloop.tracking.address import experiment_name, quiet_mlflow, sqlite_file, store_name
from cytoloop.tracking.asking import explained, persistent
from cytoloop.tracking.live import LiveRun, start_run
from cytoloop.tracking.nested import Measured, Nested
from cytoloop.tracking.records import Record, send
from cytoloop.tracking.runs import Facts, Run, find_run, make_run
from cytoloop.tracking.searches import report_search, send_search
from cytoloop.tracking.store import INJECTED_RUN, named_experiment, open_experiment, open_store, store_lock

__all__ = [
    "INJECTED_RUN",
    "Facts",
    "LiveRun",
    "Measured",
    "Nested",
    "Record",
    "Run",
    "experiment_name",
    "explained",
    "find_run",
    "make_run",
    "named_experiment",
    "open_experiment",
    "open_store",
    "persistent",
    "quiet_mlflow",
    "report_search",
    "send",
    "send_search",
    "sqlite_file",
    "start_run",
    "store_lock",
    "store_name",
]
