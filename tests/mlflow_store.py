"""A real MLflow store for a test, on SQLite in its own folder, and bundles small enough to register at once."""

import functools
import os
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cytoloop import registry
from cytoloop.artifacts import ARRAYS, BUNDLE, sha256_file, write_json
from cytoloop.ledger import PROMOTE, Act
from cytoloop.model.bundle import write_arrays
from cytoloop.params import ModelParams
from cytoloop.tracking import INJECTED_RUN, open_store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The database file of an empty store; the environment points to it, the test stands in its folder."""
    database = tmp_path / "mlflow.db"
    database.write_bytes(empty_database())
    monkeypatch.delenv(INJECTED_RUN, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    monkeypatch.chdir(tmp_path)
    return database


def let_reign(name: str, version: str, alias: str = "champion", expect: str | None = None) -> bool:
    """Move an alias, with an act in the ledger that says so."""
    return registry.promote(name, version, alias, expect, Act(PROMOTE, version, "for a test", "a test"))


@functools.cache
def empty_database() -> bytes:
    """A database with MLflow's tables and nothing in them; they take seconds to make, so once is enough."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        made, copy = Path(folder) / "made.db", Path(folder) / "copy.db"
        patch.setitem(os.environ, "MLFLOW_TRACKING_URI", f"sqlite:///{made}")
        open_store()
        with sqlite3.connect(made) as source, sqlite3.connect(copy) as target:
            source.backup(target)
        source.close(), target.close()
        return copy.read_bytes()


def write_bundle_stub(folder: Path, seed: int, **told: Any) -> str:
    """A bundle whose one array belongs to no network, with another digest for another seed; returns the digest.

    What is `told` stands in its provenance.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_arrays(folder / ARRAYS, {"weights": np.random.default_rng(seed).random(8)})
    sha256 = sha256_file(folder / ARRAYS)
    body = {
        "format": 1,
        "model": ModelParams(num_classes=2).model_dump(mode="json"),
        "classes": [],
        "threshold": 0.5,
        "min_object": 0,
        "parameters": 8,
        "arrays_sha256": sha256,
        "model_digest": sha256,
        "provenance": {"git_commit": "c0ffee", "digests": {"raw": "da7a"}, **told},
    }
    write_json(folder / BUNDLE, body)
    return sha256
