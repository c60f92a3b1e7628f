"""Unfinished work: checkpoints and studies that a killed step goes on from.

They lie outside the artifacts, under `work/<step>-<fingerprint>` (or $CYTOLOOP_WORK): the fingerprint
is of everything that the result depends on, so that a changed parameter never resumes another's work.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from cytoloop.errors import CytoloopError
from cytoloop.provenance import fingerprint

SHELLS = frozenset({"sh", "dash", "bash", "zsh", "ksh", "fish", "cmd.exe"})


@contextlib.contextmanager
def unfinished(step: str, depends_on: Any) -> Iterator[Path]:
    """The folder of this very work, locked; removed when the work is finished without an error.

    Raises:
        CytoloopError: another process is at the same work.
    """
    root = Path(os.environ.get("CYTOLOOP_WORK", "work"))
    folder = root / f"{step}-{fingerprint(depends_on)[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    lock_path = folder.with_name(folder.name + ".lock")
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CytoloopError(f"{folder}: another process is doing this very work; wait for it or stop it") from None
        yield folder
        shutil.rmtree(folder)
        lock_path.unlink()


def end_with_dvc() -> None:
    """When dvc started this process, end it as soon as dvc is gone: a killed run leaves no orphan.

    dvc puts a shell between, and a shell outlives dvc; so the nearest ancestor that is no shell is
    watched, by a thread, twice a second.
    """
    if "DVC_STAGE" not in os.environ:
        return
    dvc = next((p for p in psutil.Process().parents() if p.name() not in SHELLS), None)

    def watch() -> None:
        while dvc is not None and dvc.is_running() and dvc.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end with dvc", daemon=True).start()
