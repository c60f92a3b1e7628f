"""Asking a store that may be away, and telling what it answers in words that name it."""

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, repeat
from typing import ParamSpec, TypeVar

from cytoloop.errors import CytoloopError, ServerAway
from cytoloop.tracking.address import quiet_mlflow, scheme, store_name

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

PATIENCE = "CYTOLOOP_TRACKING_PATIENCE"
DEFAULT_PATIENCE = 90.0
"""Seconds for which a server that is away is asked again: a minute's restart, and some more."""
LIBRARIES = frozenset({"mlflow", "requests", "urllib3", "boto3", "botocore", "sqlalchemy", "psycopg"})
"""Whose exceptions leave as ours: MLflow's, and those of what it talks through."""


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


GONE = "404 Client Error"
"""MLflow calls every failed download its own trouble (500), of a file that is gone too."""
HIDDEN = "please ensure that the path is correct"
"""... but of a run's file it hides why it failed (404), which is asked for only where it was listed."""


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
    if scheme() in ("", "file", "sqlite"):
        return False
    if GONE in str(error):
        return False
    if HIDDEN in str(error):
        return True
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
