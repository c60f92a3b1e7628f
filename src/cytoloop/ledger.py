"""The ledger of a registered model: every act on its versions, each bound to those before it by their hashes.

An act is one small JSON file among the artifacts of a run of its own (experiment `cytoloop-ledger`, tag
`ledger`: the model's name). The file's name holds the act's number and the SHA-256 of its bytes, and in it
stand the hashes of the acts that it follows: no act can be changed or taken away without the next one
contradicting it. The hash of the last act is also a tag of the registered model, so that a cut-off end is seen.

On an SQLite file the store's lock makes it a plain chain. On a server two acts at the same moment both stand
after the same one: such a fork is told by `verify`, and joined by the next act, which follows both.
"""

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cytoloop.errors import CytoloopError
from cytoloop.gate import KEEP, PROMOTE, REFUSE
from cytoloop.provenance import SHOWN
from cytoloop.tracking import explained, named_experiment, open_store, persistent, store_lock, store_name

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT = "cytoloop-ledger"
TAG = "ledger"
HEAD_TAG = "ledger_head"
FOLDER = "acts"
ACTOR = "CYTOLOOP_ACTOR"
PIPELINE = "cytoloop register"

REGISTER, ROLLBACK, ARCHIVE, UNARCHIVE = "register", "rollback", "archive", "unarchive"
MOVES = (PROMOTE, ROLLBACK)
"""Acts that let a version reign; their details have `alias`, and `before`: who reigned until then, or null."""
GATE = (PROMOTE, KEEP, REFUSE)
"""What the gate decides of a candidate."""
BY_HAND = "by_hand"
"""In the details of an act: a person did it, not the gate."""


@dataclass(frozen=True)
class Act:
    """What was done to a version, by whom and why."""

    what: str
    """register, promote, keep, refuse, rollback, archive or unarchive."""
    version: str
    why: str
    actor: str
    details: dict[str, Any] = field(default_factory=dict)
    """Whatever else belongs to it, as plain JSON; NaN is none."""


@dataclass(frozen=True)
class Entry:
    """An act as it stands in the ledger. Of one whose file cannot be read, only the hash is known."""

    sha256: str
    """Of the text, by the file's name."""
    text: str
    """The file's content, JSON."""

    @cached_property
    def _told(self) -> dict[str, Any]:
        nothing: dict[str, Any] = {"number": 0, "when": "-", "previous": [], "name": "-"}
        nothing |= {"what": "unreadable", "version": "-", "why": "-", "actor": "-", "details": {}}
        try:
            told = dict(json.loads(self.text))
        except (ValueError, TypeError):
            return nothing
        shapes = {"number": int, "previous": list, "details": dict}
        return nothing | told if all(isinstance(told.get(key), shape) for key, shape in shapes.items()) else nothing

    @property
    def number(self) -> int:
        """From 1; the same number stands twice where two were written at once."""
        return int(self._told["number"])

    @property
    def when(self) -> str:
        """UTC, ISO 8601, as the writer's clock said."""
        return str(self._told["when"])

    @property
    def previous(self) -> tuple[str, ...]:
        """The hashes of the acts that it follows: one, none at the beginning, several where a fork is joined."""
        return tuple(map(str, self._told["previous"]))

    @property
    def name(self) -> str:
        """Of the registered model."""
        return str(self._told["name"])

    @cached_property
    def act(self) -> Act:
        """What was done."""
        what, version, why, actor = (str(self._told[key]) for key in ("what", "version", "why", "actor"))
        return Act(what, version, why, actor, self._told["details"])

    @property
    def sound(self) -> bool:
        """Whether the text is still that of the hash."""
        return hashlib.sha256(self.text.encode()).hexdigest() == self.sha256

    @property
    def label(self) -> str:
        """Number and hash, for people."""
        return f"act {self.number} ({self.sha256[:SHOWN]})"


# ---------------------------------------------------------------------------------------- reading and writing


