"""What people do with the versions of a registered model, each with a reason and in the ledger; and the audit of it.

A version reigns by the gate, by `promote` or by `rollback`. Who reigned before whom is told by the ledger alone,
whatever the alias was moved to elsewhere.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cytoloop import ledger, registry
from cytoloop.errors import CytoloopError
from cytoloop.gate import PROMOTE
from cytoloop.ledger import (
    ARCHIVE,
    BY_HAND,
    MOVES,
    REGISTER,
    ROLLBACK,
    UNARCHIVE,
    Act,
    Entry,
    last_moves,
    reigns,
)
from cytoloop.provenance import SHOWN
from cytoloop.registry import ARCHIVED, Version
from cytoloop.tables import table


@dataclass(frozen=True)
class Hand:
    """Somebody who acts on a registered model."""

    name: str
    """Of the model."""
    alias: str
    """Of the version that reigns."""
    why: str
    actor: str

    def __post_init__(self) -> None:
        if not self.why:
            raise CytoloopError("--reason: say why, for those who will ask")

    @property
    def entries(self) -> list[Entry]:
        """The ledger."""
        return ledger.read(self.name)


def promote(hand: Hand, version: Version) -> str:
    """Let a version reign, whatever the gate decided of it; returns what was done.

    Raises:
        ModelError: it is archived.
        CytoloopError: it reigns already, or somebody else was faster.
    """
    entries, holder = hand.entries, registry.current(hand.name, hand.alias)
    by_act = {entry.act.version for entry in last_moves(entries, hand.alias)}
    if holder and holder.version == version.version and version.version in by_act:
        raise CytoloopError(f"{version.uri} reigns already, as {hand.alias}")
    details = {"gate": gate_decision(version, entries)}
    return _let_reign(hand, holder, version, Act(PROMOTE, version.version, hand.why, hand.actor, details))


def rollback(hand: Hand, to: str | None = None) -> str:
    """Let that version reign again which reigned before, by the ledger; returns what was done.

    Args:
        hand: who does it and why.
        to: a version that reigned at any time, instead.

    Raises:
        ModelError: that version is archived, or is gone.
        CytoloopError: nobody reigns now or reigned before, or somebody else was faster.
    """
    entries, holder = hand.entries, registry.current(hand.name, hand.alias)
    if holder is None:
        raise CytoloopError(f"no version of {hand.name} is {hand.alias}; `cytoloop models promote` makes one")
    before = reigns(entries, hand.alias, holder.version)[:-1]
    target = to or (before[-1] if before else None)
    known = _ever(entries, hand.alias) - {holder.version}
    if target is None or target not in known:
        state = "reigns now" if to == holder.version else "never reigned"
        who = f"version {to} {state}" if to else f"nobody reigned before version {holder.version}"
        allowed = f"--to one of {', '.join(sorted(known, key=_by_number))}, or " if known else ""
        raise CytoloopError(
            f"{hand.name}: by the ledger, {who}; allowed: {allowed}`cytoloop models promote VERSION --reason ...`"
        )
    version = registry.find(f"models:/{hand.name}/{target}")
    return _let_reign(hand, holder, version, Act(ROLLBACK, target, hand.why, hand.actor))


def archive(hand: Hand, version: Version, undo: bool = False) -> str:
    """Archive a version, so that it cannot reign, or undo that; returns what was done.

    Raises:
        ModelError: it holds an alias.
        CytoloopError: it is archived already, or is not.
    """
    if undo == (ARCHIVED not in version.tags):
        state = f"archived already ({version.tags[ARCHIVED]})" if not undo else "not archived"
        raise CytoloopError(f"{version.uri} is {state}")
    act = Act(UNARCHIVE if undo else ARCHIVE, version.version, hand.why, hand.actor, {BY_HAND: True})
    registry.archive(version, act)
    return f"{version.uri} is {'not archived any more' if undo else 'archived'}"


def _let_reign(hand: Hand, holder: Version | None, version: Version, act: Act) -> str:
    act = replace(act, details={**act.details, BY_HAND: True})
    expect = holder.version if holder else None
    if not registry.promote(hand.name, version.version, hand.alias, expect, act):
        raise CytoloopError(
            f"the alias {hand.alias} of {hand.name} was moved by somebody else at this moment; look at "
            "`cytoloop models list`, and decide anew"
        )
    return f"{version.uri} is {hand.alias} now; before: {f'version {expect}' if expect else 'nobody'}"


def _ever(entries: Sequence[Entry], alias: str) -> set[str]:
    """Who ever had the alias, by the ledger."""
    moves = [entry.act for entry in entries if entry.act.what in MOVES and entry.act.details.get("alias") == alias]
    return {act.version for act in moves} | {act.details["before"] for act in moves if act.details.get("before")}


def _by_number(version: str) -> tuple[int, str]:
    return len(version), version


def gate_decision(version: Version, entries: Sequence[Entry]) -> dict[str, Any] | None:
    """What the gate last decided of a version: by the ledger, else by the version's tags, else unknown."""
    told = ledger.gate_entry([entry for entry in entries if entry.act.version == version.version])
    if told:
        return {"decision": told.act.what, "reason": told.act.why, "act": told.number}
    if "decision" in version.tags:
        return {"decision": version.tags["decision"], "reason": version.tags.get("reason")}
    return None


