"""Processes that share a list of work."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from cytoloop.errors import CytoloopError

Given = TypeVar("Given")
Made = TypeVar("Made")

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container: microseconds of processor in a period, or max


def shared(function: Callable[[Given], Made], items: Sequence[Given]) -> Generator[Made, None, None]:
    """`map` in as many processes as there are processors; the order is kept.

    Each process has its own copy of `function`, which may keep what it makes. The processes end at
    once when the iterator is closed (by an error, by Ctrl-C) and when this process is gone, even by
    kill -9. Where one process is enough, it is this one.

    Args:
        function: can be pickled; so can what it is given and what it makes.
        items: what it is given.

    Raises:
        CytoloopError: a process was killed from outside; and whatever `function` raises.
    """
    processes = min(processors(), len(items))
    if processes < 2:
        yield from map(function, items)
        return
    context = multiprocessing.get_context("spawn")  # fork would copy locks that our threads hold
    theirs, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(processes, context, _begin, (function, theirs))
    try:
        with _interrupts_later():
            made = deque(pool.submit(_work, item) for item in items)
        while made:  # not pool.map, which cancels what it leaves: a pool that breaks then loses its processes
            yield made.popleft().result()
        pool.shutdown()
    except BrokenProcessPool:
        raise CytoloopError(
            "a working process was killed (out of memory?); run it again: what is finished is kept"
        ) from None
    finally:
        ours.close()
        pool.shutdown(cancel_futures=True)
        theirs.close()


@contextlib.contextmanager
def _interrupts_later() -> Iterator[None]:
    """Processes begun here never see Ctrl-C; this one sees it when they have begun, and ends them."""
    pressed: list[int] = []
    in_charge = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _: pressed.append(number)) if in_charge else None
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which processes inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if in_charge:
            signal.signal(signal.SIGINT, handler)
    if pressed:
        raise KeyboardInterrupt


def processors() -> int:
    """The processors that this process may use, by its affinity and by its container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, period = QUOTA.read_text("utf-8").split() if QUOTA.is_file() else ("max", "1")
    return count if quota == "max" else max(1, min(count, int(quota) // int(period)))


_own: list[Callable[[Any], Any]] = []  # the function of this working process


def _begin(function: Callable[[Any], Any], parent: Connection) -> None:
    """Make this process one that works: with one thread, and gone when its parent lets go."""
    from cytoloop.threads import keep_to_one

    keep_to_one()
    _own.append(function)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Connection) -> None:
    parent.poll(None)  # nothing is ever sent: it returns when the other end is closed
    os._exit(1)


def _work(item: Any) -> Any:
    return _own[0](item)