@dataclass(frozen=True)
class Book:
    """The ledger of one model in an open store. Whoever appends holds the store's lock."""

    client: "MlflowClient"
    name: str

    def entries(self) -> list[Entry]:
        """All acts, the oldest first.

        Raises:
            CytoloopError: they cannot be read, or none is there though the model's tag names one.
        """
        with _spoken(self.name, "read"), tempfile.TemporaryDirectory() as scratch:
            files = [file for run_id in self._runs() for file in self._fetch(run_id, Path(scratch) / run_id)]
            found = {entry.sha256: entry for entry in map(_entry, files)}
        head = self.head()
        if head and not found:
            raise CytoloopError(
                f"the ledger of {self.name} is out of reach: {store_name()} knows of a last act {head[:SHOWN]}, but "
                "finds none; bring its artifacts back. Are they lost for good, remove the registered model's tag "
                f"{HEAD_TAG}, and it begins anew"
            )
        return sorted(found.values(), key=lambda entry: (entry.number, entry.when, entry.sha256))

    def head(self) -> str | None:
        """The hash of the last act, by the model's tag."""
        tags: dict[str, str] = self.client.get_registered_model(self.name).tags
        return tags.get(HEAD_TAG)

    def append(self, act: Act) -> Entry:
        """Write an act behind the last; nothing where it stands there already.

        Raises:
            CytoloopError: the ledger cannot be read or written.
        """
        head, entries = self.head(), self.entries()  # in this order: the act that the tag names is there by then
        act = replace(act, details=json.loads(json.dumps(act.details, allow_nan=False)))
        known = _said(entries, act)
        entry = known or self._write(act, entries, head)
        last = tips(entries)[-1] if known else entry
        self.client.set_registered_model_tag(self.name, HEAD_TAG, last.sha256)
        return entry

    def _write(self, act: Act, entries: Sequence[Entry], head: str | None) -> Entry:
        previous = [entry.sha256 for entry in tips(entries)]
        if head and head not in {entry.sha256 for entry in entries}:
            previous.append(head)  # it is gone, and that stays visible
        number = max((entry.number for entry in entries), default=0) + 1
        when = datetime.now(UTC).isoformat(timespec="seconds")
        text = _canonical({"number": number, "when": when, "previous": previous, "name": self.name, **asdict(act)})
        entry = Entry(hashlib.sha256(text.encode()).hexdigest(), text)
        with _spoken(self.name, "written"), tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / f"{number:06d}-{entry.sha256}.json"
            file.write_text(text, "utf-8")
            self.client.log_artifact(self._run(), str(file), FOLDER)
        return entry

    def _run(self) -> str:
        """The run that keeps the acts, made where there is none."""
        runs = self._runs()
        if runs:
            return runs[0]
        experiment_id = self.client.get_experiment_by_name(EXPERIMENT).experiment_id
        run = self.client.create_run(experiment_id, tags={TAG: self.name}, run_name=f"ledger of {self.name}")
        self.client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    def _runs(self) -> list[str]:
        """Of the first act's run, and of another that somebody made at the same moment on a server."""
        experiment = self.client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return []
        condition, order = f"tags.{TAG} = '{self.name}'", ["attributes.start_time ASC"]
        runs = self.client.search_runs([experiment.experiment_id], condition, order_by=order)
        return [run.info.run_id for run in runs]

    def _fetch(self, run_id: str, folder: Path) -> list[Path]:
        if FOLDER not in {found.path for found in self.client.list_artifacts(run_id)}:
            return []
        folder.mkdir()
        return sorted(Path(self.client.download_artifacts(run_id, FOLDER, str(folder))).glob("*.json"))


@contextmanager
def _spoken(name: str, what: str) -> Iterator[None]:
    """A file system's refusals in words that name the ledger."""
    try:
        yield
    except OSError as error:
        if type(error).__module__ != "builtins":  # those of requests are OSErrors too, and `explained` knows them
            raise
        raise CytoloopError(f"the ledger of {name} in {store_name()} cannot be {what}: {error}") from error


def _entry(file: Path) -> Entry:
    return Entry(file.stem.partition("-")[2], file.read_text("utf-8", errors="replace"))


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _said(entries: Sequence[Entry], act: Act) -> Entry | None:
    """The entry that says the very same and still holds: its writer was interrupted, or its answer was lost."""
    if act.what in MOVES:
        valid = last_moves(entries, act.details["alias"])
    elif act.what == REGISTER:
        valid = list(entries)
    else:
        valid = [entry for entry in entries if entry.act.version == act.version][-1:]
    return next((entry for entry in valid if entry.act == act), None)


def open_book(name: str) -> Book:
    """The ledger of a model, to be written to; not within the store's lock."""
    named_experiment(EXPERIMENT)
    return Book(open_store(), name)


@persistent
def append(name: str, act: Act) -> Entry:
    """Write an act into the ledger of a registered model.

    What stands there already, and still holds, is not written again: an interrupted act may be repeated.

    Raises:
        CytoloopError: there is no such model, or the ledger cannot be read or written.
        ServerAway: MLflow does not answer.
    """
    with explained():
        book = open_book(name)
        with store_lock():
            return book.append(act)


@persistent
def read(name: str) -> list[Entry]:
    """All acts of a registered model, the oldest first; none where nothing was done yet. Raises as `append`."""
    with explained():
        return Book(open_store(), name).entries()


@persistent
def read_with_head(name: str) -> tuple[list[Entry], str]:
    """All acts at one moment, and the hash of the last by the registered model's tag; empty where it has none."""
    with explained():
        book = Book(open_store(), name)
        with store_lock():
            head = book.head() or ""
            return book.entries(), head


def to_jsonl(entries: Sequence[Entry]) -> str:
    """A line an act: what is hashed, and `sha256`."""
    return "".join(_canonical({**entry._told, "sha256": entry.sha256}) + "\n" for entry in entries)


# ---------------------------------------------------------------------------------------------- who acts


