"""Where a search keeps its trials: in its work folder, or in a database that several processes share.

Alone, a process keeps its study in its work folder. Where $CYTOLOOP_STUDY_STORAGE names a database (an
SQLAlchemy address), all processes that search the same, by a fingerprint, share one study there: each
tries what the others have not begun, and takes over from those that died.
"""

import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cytoloop.errors import CytoloopError, ServerAway
from cytoloop.provenance import fingerprint
from cytoloop.workspace import unfinished

SHARED = "CYTOLOOP_STUDY_STORAGE"
HEARTBEAT = "CYTOLOOP_STUDY_HEARTBEAT"
DEFAULT_HEARTBEAT = 30
"""Seconds between signs of life of a process that shares a study."""
GRACE = 4
"""Heartbeats without one after which a process is taken for dead, and its trial is given to another."""
RETRIES = 3
"""How often a trial whose process died is done again; one that kills each of them is left alone."""
OPENING = 5
"""Attempts at making the tables: of several processes that begin at once, one makes them and the others fail."""


@contextmanager
def open_study(depends_on: Any, directions: Sequence[str], first: Mapping[str, Any]) -> Iterator[Any]:
    """The Optuna study of this very search; a shared one stays in its database, for whoever asks again.

    Args:
        depends_on: all that its trials' results depend on.
        directions: maximize or minimize, for each objective.
        first: what its first trial tries, by the settings' names.

    Raises:
        CytoloopError: the address of the shared study is none.
        ServerAway: its database does not answer.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a trial's error leaves as ours
    address = os.environ.get(SHARED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats, groups of settings
        if address:
            with _told(address):
                study = _shared_study(address, f"tune-{fingerprint(depends_on)[:16]}", directions)
                study.enqueue_trial(first, skip_if_exists=True)
                yield study
        else:
            with unfinished("tune", depends_on) as work:
                study = _own_study(work, directions)
                study.enqueue_trial(first, skip_if_exists=True)
                yield study


def _own_study(work: Path, directions: Sequence[str]) -> Any:
    """Trials that an earlier, killed run finished are kept; the one that it was at is done again."""
    import optuna

    study = optuna.create_study(
        storage=f"sqlite:///{work / 'study.db'}", study_name="tune", directions=directions, load_if_exists=True
    )
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        do_again(study, trial, RETRIES)
    return study


def do_again(study: Any, trial: Any, at_most: int | None = None) -> None:
    """Put a trial that came to nothing before all others that are still to be done, unless it has failed too often."""
    import optuna

    optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=at_most)(study, trial)


def retry_of(trial: Any) -> int | None:
    """The number of the trial that a stored one does again; None where it is the first to try this."""
    import optuna

    number: int | None = optuna.storages.RetryHeartbeatStaleTrialCallback.retried_trial_number(trial)
    return number


def _shared_study(address: str, name: str, directions: Sequence[str]) -> Any:
    """A study whose processes show that they live; the trial of one that died is done again."""
    import optuna

    heartbeat = _heartbeat()
    waiting = {"timeout": 60} if address.startswith("sqlite") else {"connect_timeout": 10}
    storage = _persistently(
        lambda: optuna.storages.RDBStorage(
            address,
            engine_kwargs={"pool_pre_ping": True, "connect_args": waiting},
            heartbeat_interval=heartbeat,
            grace_period=GRACE * heartbeat,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=RETRIES),
        )
    )
    try:
        return optuna.create_study(storage=storage, study_name=name, directions=directions)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(storage=storage, study_name=name)
        _await_first(study)
        return study


def _await_first(study: Any) -> None:
    """Leave its first trial to the process that made the study, unless that died; two would queue it twice."""
    for _ in range(OPENING):
        if study.get_trials(deepcopy=False):
            return
        time.sleep(1)


def _persistently(make: Callable[[], Any]) -> Any:
    from sqlalchemy.exc import DBAPIError

    for pause in (*range(1, OPENING), None):
        try:
            return make()
        except DBAPIError:
            if pause is None:
                raise
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _heartbeat() -> int:
    given = os.environ.get(HEARTBEAT) or str(DEFAULT_HEARTBEAT)
    if not given.isdecimal() or not int(given):
        raise CytoloopError(f"{HEARTBEAT}={given}: not a whole number of seconds, 1 or more")
    return int(given)


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Errors of the database leave as ours, in a line without user and password."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

    shown = re.sub("//.*@", "//", address).partition("?")[0]
    try:
        yield
    except (ArgumentError, NoSuchModuleError, ImportError):
        raise CytoloopError(
            f"{SHARED}: not an address that SQLAlchemy understands, or its driver is missing; give one such as "
            "postgresql+psycopg://user:password@host:5432/database"
        ) from None
    except (DBAPIError, StorageInternalError) as error:
        cause = error if isinstance(error, DBAPIError) else error.__cause__
        line = str(getattr(cause, "orig", None) or cause or error).strip().partition("\n")[0]
        line = re.sub(r"\S*@", "", line)  # a password with an @ in it is taken for a part of the host
        raise ServerAway(f"{SHARED}: {shown} does not answer ({line}); run this again when it does") from None
