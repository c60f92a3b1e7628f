"""The lineage of a registered version: from the source of its pictures to its place in the registry.

What is told comes from several witnesses: the version's tags, its bundle, its run and the files of its
evaluation. Where they disagree, or none has anything to say, the link is broken, and is shown as that.
"""

import csv
import json
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from cytoloop import ledger, registry, tracking
from cytoloop.artifacts import BUNDLE, LINEAGE, METRICS, PARAMS, PER_PICTURE, flat, read_json, sha256_file
from cytoloop.errors import CytoloopError, ServerAway
from cytoloop.ledger import Entry
from cytoloop.provenance import SHOWN

UNKNOWN = "not recorded"
SECTIONS = ("classes", "ingest", "validate", "split", "augment", "model", "tune", "train", "evaluate")

EVALUATION = "evaluation"
"""The folder of the evaluation among the files of a run."""

Found = TypeVar("Found")
Claims = Mapping[str, str | None]
"""What each witness says, or null where it says nothing."""


@dataclass(frozen=True)
class Link:
    """One link of the chain."""

    name: str
    digest: str | None
    """What identifies it, where that is known and nobody disagrees."""
    facts: dict[str, Any]
    """What is known of it, by name."""
    broken: tuple[str, ...]
    """What is missing or contradicts itself, for people; empty where all is well."""


@dataclass(frozen=True)
class Lineage:
    """All that is known of how a version came to be."""

    name: str
    version: str
    links: tuple[Link, ...]
    """From the source to the version."""
    git_commit: str | None
    image: str | None
    """The container image that it was trained in, where there was one."""
    environment: dict[str, str]
    """Versions of Python and of the packages that trained it, by name."""
    params: dict[str, Any]
    """The sections of params.yaml that it was made with, as far as they are recorded."""

    @property
    def whole(self) -> bool:
        """Whether no link is broken."""
        return not any(link.broken for link in self.links)


@dataclass(frozen=True)
class Evidence:
    """What the registry and the run of a version hold; an empty mapping where something is not there."""

    version: registry.Version
    bundle: dict[str, Any]
    """bundle.json."""
    run: tracking.Facts | None
    metrics: dict[str, Any]
    """metrics.json of the evaluation."""
    metrics_digest: str | None
    """Its SHA-256."""
    ancestry: dict[str, Any]
    """lineage.json of the evaluation."""
    judged: dict[str, Any]
    """The params that the evaluation was made with."""
    pictures: list[dict[str, str]]
    """per_picture.csv of the evaluation, a line a test picture."""
    acts: tuple[Entry, ...] = ()
    """What the ledger tells of the version, the oldest first."""

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Of the bundle."""
        return dict(self.bundle.get("provenance", {}))

    @property
    def environment(self) -> dict[str, str]:
        """Versions of Python and of the packages that trained it, by name."""
        python = {"python": self.provenance["python"]} if "python" in self.provenance else {}
        return python | dict(self.provenance.get("versions", {}))

    def told(self, artifact: str) -> dict[str, Any]:
        """What the evaluation was told of an artifact: its facts."""
        return dict(self.ancestry.get(artifact, {}).get("facts", {}))

    def tag(self, name: str) -> str | None:
        """A tag of the version."""
        return self.version.tags.get(name)

    def digests(self, artifact: str) -> dict[str, str | None]:
        """What the version, its bundle and its evaluation say that an artifact's digest is."""
        return {
            "the version": self.tag(f"{artifact}_digest"),
            "the bundle": self.provenance.get("digests", {}).get(artifact),
            "its evaluation": self.ancestry.get(artifact, {}).get("digest"),
        }

    @property
    def params(self) -> dict[str, Any]:
        """Sections of params.yaml by name, each as the step was told that made something of it.

        The address of the pictures is the run's: no artifact knows it.
        """
        trained = self.provenance.get("params", {})
        sections = {"tune": trained["tune"]} if trained.get("tune") else {}
        for artifact in ("model", "splits", "validated", "raw"):
            sections |= self.ancestry.get(artifact, {}).get("params", {})
        sections |= self.judged
        source = self.run.tags.get("source") if self.run else None
        if source and "ingest" in sections:
            sections["ingest"] = {**sections["ingest"], "source": source}
        return {name: sections[name] for name in SECTIONS if name in sections}


# ---------------------------------------------------------------------------------------- gathering


