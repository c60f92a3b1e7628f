"""The workers of one training: which of them this process is, and where the others are.

TF_CONFIG says it, in the form that TensorFlow and the operators of a cluster use::

    {"cluster": {"worker": ["host-0:2222", "host-1:2222"]}, "task": {"type": "worker", "index": 0}}

The chief is the worker with index 0, or the one under `chief` where the cluster has that job. Where
TF_CONFIG is not set, or names one worker, a process is alone.
"""

import json
import os
import socket
import time
from dataclasses import dataclass
from typing import Any

from cytoloop.errors import CytoloopError

TF_CONFIG = "TF_CONFIG"
JOBS = ("chief", "worker")
EXAMPLE = '{"cluster": {"worker": ["host-0:2222", "host-1:2222"]}, "task": {"type": "worker", "index": 0}}'
PATIENCE = 600.0
"""Seconds for which workers wait for each other at the start: a cluster may still be fetching images."""


@dataclass(frozen=True)
class Place:
    """A process among the workers of one training."""

    addresses: tuple[str, ...] = ()
    """host:port of each worker, the chief's first; none when the process is alone."""
    index: int = 0

    @property
    def workers(self) -> int:
        return max(len(self.addresses), 1)

    @property
    def is_chief(self) -> bool:
        """Whether it is this process that writes."""
        return self.index == 0


ALONE = Place()


def place() -> Place:
    """The place that TF_CONFIG gives this process.

    Raises:
        CytoloopError: TF_CONFIG is not of the form above, or has other jobs (parameter servers, evaluators).
    """
    text = os.environ.get(TF_CONFIG, "")
    if not text:
        return ALONE
    try:
        told = json.loads(text)
        cluster, task = told.get("cluster", {}), told.get("task", {})
        found = _place(cluster, task) if cluster else ALONE
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CytoloopError(f"{TF_CONFIG}={text}: {error}; it must be like {EXAMPLE}") from None
    return found if found.workers > 1 else ALONE


def _place(cluster: dict[str, list[str]], task: dict[str, Any]) -> Place:
    strangers = sorted(set(cluster) - set(JOBS))
    if strangers:
        raise ValueError(f"cluster.{strangers[0]}: no such job here; allowed: {', '.join(JOBS)}")
    tasks = [(job, index) for job in JOBS for index in range(len(cluster.get(job, ())))]
    own = (task["type"], int(task["index"]))
    if own not in tasks:
        raise ValueError(f"task {own[0]} {own[1]} is not in its cluster")
    addresses = tuple(cluster[job][index] for job, index in tasks)
    for address in addresses:
        _host_and_port(address)
    return Place(addresses, tasks.index(own))


def meet(place: Place, patience: float = PATIENCE) -> None:
    """Wait until every worker is there: its address takes connections.

    TensorFlow's own waiting has no end that anybody would wait for, and cannot be interrupted.

    Args:
        place: of this process.
        patience: seconds.

    Raises:
        CytoloopError: a worker has not come, or this one's port is taken.
    """
    own, deadline = place.addresses[place.index], time.monotonic() + patience
    try:
        door = socket.create_server(("", _host_and_port(own)[1]))
    except OSError as error:
        raise CytoloopError(f"{TF_CONFIG}: {own}: this worker cannot listen there: {error}") from None
    with door:
        missing = [address for address in place.addresses if address != own]
        while missing := [address for address in missing if not _answers(address)]:
            if time.monotonic() > deadline:
                raise CytoloopError(
                    f"worker {place.index} waited {patience:g} s in vain for {', '.join(missing)}; start all "
                    f"{place.workers} workers of {TF_CONFIG}, each with its own task, and let them reach each other"
                )
            time.sleep(0.1)


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise ValueError(f"{address!r} is not host:port")
    return host, int(port)


def _answers(address: str) -> bool:
    try:
        socket.create_connection(_host_and_port(address), timeout=2).close()
    except OSError:
        return False
    return True
