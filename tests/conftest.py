"""How the tests run: in several processes, and able to be interrupted."""

import signal
from pathlib import Path

import pytest

# a shell's background job is born deaf to Ctrl-C, and so are its children: tests that press it need it heard
signal.signal(signal.SIGINT, signal.default_int_handler)

ONE_RUN = Path(__file__).parent / "pipeline"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a file share its fixtures, hence a process; and so do all that look at one `dvc repro`."""
    for item in items:
        shared = ONE_RUN if item.path.is_relative_to(ONE_RUN) else item.path
        item.add_marker(pytest.mark.xdist_group(shared.name))
