"""What a run leaves behind, in the folder of what it made; from it MLflow is told what it missed."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cytoloop.artifacts import RUN, read_json, write_json
from cytoloop.errors import ArtifactError, CytoloopError
from cytoloop.tracking.address import experiment_name
from cytoloop.tracking.nested import Measured, Nested, send_nested
from cytoloop.tracking.runs import Line, Run, find_run, open_run


@dataclass(frozen=True)
class Record:
    """All that a run holds in the end, as `run.json` in the folder of the artifact that it made.

    Nothing in it depends on when or where it was, or on whether there was a server.
    """

    run_name: str
    work: str
    """The very work, by a fingerprint of what it depends on."""
    params: dict[str, Any]
    dataset: Sequence[str]
    """Name, digest, and what for."""
    metrics: Sequence[tuple[int, Line]]
    """Step, and numbers by name."""
    tags: dict[str, str]
    artifact: str
    """The name of the folder's files among those of the run."""
    leave_out: Sequence[str] = ()
    """Folders in it that stay where they are."""
    pictures: str | None = None
    """A folder in it, and a series of that name, with a picture a step: `epoch-0003.png`."""
    note: str = ""
    """What it is, in a few lines of Markdown."""
    nested: Sequence[Nested] = ()
    """The runs below it."""

    def write(self, folder: Path) -> None:
        """Put it into the folder."""
        write_json(folder / RUN, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "Record | None":
        """The record in a folder, if it has one."""
        if not (folder / RUN).is_file():
            return None
        try:
            told = read_json(folder / RUN)
            return cls(**{**told, "nested": [Nested(**one) for one in told.get("nested", ())]})
        except TypeError as error:
            raise ArtifactError(f"{folder / RUN}: not a run's record of this version of cytoloop: {error}") from None


def fill(run: Run, folder: Path, measured: Mapping[int, Measured] | None = None) -> None:
    """Log what a run has not yet of the record in a folder, and the folder itself; the tags come last.

    Args:
        run: going on or finished.
        folder: with a record.
        measured: what is known beside the record of the runs below it, by their numbers.
    """
    record = Record.read(folder)
    if record is None:
        raise CytoloopError(f"{folder / RUN}: not found; the run cannot be logged from here")
    name, digest, context = record.dataset
    run.log_params(record.params)
    run.log_dataset(name, digest, context)
    run.log_missing_metrics(record.metrics)
    for picture in sorted((folder / record.pictures).glob("*.png")) if record.pictures else ():
        run.log_picture(picture, record.pictures or "", int(re.sub(r"\D", "", picture.stem)))
    run.log_artifacts(folder, record.artifact, record.leave_out)
    send_nested(run, record.nested, measured or {})
    if record.note:
        run.describe(record.note)
    run.set_tags(record.tags)


def send(folder: Path) -> str | None:
    """The id of the finished run of an artifact; what MLflow missed of it is sent from the record in its folder.

    Returns:
        None where the folder has no record.

    Raises:
        ServerAway: what is missing is still missing; may be called again.
    """
    record = Record.read(folder)
    if record is None:
        return None
    finished = find_run(experiment_name(), **record.tags)
    if finished is not None:
        return finished
    begun = find_run(experiment_name(), "RUNNING", work=record.work)
    run = Run(begun or open_run(experiment_name(), record.run_name, {"work": record.work}))
    fill(run, folder)
    run.end("FINISHED")
    return run.id
