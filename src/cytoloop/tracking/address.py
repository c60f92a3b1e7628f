"""Which store is meant: the environment says it; and MLflow itself, kept quiet."""

import logging
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

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


def sqlite_file() -> Path | None:
    """The database, absolute, where the store is an SQLite file."""
    path = urlsplit(quiet_mlflow().get_tracking_uri()).path
    return Path(unquote(path[1:])).absolute() if scheme() == "sqlite" else None


def scheme() -> str:
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


def experiment_name() -> str:
    """The experiment of all runs: $MLFLOW_EXPERIMENT_NAME, or `cytoloop`."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", "cytoloop")