def gather(uri: str) -> Evidence:
    """What the store holds of a version.

    Args:
        uri: `models:/NAME@ALIAS` or `models:/NAME/3`.

    Raises:
        ModelError: there is no such version.
        ServerAway: MLflow does not answer.
    """
    version = registry.find(uri)
    run = tracking.Run(version.run_id) if version.run_id else None
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)

        def evaluated(name: str) -> Path | None:
            return _if_there(lambda: run.fetch(f"{EVALUATION}/{name}", scratch)) if run else None

        metrics = evaluated(METRICS)
        return Evidence(
            version=version,
            bundle=_content(_if_there(lambda: registry.fetch(version.uri, scratch, BUNDLE))),
            run=_if_there(run.facts) if run else None,
            metrics=_content(metrics),
            metrics_digest=sha256_file(metrics) if metrics else None,
            ancestry=_content(evaluated(LINEAGE)),
            judged=_content(evaluated(PARAMS)),
            pictures=_table(evaluated(PER_PICTURE)),
            acts=tuple(entry for entry in _acts(version.name) if entry.act.version == version.version),
        )


def _acts(name: str) -> list[Entry]:
    return _if_there(lambda: ledger.read(name)) or []


def _if_there(look: Callable[[], Found | None]) -> Found | None:
    """What is found, or None where it was deleted from the store."""
    try:
        return look()
    except ServerAway:
        raise
    except (CytoloopError, OSError):
        return None


def _content(path: Path | None) -> dict[str, Any]:
    return dict(read_json(path)) if path else {}


def _table(path: Path | None) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text("utf-8").splitlines())) if path else []


# ---------------------------------------------------------------------------------------- the chain


def trace(uri: str) -> Lineage:
    """The lineage of a version; raises as `gather`."""
    return lineage(gather(uri))


def lineage(found: Evidence) -> Lineage:
    """The chain, with what is missing in it."""
    return Lineage(
        name=found.version.name,
        version=found.version.version,
        links=tuple(make(found) for make in CHAIN),
        git_commit=found.tag("git_commit"),
        image=found.tag("image"),
        environment=found.environment,
        params=found.params,
    )


def _link(name: str, claims: Claims, facts: Mapping[str, Any], **others: Claims) -> Link:
    """A link by what the witnesses claim of its digest, and of other things by name."""
    broken = [*_doubts("digest", claims), *(doubt for what in others for doubt in _doubts(what, others[what]))]
    digest = next((value for value in claims.values() if value), None)
    known = {key: value for key, value in facts.items() if value is not None}
    return Link(name, digest if not _disagree(claims) else None, known, tuple(broken))


def _doubts(what: str, claims: Claims) -> list[str]:
    """What is wrong with claims: nobody makes one, or they disagree."""
    what = what.replace("_", " ")
    if not any(claims.values()):
        return [f"{what} {UNKNOWN}"]
    if _disagree(claims):
        return [f"{what}: " + ", ".join(f"{who} says {_short(value)}" for who, value in claims.items() if value)]
    return []


def _disagree(claims: Claims) -> bool:
    return len({value for value in claims.values() if value}) > 1


def _source(found: Evidence) -> Link:
    told = {name: found.tag(name) for name in ("data_revision", "data_hash")}
    ingest = found.params.get("ingest", {})
    address = found.run.tags.get("source") if found.run else None
    facts = {"address": address, "layout": ingest.get("layout"), **told}
    known = {"the run": address, "an orchestrator": told["data_hash"]}
    broken = () if any(known.values()) else (f"address {UNKNOWN}",)
    return Link("source", told["data_hash"], {key: value for key, value in facts.items() if value}, broken)


def _raw(found: Evidence) -> Link:
    card = found.told("raw")
    claims = {
        **found.digests("raw"),
        "the validation": found.told("validated").get("raw_digest"),
        "the splits": found.told("splits").get("raw_digest"),
    }
    facts = {"name": card.get("name"), "pictures": card.get("rows"), "groups": card.get("groups")}
    return _link("raw", claims, facts | {"licence": card.get("licence")})


def _validation(found: Evidence) -> Link:
    told = found.told("validated")
    counts = told.get("statistics", {})
    facts = {"passed": told.get("passed"), **{name: counts.get(name) for name in ("expectations", "warnings")}}
    link = _link("validation", found.digests("validated"), facts)
    return link if told.get("passed") in (True, None) else replace(link, broken=(*link.broken, "did not pass"))


def _splits(found: Evidence) -> Link:
    census = found.told("splits")
    return _link("splits", found.digests("splits"), census.get("pictures", {}))


def _augmented(found: Evidence) -> Link:
    section = found.provenance.get("params", {}).get("augment", {})
    return _link("augmented", found.digests("augmented"), {name: section.get(name) for name in ("copies", "online")})


def _study(found: Evidence) -> Link:
    """The search, by what won it: the settings in which the training was not what params.yaml says."""
    asked = found.ancestry.get("model", {}).get("params", {})
    used = {**found.params, "model": found.bundle.get("model", {})}
    won = {
        f"{section}.{name}": used[section][name]
        for section in ("model", "train", "augment")
        for name, value in asked.get(section, {}).items()
        if name in used.get(section, {}) and used[section][name] != value
    }
    trials = found.params.get("tune", {}).get("trials")
    return _link("study", found.digests("best_params"), {"trials": trials, **won})


