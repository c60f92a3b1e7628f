"""A clone of the working tree with a small default, as a user would have it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
SMALL = {
    "ingest": {
        "smear": {"train": 24, "valid": 8, "test": 8, "size": 64, "cells_per_class": 10, "seed": 7},
        "rows_per_shard": 1,
    },  # more files than an artifact has in a cluster
    "validate": {"min_pictures": 10, "required_classes": "any"},
    "model": {"image_width": 64, "image_height": 64, "base_filters": 4, "num_layers": 2},
    "augment": {"copies": 1},
    "tune": {"trials": 2, "epochs": 1, "pictures": 16, "space": {"model.base_filters": {"choices": [4, 8]}}},
    "train": {"epochs": 2, "patience": 2},
    "evaluate": {"bootstrap_samples": 20, "examples": 1},
    "infer": {"limit": 2},
    "register": {"floor": 0},  # two epochs teach nothing
}

ORIGIN = {"image": "cytoloop-python:4f2c91e", "data_revision": "v7", "data_hash": "0" * 32}
"""What an orchestrator would say of a run."""


def clone(folder: Path) -> Path:
    """The working tree's files, committed; nothing has run in it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    for section, changes in SMALL.items():
        params[section] |= changes
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (folder / "dvc.lock").unlink(missing_ok=True)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "0"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def shell(project: Path, *command: str, **variables: str) -> str:
    """Run a command in the clone, with some more environment variables; returns what it said."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "GIT_"))}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(project / "src"),
        "DVC_NO_ANALYTICS": "1",
        "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t",
    } | variables  # fmt: skip
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr
