"""Commands in the documentation are commands: the argument parser takes them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from cytoloop.cli import _parser

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ENVIRONMENT = re.compile(r"[A-Z][A-Z_]*=\S*\s+")


def commands(text: str) -> Iterator[str]:
    """Command lines of cytoloop in a page's blocks of code, joined where they go on."""
    for block in re.findall(r"^ *```\w*\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            line = ENVIRONMENT.sub("", re.sub(r"^\s*\$ ", "", line)).strip()
            if line.startswith("cytoloop "):
                yield line


def parsed(line: str) -> list[str]:
    """Its arguments, up to what the shell does with the output."""
    words = shlex.split(line, comments=True)
    ends = [i for i, word in enumerate(words) if word in ("|", ">", ">>", "&", "&&", ";", "2>&1")]
    return words[1 : min(ends, default=len(words))]


FOUND = [(page, line) for page in PAGES for line in commands(page.read_text("utf-8"))]


@pytest.mark.parametrize(("page", "line"), FOUND, ids=[f"{page.stem}-{line[9:50]}" for page, line in FOUND])
def test_a_command_of_the_documentation_parses(page: Path, line: str) -> None:
    assert _parser().parse_args(parsed(line)).command, f"{page.relative_to(ROOT)}: {line}"


def test_the_month_of_operation_is_found() -> None:
    of_month = {line.split()[1] for page, line in FOUND if page.name == "operate.md"}
    assert {"models", "predict", "register", "retrain", "status"} <= of_month