# ------------------------------------------------------------------------------------------------ the audit


@dataclass(frozen=True)
class Audit:
    """The ledger, held against itself and against the registry."""

    entries: tuple[Entry, ...]
    complaints: tuple[str, ...]
    """What is wrong, for people."""
    notes: tuple[str, ...]
    """What is no fault, but should be known."""


@dataclass(frozen=True)
class Standing:
    """What the registry says, to which the ledger must fit."""

    alias: str
    holder: str | None
    """The version that has the alias."""
    versions: dict[str, Version]
    """All of them by number."""


def audit(name: str, alias: str, contains: str | None = None) -> Audit:
    """Verify the ledger of a registered model.

    Args:
        name: of the model.
        alias: of the version that reigns.
        contains: the SHA-256 of an act, kept elsewhere, that must be in it (its beginning is enough).
    """
    entries, head = ledger.read_with_head(name)
    holder = registry.current(name, alias)
    versions = {version.version: version for version in registry.versions(name)}
    standing = Standing(alias, holder.version if holder else None, versions)
    complaints = ledger.verify(entries, head)
    complaints += _against_registry(entries, standing)
    if contains and not any(entry.sha256.startswith(contains) for entry in entries):
        complaints.append(f"no act has the hash {contains}: the ledger was written anew, or is another one")
    return Audit(tuple(entries), tuple(complaints), tuple(_notes(entries, standing)))


def _against_registry(entries: Sequence[Entry], standing: Standing) -> Iterator[str]:
    """Where versions, tags and alias are not what the acts made of them."""
    known = {entry.act.version for entry in entries if entry.sound}
    for gone in sorted(known - standing.versions.keys(), key=_by_number):
        yield f"version {gone} has acts, but is gone from the registry"
    moves = last_moves(entries, standing.alias)
    holder = f"version {standing.holder}" if standing.holder else "no version"
    if moves and standing.holder not in {entry.act.version for entry in moves}:
        yield (
            f"{holder} is {standing.alias}, but version {moves[0].act.version} by {moves[0].label}: the alias was "
            f"moved outside cytoloop, or that {moves[0].act.what} was interrupted"
        )
    if not moves and standing.holder in known and standing.versions[standing.holder].tags.get("decision") != PROMOTE:
        yield f"{holder} is {standing.alias}, but by no act: the alias was moved outside cytoloop"
    for version in standing.versions.values():
        if (ARCHIVED in version.tags) != _is_archived(version, entries):
            state = "archived" if ARCHIVED in version.tags else "not archived"
            yield f"version {version.version} is {state}, but not by the acts on it: its tag was changed elsewhere"


def _is_archived(version: Version, entries: Sequence[Entry]) -> bool:
    """Whether a version is archived by the ledger."""
    acts = [entry.act.what for entry in entries if entry.act.version == version.version]
    return next((what for what in reversed(acts) if what in (ARCHIVE, UNARCHIVE)), UNARCHIVE) == ARCHIVE


def _notes(entries: Sequence[Entry], standing: Standing) -> Iterator[str]:
    registered = {entry.act.version for entry in entries if entry.act.what == REGISTER}
    unknown = sorted(standing.versions.keys() - registered, key=_by_number)
    if unknown:
        yield f"registered before the ledger began, or outside cytoloop: version {', '.join(unknown)}"
    for entry in entries:
        if len(entry.previous) > 1:
            followed = ", ".join(sha256[:SHOWN] for sha256 in entry.previous)
            yield f"{entry.label} joins a fork, two acts at the same moment: {followed}"


# --------------------------------------------------------------------------------- for people, and programs


def as_row(entry: Entry) -> dict[str, Any]:
    """An act as plain JSON."""
    return {
        "number": entry.number,
        "when": entry.when,
        **asdict(entry.act),
        "previous": list(entry.previous),
        "sha256": entry.sha256,
    }


def as_acts(rows: Sequence[Mapping[str, Any]]) -> str:
    """Acts for a terminal: when, what, by whom and why, a line each."""
    header = ("act", "when (UTC)", "what", "version", "who", "hash", "why")
    return table(
        header,
        [
            (
                row["number"], row["when"][:16].replace("T", " "), row["what"], row["version"], row["actor"],
                row["sha256"][:SHOWN], " ".join(row["why"].split()) + _despite(row),
            )
            for row in rows
        ],
    )  # fmt: skip


def _despite(row: Mapping[str, Any]) -> str:
    gate = row["details"].get("gate")
    return f" (the gate: {gate['decision']}, {gate['reason']})" if gate and gate["decision"] != PROMOTE else ""


def as_audit(told: Audit) -> str:
    """The audit for a terminal; the last line is what is worth keeping elsewhere."""
    lines = [as_acts([as_row(entry) for entry in told.entries]) if told.entries else "no act yet", ""]
    lines += [f"note: {note}" for note in told.notes]
    lines += [f"WRONG: {complaint}" for complaint in told.complaints]
    if told.entries and not told.complaints:
        lines.append(f"the ledger is whole, up to {told.entries[-1].sha256}")
    return "\n".join(lines)


def as_plain(told: Audit) -> dict[str, Any]:
    """The audit as plain JSON."""
    rows = [as_row(entry) for entry in told.entries]
    return {"acts": rows, "complaints": list(told.complaints), "notes": list(told.notes)}
