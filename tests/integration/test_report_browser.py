"""The report in a real browser: no console message, nothing loaded from elsewhere."""

import shutil
import subprocess
from pathlib import Path

import pytest
from test_report import CELL, SHIFTED, evaluation

from cytoloop.report.page import render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--log-level=0",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)"),
]


def console(page: Path, tmp_path: Path) -> list[str]:
    """What the browser's console says of a page; it also takes a picture of it."""
    done = subprocess.run(
        [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}",
         "--window-size=1200,3000", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (tmp_path / "page.png").stat().st_size > 10_000, done.stderr[-2000:]
    return [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def test_the_report_has_a_clean_console(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(evaluation([CELL, CELL], [CELL, SHIFTED])), "utf-8")
    assert console(page, tmp_path) == []


def test_an_error_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<body style='background: linear-gradient(red, blue)'><script>missing()</script>" + "x" * 5000)
    assert len(console(page, tmp_path)) == 1
