"""Versions of a registered model in tables for people: all of them, one, and two side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cytoloop import registry
from cytoloop.acts import as_acts, as_row
from cytoloop.artifacts import flat
from cytoloop.lineage import Evidence, gather
from cytoloop.provenance import SHOWN
from cytoloop.registry import ARCHIVED, Version
from cytoloop.tables import UNKNOWN, cell_text, table

OVERALL = {
    "macro_dice": "macro Dice",
    "foreground_dice": "foreground Dice",
    "macro_iou": "macro IoU",
    "boundary_nsd": "boundary NSD",
    "pixel_accuracy": "pixel accuracy",
    "pictures": "pictures",
}
PER_CLASS = {"dice_image_mean": "Dice", "iou_image_mean": "IoU", "nsd_image_mean": "NSD"}


# ------------------------------------------------------------------------------------------- all of them


def overview(name: str) -> list[dict[str, Any]]:
    """What is known of each version at a glance, the newest first."""
    aliases = registry.aliases(name)
    return [
        {
            "version": int(version.version),
            "registered": f"{version.created:%Y-%m-%d %H:%M}" if version.created else None,
            "decision": version.tags.get("decision"),
            "macro_dice": _number(version.tags.get("macro_dice")),
            "test_set": version.tags.get("test_digest", UNKNOWN)[:SHOWN],
            "aliases": sorted(alias for alias, holder in aliases.items() if holder == version.version),
            "archived": version.tags.get(ARCHIVED),
        }
        for version in registry.versions(name)
    ]


def as_overview(versions: Sequence[Mapping[str, Any]]) -> str:
    """The versions for a terminal, a line each."""
    header = ("version", "registered (UTC)", "gate", "macro Dice", "test set", "")
    shown = ("version", "registered", "decision", "macro_dice", "test_set")
    return table(header, [[*(version[name] for name in shown), _state(version)] for version in versions])


def _state(version: Mapping[str, Any]) -> str:
    aliases = [f"@{alias}" for alias in version["aliases"]]
    return " ".join([*aliases, *([f"archived: {version['archived']}"] if version["archived"] else [])])


# --------------------------------------------------------------------------------------------------- one


def describe(version: Version) -> dict[str, Any]:
    """A version with its scores, its size, and the acts on it."""
    found = gather(version.uri)
    aliases = registry.aliases(version.name)
    return {
        "name": version.name,
        "version": version.version,
        "registered": f"{version.created:%Y-%m-%d %H:%M} UTC" if version.created else None,
        "aliases": sorted(alias for alias, holder in aliases.items() if holder == version.version),
        "archived": version.tags.get(ARCHIVED),
        "decision": version.tags.get("decision"),
        "reason": version.tags.get("reason"),
        "scores": scores(found),
        "test_digest": test_digest(found),
        "git_commit": found.tag("git_commit"),
        "run": version.run_id,
        "acts": [as_row(entry) for entry in found.acts],
    }


def as_description(told: Mapping[str, Any]) -> str:
    """A version for a terminal."""
    shown = ("registered", "archived", "decision", "reason", "test_digest", "git_commit", "run")
    lines = [f"{told['name']} version {told['version']} {' '.join('@' + alias for alias in told['aliases'])}".rstrip()]
    lines += ["", table(("", ""), [(name.replace("_", " "), told[name]) for name in shown]).lstrip()]
    measured = [(name, value) for name, value in told["scores"].items() if value is not None]
    lines += ["", table(("score", "on test"), measured)]
    return "\n".join([*lines, "", as_acts(told["acts"])])


# --------------------------------------------------------------------------------------------------- two


@dataclass(frozen=True)
class Comparison:
    """Two versions, side by side."""

    name: str
    versions: tuple[str, str]
    test_digests: tuple[str | None, str | None]
    scores: dict[str, tuple[float | None, float | None]]
    """By name: on the test split, and sizes."""
    params: dict[str, tuple[Any, Any]]
    """Those that differ, by dotted name; null where a version has none of that name."""

    @property
    def same_test_set(self) -> bool:
        """Whether both were measured on the same pictures, as far as is known."""
        return self.test_digests[0] is not None and self.test_digests[0] == self.test_digests[1]


def compare(first: Version, second: Version) -> Comparison:
    """Two versions by their test scores, sizes and params."""
    found = gather(first.uri), gather(second.uri)
    measured = tuple(scores(one) for one in found)
    params = tuple(flat(one.params) for one in found)
    differ = [name for name in {**params[0], **params[1]} if params[0].get(name) != params[1].get(name)]
    return Comparison(
        name=first.name,
        versions=(first.version, second.version),
        test_digests=(test_digest(found[0]), test_digest(found[1])),
        scores={name: (measured[0].get(name), measured[1].get(name)) for name in {**measured[0], **measured[1]}},
        params={name: (params[0].get(name), params[1].get(name)) for name in differ},
    )


def scores(found: Evidence) -> dict[str, float | None]:
    """What a version reached on the test split, overall and by class, and its sizes."""
    metrics = found.metrics or {"macro_dice": _number(found.tag("macro_dice"))}
    overall = {title: metrics.get(key) for key, title in OVERALL.items()}
    by_class = {
        f"{name} {title}": told.get(key)
        for name, told in metrics.get("per_class", {}).items()
        for key, title in PER_CLASS.items()
    }
    sizes = {"parameters": found.bundle.get("parameters"), "size MiB": registry.size_mib(found.version)}
    return {**overall, **by_class, **sizes}


def test_digest(found: Evidence) -> str | None:
    """Of the pictures that a version was measured on: as its evaluation says, else its tag."""
    digest: str | None = found.metrics.get("test_digest") or found.tag("test_digest")
    return digest


def as_comparison(told: Comparison) -> str:
    """Two versions for a terminal; scores on unlike test sets get no difference."""
    a, b = (f"version {version}" for version in told.versions)
    measured = {name: pair for name, pair in told.scores.items() if pair != (None, None)}
    rows = [(name, *pair, _difference(name, pair, told.same_test_set)) for name, pair in measured.items()]
    lines = [table((told.name, a, b, "difference"), rows), "", _test_sets(told), ""]
    differ = [(name, *map(cell_text, pair)) for name, pair in told.params.items()]
    return "\n".join([*lines, table(("params that differ", a, b), differ) if differ else "no recorded param differs"])


def _difference(name: str, pair: tuple[float | None, float | None], same_test_set: bool) -> str:
    first, second = pair
    if first is None or second is None or not (same_test_set or name in ("parameters", "size MiB")):
        return UNKNOWN
    return f"{second - first:+.4f}" if isinstance(second - first, float) else f"{second - first:+d}"


def _test_sets(told: Comparison) -> str:
    shown = [(digest or "unknown")[:SHOWN] for digest in told.test_digests]
    if told.same_test_set:
        return f"test set: the same ({shown[0]})"
    return f"test sets: {shown[0]} and {shown[1]}, not the same: their scores cannot be compared"


def _number(value: str | None) -> float | None:
    return None if value is None else float(value)
