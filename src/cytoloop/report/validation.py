"""What the validation found, as HTML that needs nothing but itself.

Everything is rendered from the receipt, and every text in it is escaped.
"""

from functools import cache
from typing import Any

from jinja2 import Environment

from cytoloop.artifacts import Card
from cytoloop.report.templates import templates


def validation_page(receipt: dict[str, Any], card: Card) -> str:
    """The whole page: verdict, expectations in plain words, offenders, and what is in the dataset."""
    shares = [(c.name, c.color, receipt["statistics"]["class_fractions"][c.name]) for c in card.codec.classes]
    return _templates().get_template("validation.html").render(receipt=receipt, card=card, shares=shares)


def validation_section(receipt: dict[str, Any]) -> str:
    """An HTML fragment for another report: verdict, expectations and offenders."""
    return _templates().get_template("validation_section.html").render(receipt=receipt)


@cache
def _templates() -> Environment:
    environment = templates().overlay()
    environment.filters = {**environment.filters, "percent": _percent}
    return environment


def _percent(fraction: float) -> str:
    """A fraction as people read it: 12 %, 1.2 %, 0.12 %, and no rounding of little to nothing."""
    percent = 100 * fraction
    if percent and percent < 0.01:
        return "< 0.01 %"
    digits = 0 if percent >= 10 or percent == 0 else 1 if percent >= 1 else 2
    return f"{percent:.{digits}f} %"
