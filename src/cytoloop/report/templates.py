"""The page templates, in which every text is escaped and every missing name is an error."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined


@cache
def templates() -> Environment:
    """Jinja's environment over this folder, with the filters that its pages share."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"score": _score, "percent": _percent, "rgb": _rgb, "spoken": _spoken}
    return environment


def _score(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _rgb(color: Any) -> str:
    return f"rgb({color[0]} {color[1]} {color[2]})"


def _spoken(name: str) -> str:
    return name.replace("_", " ")
