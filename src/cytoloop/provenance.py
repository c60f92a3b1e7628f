"""Where a result comes from: the commit, the data, the params, the versions."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

PACKAGES = ("cytoloop", "keras", "numpy", "opencv-python-headless", "tensorflow")
SHOWN = 12  # characters of a digest, for people
ORIGIN = ("image", "data_revision", "data_hash", "kfp_run_id")


def provenance(digests: dict[str, str], sections: dict[str, Any]) -> dict[str, Any]:
    """The facts that a model carries with it; the same for the same commit, data and params.

    Args:
        digests: of the artifacts that it was made from, by name.
        sections: the params that it was made with, by section.
    """
    plain = {name: _plain(value) for name, value in sections.items()}
    return {
        "git_commit": git_commit(),
        **origin(),
        "digests": digests,
        "params": plain,
        "params_sha256": fingerprint(plain),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def origin() -> dict[str, str]:
    """Where an orchestrator says that a run comes from, as far as it does: the tags of a run in MLflow.

    `image`, `data_revision` (of the data's own repository), `data_hash` (DVC's) and `kfp_run_id`, from
    CYTOLOOP_IMAGE, CYTOLOOP_DATA_REVISION, ... in the environment.
    """
    told = {name: os.environ.get(_variable(name), "") for name in ORIGIN}
    return {name: value for name, value in told.items() if value}


def whence() -> dict[str, str]:
    """`source`, the address of the pictures, where it is known: a tag of a run, and of no artifact."""
    told = os.environ.get(_variable("source"), "")
    return {"source": told} if told else {}


def remember_origin(told: Mapping[str, str]) -> None:
    """Put what is said of `git_commit`, `source` and ORIGIN where `git_commit`, `whence` and `origin` look for it."""
    os.environ.update({_variable(name): value for name, value in told.items() if value})


def _variable(name: str) -> str:
    return f"CYTOLOOP_{name.upper()}"


def fingerprint(value: Any) -> str:
    """SHA-256 of a JSON-able value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(_plain(value), sort_keys=True).encode()).hexdigest()


def git_commit() -> str:
    """The commit of the working folder; CYTOLOOP_GIT_COMMIT where there is no git (an image), else unknown.

    Uncommitted changes show as a `-dirty` behind it; those of dvc.lock do not count, since every run makes them.
    """
    given = os.environ.get("CYTOLOOP_GIT_COMMIT")
    if given:
        return given
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/dvc.lock")
        return commit + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value
