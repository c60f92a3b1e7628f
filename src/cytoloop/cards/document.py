"""A card as a document: sections of texts, facts, tables and questions, as Markdown and as a page of HTML."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader

from cytoloop.report.templates import templates

TO_BE_FILLED = "To be filled by a person"


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = "text"


@dataclass(frozen=True)
class Facts:
    """What is known, by name."""

    lines: Mapping[str, str]
    kind: str = "facts"


class Bar(NamedTuple):
    """A score to be drawn, 0..1, with its interval where it has one."""

    value: float | None
    low: float | None = None
    high: float | None = None
    ours: bool = True
    """Not of a trivial answer."""


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header; the first column names, the others are numbers."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    bars: Sequence[Bar | None] = ()
    """Of each row, drawn behind its name on the page."""
    kind: str = "table"


@dataclass(frozen=True)
class Question:
    """What only a person can say."""

    key: str
    text: str
    answer: str | None = None
    kind: str = "question"


Block = Text | Facts | Table | Question


@dataclass(frozen=True)
class Section:
    """A section under its heading."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        return re.sub(r"[^a-z]+", "-", self.title.lower())


@dataclass(frozen=True)
class Document:
    """A whole card."""

    kind: str
    """Model card, data sheet."""
    title: str
    summary: str
    after: str
    """Whose sections it has."""
    sections: Sequence[Section]

    @property
    def questions(self) -> list[Question]:
        """All that are asked, in order."""
        return [block for section in self.sections for block in section.blocks if isinstance(block, Question)]

    @property
    def unanswered(self) -> list[Question]:
        """Those that a person has yet to answer."""
        return [question for question in self.questions if question.answer is None]


def as_html(document: Document) -> str:
    """One page that needs nothing but itself; every text is escaped."""
    return _templates().get_template("card.html").render(it=document, to_be_filled=TO_BE_FILLED)


@cache
def _templates() -> Environment:
    here = Path(__file__).parent
    return templates().overlay(loader=FileSystemLoader([here, here.parent / "report"]))


def as_markdown(document: Document) -> str:
    """The same as Markdown; every text is escaped."""
    lines = [f"# {_plain(document.title)}", _plain(document.summary), _plain(document.after)]
    for section in document.sections:
        lines += [f"## {section.title}", *(_block(block) for block in section.blocks)]
    lines += [f"## {TO_BE_FILLED}", *_list(document.unanswered)]
    return "\n\n".join(lines) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Text):
        return _plain(block.text)
    if isinstance(block, Facts):
        return "\n".join(f"- **{_plain(name)}**: {_plain(value)}" for name, value in block.lines.items())
    if isinstance(block, Table):
        return f"### {_plain(block.title)}\n\n" + "\n".join(_rows(block))
    if block.answer is None:
        return f"> **{TO_BE_FILLED}** (`{block.key}`): {_plain(block.text)}"
    return f"**{_plain(block.text)}**\n\n" + "\n\n".join(map(_plain, block.answer.strip().split("\n\n")))


def _rows(table: Table) -> Iterator[str]:
    yield _row(table.header)
    yield _row(["---", *["---:"] * (len(table.header) - 1)], escape=False)
    yield from (_row(row) for row in table.rows)


def _row(cells: Sequence[str], escape: bool = True) -> str:
    return f"| {' | '.join(_plain(cell) if escape else cell for cell in cells)} |"


def _list(questions: Sequence[Question]) -> list[str]:
    if not questions:
        return ["Nothing: every question has its answer."]
    return ["\n".join(f"- `{question.key}`: {_plain(question.text)}" for question in questions)]


def _plain(text: str) -> str:
    """A text that Markdown leaves as it is, on one line."""
    text = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", " ".join(text.split()))
    return re.sub(
        r"^([-+>]|\d+[.)])(?=\s)", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    )
