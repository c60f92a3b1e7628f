"""Many small runs below one, such as the trials of a search: sent when all is over, each of them once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cytoloop.tracking.asking import explained, persistent
from cytoloop.tracking.runs import PARENT_TAG, Line, Run
from cytoloop.tracking.store import open_store

NUMBER = "number"
"""The tag that tells which of its parent's runs it is."""
PAGE = 1000  # runs that a server tells at once


@dataclass(frozen=True)
class Nested:
    """A run below another."""

    number: int
    """Which of its parent's it is."""
    name: str
    status: str
    """FINISHED, KILLED or FAILED."""
    params: Mapping[str, Any]
    metrics: Sequence[tuple[int, Line]]
    """Step, and numbers by name; 900 numbers in all, at most."""
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Measured:
    """What a clock said of such a run: it is in no file, since no two clocks agree."""

    began: int
    """Milliseconds since 1970."""
    ended: int
    metrics: Line = field(default_factory=dict)


def send_nested(parent: Run, runs: Sequence[Nested], measured: Mapping[int, Measured]) -> None:
    """Send those runs that the parent has not yet, and complete those that were begun.

    Args:
        parent: is there already.
        runs: in the order in which they are to appear.
        measured: by their numbers, as far as it is known.
    """
    if not runs:
        return
    known = {int(run.data.tags[NUMBER]): run.info.status for run in _below(parent.id)}
    for nested in runs:
        if known.get(nested.number) != nested.status:
            _send(parent.id, nested, measured.get(nested.number))


@persistent
def _below(parent_id: str, and_that: str = "") -> list[Any]:
    """The runs below a run."""
    with explained():
        client = open_store()
        asked: dict[str, Any] = {
            "experiment_ids": [client.get_run(parent_id).info.experiment_id],
            "filter_string": f"tags.`{PARENT_TAG}` = '{parent_id}'{and_that}",
            "max_results": PAGE,
        }
        page = client.search_runs(**asked)
        found = list(page)
        while page.token:
            page = client.search_runs(**asked, page_token=page.token)
            found += page
    return found


@persistent
def _send(parent_id: str, nested: Nested, measured: Measured | None) -> None:
    """All its numbers have the time of its beginning: the store knows by it what it has, when it is told twice."""
    from mlflow.entities import Metric, Param

    begun = _below(parent_id, f" and tags.`{NUMBER}` = '{nested.number}'")
    run = begun[0] if begun else _open(parent_id, nested, measured)
    last = max((step for step, _ in nested.metrics), default=0)
    lines = [*nested.metrics, *([(last, measured.metrics)] if measured else [])]
    metrics = [
        Metric(name, float(value), run.info.start_time, step) for step, line in lines for name, value in line.items()
    ]
    params = [Param(name, str(value)) for name, value in nested.params.items()]
    with explained():
        client = open_store()
        client.log_batch(run.info.run_id, metrics=metrics, params=params)
        client.set_terminated(run.info.run_id, nested.status, measured.ended if measured else None)


def _open(parent_id: str, nested: Nested, measured: Measured | None) -> Any:
    with explained():
        client = open_store()
        parent = client.get_run(parent_id)
        inherited = {name: value for name, value in parent.data.tags.items() if name in ("mlflow.user", "data_hash")}
        told = {**inherited, PARENT_TAG: parent_id, NUMBER: str(nested.number), **nested.tags}
        began = measured.began if measured else None
        return client.create_run(parent.info.experiment_id, began, told, nested.name)