def person(given: str | None) -> str:
    """Who acts by hand: as given, else $CYTOLOOP_ACTOR, else git's user.email.

    Raises:
        CytoloopError: nobody says.
    """
    who = (given or os.environ.get(ACTOR) or _git_email()).strip()
    if not who:
        raise CytoloopError(f"who does it? Give --actor, or set {ACTOR}, or git's user.email")
    return who


def pipeline() -> str:
    """Who acts in a pipeline: $CYTOLOOP_ACTOR, else `cytoloop register`."""
    return os.environ.get(ACTOR, "").strip() or PIPELINE


def _git_email() -> str:
    try:
        return subprocess.run(["git", "config", "user.email"], capture_output=True, text=True).stdout
    except OSError:
        return ""


# ---------------------------------------------------------------------------------------- what it proves


def tips(entries: Sequence[Entry]) -> list[Entry]:
    """The acts that no other follows: one, or several after a fork."""
    followed = {sha256 for entry in entries for sha256 in entry.previous}
    return [entry for entry in entries if entry.sha256 not in followed]


def verify(entries: Sequence[Entry], head: str | None = None) -> list[str]:
    """What is wrong with a ledger, for people; nothing where it is whole.

    Args:
        entries: all of them, in order.
        head: the hash of the last act by the registered model's tag, empty where it has none; null: not compared.
    """
    complaints = [f"{entry.label} was changed: its content has another hash" for entry in entries if not entry.sound]
    complaints += [complaint for i in range(len(entries)) for complaint in _misplaced(entries, i)]
    names = sorted({entry.name for entry in entries if entry.sound})
    if len(names) > 1:
        complaints.append(f"acts of several models stand in it: {', '.join(names)}")
    ends = tips(entries)
    if len(ends) > 1:
        both = " and ".join(entry.label for entry in ends)
        complaints.append(f"{both} both end it: two wrote at once, or one was inserted; the next act joins them")
    return complaints + ([] if head is None else _ends(entries, ends, head))


def _misplaced(entries: Sequence[Entry], i: int) -> Iterator[str]:
    """How an act contradicts those before it."""
    entry = entries[i]
    before, after = ({one.sha256: one for one in some} for some in (entries[:i], entries[i:]))
    for sha256 in entry.previous:
        if sha256 not in before:
            where = "stands behind it" if sha256 in after else "is gone"
            yield f"{entry.label} follows {sha256[:SHOWN]}, which {where}"
    if entry.sound and set(entry.previous) <= before.keys():
        expected = max((before[sha256].number for sha256 in entry.previous), default=0) + 1
        if entry.number != expected:
            yield f"{entry.label} should have the number {expected}: there is a gap, or its number was forged"


def _ends(entries: Sequence[Entry], ends: Sequence[Entry], head: str) -> list[str]:
    """How the end is not where the model's tag says."""
    if not head:
        return [f"the model's tag {HEAD_TAG}, which names the last act, is gone"] if entries else []
    if head not in {entry.sha256 for entry in entries}:
        return [f"its end was cut off: the model's tag {HEAD_TAG} names {head[:SHOWN]}, which is gone"]
    if head not in {entry.sha256 for entry in ends}:
        later = ", ".join(entry.label for entry in ends)
        return [
            f"{later} came after the one that the tag {HEAD_TAG} names: a writer was killed or overtaken, or it was "
            "inserted"
        ]
    return []


# --------------------------------------------------------------------------------------------- who reigned


def last_moves(entries: Sequence[Entry], alias: str) -> list[Entry]:
    """The act that gave an alias to who holds it; several where two gave it at once, on a server."""
    superseded: set[str] = set()
    found = []
    for entry in reversed(entries):
        moves = _moves(entry, alias)
        if moves and entry.sha256 not in superseded:
            found.append(entry)
        if moves or entry.sha256 in superseded:
            superseded |= set(entry.previous)
    return found


def reigns(entries: Sequence[Entry], alias: str, holder: str) -> list[str]:
    """Who reigned before the holder of an alias, and the holder; versions that were rolled back are not among them."""
    moves = [entry for entry in entries if _moves(entry, alias)]
    crowned = [i for i, entry in enumerate(moves) if entry.act.version == holder]
    line: list[str] = []
    for entry in moves[: crowned[-1] + 1] if crowned else moves:
        line = _back_to(entry.act.details.get("before"), line)
        line = [*line, entry.act.version] if entry.act.what == PROMOTE else _back_to(entry.act.version, line)
    return _back_to(holder, line)


def _back_to(version: str | None, line: list[str]) -> list[str]:
    """The line up to its last reign of a version; longer by it where it never reigned."""
    if version is None:
        return line
    return line[: len(line) - line[::-1].index(version)] if version in line else [*line, version]


def _moves(entry: Entry, alias: str) -> bool:
    return entry.act.what in MOVES and entry.act.details.get("alias") == alias


# ----------------------------------------------------------------------------------------- what was decided


def gate_entry(acts: Sequence[Entry]) -> Entry | None:
    """The gate's last decision among the acts on one version."""
    decided = [entry for entry in acts if entry.act.what in GATE and not entry.act.details.get(BY_HAND)]
    return decided[-1] if decided else None
