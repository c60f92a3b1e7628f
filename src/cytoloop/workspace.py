"""Unfinished work: checkpoints and studies that a killed step goes on from.

They lie outside the artifacts, under `work/<step>-<fingerprint>` (or $CYTOLOOP_WORK): the fingerprint
is of everything that the result depends on, so that a changed parameter never resumes another's work.
"""

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cytoloop.errors import CytoloopError
from cytoloop.provenance import fingerprint


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


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent (dvc) is killed; Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # 1 is PR_SET_PDEATHSIG
