"""What the cards tell, put into words: scores, counts and dates, and a dash where nothing is known."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from cytoloop.cards.document import Facts, Question
from cytoloop.lineage import Evidence, Lineage, lineage

NOTHING = "–"
RESEARCH_ONLY = (
    "Research use only. This is not a medical device: not for diagnosis, treatment or any decision about a patient."
)


@dataclass(frozen=True)
class Told:
    """The evidence of a version, and a person's answers by key."""

    found: Evidence
    answers: Mapping[str, str]

    def ask(self, key: str, question: str) -> Question:
        """What only a person can say, with the answer where there is one."""
        return Question(key, question, self.answers.get(key))

    @property
    def lineage(self) -> Lineage:
        return lineage(self.found)

    @property
    def card(self) -> dict[str, Any]:
        """Of the dataset."""
        return self.found.told("raw")

    @property
    def census(self) -> dict[str, Any]:
        """Of the splits."""
        return self.found.told("splits")

    @property
    def checked(self) -> dict[str, Any]:
        """What the validation said."""
        return self.found.told("validated")

    @property
    def classes(self) -> list[str]:
        """Names of the foreground classes."""
        return [item["name"] for item in self.found.bundle.get("classes", [])[1:]]

    @property
    def is_synthetic(self) -> bool:
        """Whether the pictures were composed by cytoloop, of cells that it drew."""
        ingest = self.found.params.get("ingest", {})
        return ingest.get("layout") == "smear" and not ingest.get("smear", {}).get("cells_from")

    def groups(self) -> dict[str, float]:
        """Mean macro Dice of each test group that has one, the lowest first."""
        scores: dict[str, list[float]] = {}
        for line in self.found.pictures:
            if line["macro_dice"]:
                scores.setdefault(line["group"], []).append(float(line["macro_dice"]))
        means = {group: fmean(values) for group, values in scores.items()}
        return dict(sorted(means.items(), key=lambda item: (item[1], item[0])))


def facts(**lines: Any) -> Facts:
    """Facts by name; a dash where a value is not known."""
    return Facts({name.replace("_", " "): said(value) for name, value in lines.items()})


def said(value: Any) -> str:
    """A value for people.

    >>> said(None), said(1234567), said(0.5), said(True), said(["a", "b"])
    ('–', '1,234,567', '0.5', 'yes', 'a, b')
    """
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(said, value)) if isinstance(value, list | tuple) else str(value)


def score(value: float | None) -> str:
    """A score with three digits."""
    return NOTHING if value is None else f"{value:.3f}"


def interval(pair: Mapping[str, float | None] | None) -> str:
    """Its two ends."""
    if not pair or pair["low"] is None:
        return NOTHING
    return f"{score(pair['low'])} to {score(pair['high'])}"


def spoken(name: str) -> str:
    """A name without underscores."""
    return name.replace("_", " ")
