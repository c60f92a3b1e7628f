"""How the tests run: in several processes, and able to be interrupted."""

import signal
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

# a shell's background job is born deaf to Ctrl-C, and so are its children: tests that press it need it heard
signal.signal(signal.SIGINT, signal.default_int_handler)

ONE_RUN = "tests/pipeline/"


class ByFixtures(LoadScopeScheduling):
    """Tests of a file share its fixtures, hence a process; and so do all that look at one `dvc repro`."""

    def _split_scope(self, nodeid: str) -> str:
        return ONE_RUN if nodeid.startswith(ONE_RUN) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFixtures:
    return ByFixtures(config, log)
