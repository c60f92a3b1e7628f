"""Tables for a terminal."""

import re
from collections.abc import Sequence
from typing import Any

UNKNOWN = "-"
NUMBER = re.compile(r"[+-]?[\d.]*")
Cells = Sequence[Any]


def table(header: Cells, rows: Sequence[Cells]) -> str:
    """Columns under a header, as wide as their content; numbers, also as text, stand to the right."""
    lines = [[cell_text(cell) for cell in row] for row in (header, *rows)]
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    to_right = [all(NUMBER.fullmatch(cell) for cell in column[1:]) for column in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, to_right, strict=True)
        ).rstrip()
        for line in lines
    )


def cell_text(cell: Any) -> str:
    """Four decimals of a float, a dash for nothing."""
    if cell is None:
        return UNKNOWN
    return f"{cell:.4f}" if isinstance(cell, float) else str(cell)
