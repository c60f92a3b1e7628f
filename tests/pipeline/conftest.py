"""One run of the pipeline by DVC, for all who look at what came of it."""

import shutil
from pathlib import Path

import pytest

from clone import ORIGIN, clone, shell

RESULTS = ("data", "models", "reports", "params.yaml")


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which nothing has run."""
    return clone(tmp_path_factory.mktemp("a user's folder") / "cytoloop")


@pytest.fixture(scope="session")
def first_run(project: Path) -> Path:
    """What the first `dvc repro` wrote, set aside from the clone in which others go on."""
    shell(project, "dvc", "repro", **{f"CYTOLOOP_{name.upper()}": value for name, value in ORIGIN.items()})
    aside = project.with_name("first run")
    aside.mkdir()
    for name in RESULTS:
        copy = shutil.copytree if (project / name).is_dir() else shutil.copy
        copy(project / name, aside / name)
    return aside


@pytest.fixture(scope="session")
def ran(project: Path, first_run: Path) -> Path:
    """The clone after the first run."""
    return project
