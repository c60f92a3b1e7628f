"""The gate's decision for people: a page that needs nothing but itself, and the same as Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cytoloop.report.templates import templates

PAGE, TEXT = "decision.html", "decision.md"
TITLES = {
    "promote": "Promoted: it reigns now.",
    "keep": "Kept: the champion reigns on.",
    "refuse": "Refused: it may not reign.",
}
SPOKEN = {
    "floor": "macro Dice above its floor",
    "reproduced": "evaluation reproduced",
    "improvement": "gain in macro Dice",
}


def write_decision(folder: Path, receipt: Mapping[str, Any]) -> None:
    """Write the page and the Markdown of a registration's receipt."""
    title = "It reigns already." if receipt["reason"] == "already reigns" else TITLES[receipt["decision"]]
    page = (
        templates()
        .get_template("decision.html")
        .render(
            it=receipt,
            title=title,
            reasons=_reasons(receipt),
            track=_Track.over(receipt["comparisons"]),
            spoken=_spoken,
            figure=_figure,
        )
    )
    (folder / PAGE).write_text(page, "utf-8")
    (folder / TEXT).write_text(_markdown(receipt, title), "utf-8")


class _Track:
    """Where on a strip from -width to width a gain lies, in percent of the strip."""

    def __init__(self, width: float) -> None:
        self.width = width

    @classmethod
    def over(cls, comparisons: Sequence[Mapping[str, Any]]) -> "_Track":
        """Wide enough for all intervals and margins."""
        ends = [abs(c[key]) for c in comparisons if c["low"] is not None for key in ("low", "high", "limit")]
        return cls(1.05 * max(ends, default=0) or 1)

    def at(self, gain: float) -> str:
        return f"{50 + 50 * gain / self.width:.2f}"

    def span(self, low: float, high: float) -> str:
        return f"{50 * (high - low) / self.width:.2f}"


def _reasons(receipt: Mapping[str, Any]) -> list[str]:
    """Of what failed, each by itself; else the one reason."""
    failed = [c["reason"] for c in receipt["comparisons"] if not c["passed"]]
    return failed if receipt["decision"] != "promote" else [receipt["reason"]]


def _spoken(name: str) -> str:
    """A comparison's name as people say it."""
    if name.startswith("floor."):
        return f"{name.removeprefix('floor.').replace('_', ' ')} above its floor"
    if name.startswith("margin."):
        return f"{name.removeprefix('margin.').replace('_', ' ')} not worse"
    return SPOKEN.get(name, name.replace("_", " "))


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _markdown(receipt: Mapping[str, Any], title: str) -> str:
    rows = [
        f"| {'passed' if c['passed'] else '**failed**'} | {_spoken(c['name'])} | {_figure(c['candidate'])} "
        f"| {_figure(c['champion'])} | {_figure(c['limit'])} | {c['reason'].replace('|', '/')} |"
        for c in receipt["comparisons"]
    ]
    lines = [
        f"# {receipt['name']} version {receipt['version']}: {receipt['decision']}",
        "",
        title,
        "",
        *(f"- {reason}" for reason in _reasons(receipt)),
        "",
        "| | comparison | candidate | champion | limit | reason |",
        "|---|---|---|---|---|---|",
        *rows,
    ]
    return "\n".join(lines) + "\n"