def _run(found: Evidence) -> Link:
    if found.run is None or found.version.run_id is None:
        return Link("run", None, {}, (f"run {UNKNOWN}, or deleted",))
    models = {"the version": found.tag(registry.DIGEST_TAG), "the run": found.run.tags.get(registry.DIGEST_TAG)}
    facts = {"name": found.run.name, "began": f"{found.run.began:%Y-%m-%d %H:%M} UTC", "status": found.run.status}
    return _link("run", {"the version": found.version.run_id}, facts, model=models)


def _evaluation(found: Evidence) -> Link:
    metrics = found.metrics
    digests = {"the version": found.tag("evaluation_digest"), "its file": found.metrics_digest}
    models = {"the version": found.tag(registry.DIGEST_TAG), "its evaluation": metrics.get("model_digest")}
    tests = {
        "the version": found.tag("test_digest"),
        "its evaluation": metrics.get("test_digest"),
        "the splits": found.told("splits").get("test_digest"),
    }
    facts = {name: metrics.get(name) for name in ("macro_dice", "foreground_dice", "pictures")}
    return _link("evaluation", digests, facts, model=models, test_set=tests)


def _decision(found: Evidence) -> Link:
    """What the gate decided: by the ledger, else by the version's tags; and what was done to the version later."""
    decided = ledger.gate_entry(found.acts)
    if decided is None:
        facts = {"decision": found.tag("decision"), "reason": found.tag("reason")}
        return Link("decision", None, facts, () if all(facts.values()) else (f"decision {UNKNOWN}",))
    later = [entry for entry in found.acts if entry.number > decided.number]
    facts = {"decision": decided.act.what, "reason": decided.act.why, "by": decided.act.actor, "when": _minute(decided)}
    facts |= {f"then_{entry.act.what}": f"by {entry.act.actor} ({entry.act.why})" for entry in later}
    broken = tuple(f"{entry.label} was changed" for entry in found.acts if not entry.sound)
    return Link("decision", decided.sha256, facts, broken)


def _minute(entry: Entry) -> str:
    return f"{entry.when[:16].replace('T', ' ')} UTC"


def _version(found: Evidence) -> Link:
    claims = {"the version": found.tag(registry.DIGEST_TAG), "the bundle": found.bundle.get("model_digest")}
    facts = {"name": found.version.name, "version": found.version.version}
    link = _link("version", claims, facts | {"parameters": found.bundle.get("parameters")})
    return link if found.bundle else replace(link, broken=(*link.broken, "its bundle is gone from the store"))


CHAIN: tuple[Callable[[Evidence], Link], ...] = (
    _source, _raw, _validation, _splits, _augmented, _study, _run, _evaluation, _decision, _version,
)  # fmt: skip


# ----------------------------------------------------------------------------------- for people, and not


def as_text(told: Lineage) -> str:
    """The lineage for a terminal: a link a line, what is broken in it below."""
    lines = [f"{told.name} version {told.version}", ""]
    for link in told.links:
        lines.append(f"{link.name:12}{_short(link.digest):{SHOWN + 2}}{_spoken(link.facts)}".rstrip())
        lines += [f"{'':12}MISSING: {problem}" for problem in link.broken]
    lines += ["", f"{'git commit':12}{told.git_commit or UNKNOWN}", f"{'image':12}{told.image or UNKNOWN}"]
    lines += _folded("environment", " ".join(f"{name}={version}" for name, version in told.environment.items()))
    for name in SECTIONS:
        lines += _folded(name, " ".join(_settings(told.params.get(name))) if name in told.params else UNKNOWN)
    broken = [link.name for link in told.links if link.broken]
    return "\n".join([*lines, "", f"broken: {', '.join(broken)}" if broken else "the chain is whole"])


def as_json(told: Lineage) -> dict[str, Any]:
    """The lineage as plain JSON."""
    return {**asdict(told), "whole": told.whole}


def _short(digest: str | None) -> str:
    return (digest or "-")[:SHOWN]


def _spoken(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {_value(value)}" for name, value in facts.items())


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _settings(section: Any) -> Iterator[str]:
    """A section's settings as `key=value`; `classes` is a list of them."""
    if isinstance(section, list):
        yield from (str(item["name"]) for item in section)
        return
    for name, value in flat(section).items():
        yield f"{name}={json.dumps(value, separators=(',', ':'))}"


def _folded(name: str, text: str) -> list[str]:
    margin = " " * 12
    return textwrap.wrap(
        text or UNKNOWN, 116, initial_indent=f"{name:12}", subsequent_indent=margin, break_on_hyphens=False
    )
