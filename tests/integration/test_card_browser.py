"""The cards in a real browser: no console message, and nothing too wide for a phone."""

from pathlib import Path

import pytest
from test_report_browser import CHROMIUM, console, width_of

from cytoloop.cards import FILES
from cytoloop.cards.document import as_html
from cytoloop.cards.telling import Told
from recorded import evidence

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)"),
]


@pytest.mark.parametrize("kind", sorted(FILES))
def test_a_card_fits_a_phone_and_says_nothing_to_the_console(kind: str, tmp_path: Path) -> None:
    page = tmp_path / "card.html"
    tags = {"reason": "macro_dice_of_a_very_long_group_name_that_has_no_space_in_it_at_all_" * 3}
    page.write_text(as_html(FILES[kind](Told(evidence(tags=tags), {"risks": "x" * 300}))), "utf-8")
    assert console(page, tmp_path) == []
    assert width_of(page, 360, tmp_path) == 360
