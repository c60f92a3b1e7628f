"""The report in a real browser: no console message, nothing loaded from elsewhere, nothing too wide for a phone."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_report import CELL, SHIFTED, evaluation, figure

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


PUBLISHED = [
    figure("dice_coef_multiclass", 0.9917, here=0.9512, background=0.9204),
    figure("categorical_crossentropy", 0.0188, here=0.0423),
    figure("something_with_a_very_long_name", "about 95 % of the pixels, or more"),
]


@pytest.fixture
def report(tmp_path: Path) -> Path:
    page = tmp_path / "report.html"
    page.write_text(render(evaluation([CELL, CELL], [CELL, SHIFTED], metrics={"published": PUBLISHED})), "utf-8")
    return page


def console(page: Path, tmp_path: Path) -> list[str]:
    """What the browser's console says of a page; it also takes a picture of it."""
    done = subprocess.run(
        [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={tmp_path / 'page.png'}",
         "--window-size=1200,3000", page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (tmp_path / "page.png").stat().st_size > 10_000, done.stderr[-2000:]
    return [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def width_of(page: Path, window: int, tmp_path: Path) -> int:
    """Pixels that the page is wide in a window of that width, with what sticks out of it."""
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<iframe width={window} height=800 style='border: 0' src='{page.name}'></iframe><script>onload = () =>"
        "document.body.append('width ' + frames[0].document.documentElement.scrollWidth)</script>"
    )
    done = subprocess.run(
        [CHROMIUM, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--allow-file-access-from-files",
         "--hide-scrollbars", "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    found = re.search(r"width (\d+)", done.stdout)
    assert found, done.stderr[-2000:]
    return int(found[1])


def test_the_report_has_a_clean_console(report: Path, tmp_path: Path) -> None:
    assert console(report, tmp_path) == []


@pytest.mark.parametrize("window", [360, 1200])
def test_nothing_sticks_out_of_the_page(window: int, report: Path, tmp_path: Path) -> None:
    assert width_of(report, window, tmp_path) == window


def test_what_sticks_out_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "wide.html"
    page.write_text("<div style='width: 500px'>wide</div>")
    assert width_of(page, 360, tmp_path) > 360


def test_an_error_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<body style='background: linear-gradient(red, blue)'><script>missing()</script>" + "x" * 5000)
    assert len(console(page, tmp_path)) == 1
