"""The ledger under processes that race, are killed, or find the server away; and all commands on a real server."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import servers
from cytoloop import ledger, registry, tracking
from cytoloop.cli import run
from cytoloop.ledger import Act, verify
from mlflow_store import empty_database, store, write_bundle_stub
from servers import MlflowServer

__all__ = ["store"]

pytestmark = pytest.mark.slow

NAME = "cells"
BEGIN = """
import json, os, signal, sys
from cytoloop import ledger, registry, tracking
from cytoloop.ledger import Act
tracking.quiet_mlflow().tracking
print("ready", flush=True)
sys.stdin.readline()
"""
PROMOTE = """
def promote(version, alias, expect=None):
    return registry.promote("cells", version, alias, expect, Act("promote", version, "better", "cytoloop register"))
"""
KILL = """
import mlflow
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
mlflow.MlflowClient.{} = die
"""


def start(script: str) -> "subprocess.Popen[str]":
    """A process that is ready to go."""
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN + PROMOTE + script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def race(*scripts: str) -> list[str]:
    """What each printed last; all begin at the same moment."""
    processes = [start(script) for script in scripts]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(scripts)
    return [text.splitlines()[-1] for text in printed]


@pytest.fixture
def three(store: Path) -> Path:
    """Three versions without bundles, none of which reigns."""
    client = tracking.open_store()
    client.create_registered_model(NAME)
    for _ in range(3):
        client.create_model_version(NAME, str(store.parent))
    return store.parent


def reigning(alias: str = "champion") -> str | None:
    version = registry.current(NAME, alias)
    return version.version if version else None


def whole() -> bool:
    return verify(*ledger.read_with_head(NAME)) == []


def test_of_two_that_promote_at_once_exactly_one_wins(three: Path) -> None:
    script = "print(json.dumps([promote('{}', f'round-{{i}}') for i in range(10)]))"
    ours, theirs = (json.loads(text) for text in race(script.format(1), script.format(2)))
    assert [a + b for a, b in zip(ours, theirs, strict=True)] == [1] * 10
    entries = ledger.read(NAME)
    assert [entry.number for entry in entries] == list(range(1, 11))
    assert whole()
    by_alias = {entry.act.details["alias"]: entry.act.version for entry in entries}
    assert by_alias == {f"round-{i}": "1" if won else "2" for i, won in enumerate(ours)}
    assert all(reigning(alias) == version for alias, version in by_alias.items())


@pytest.mark.parametrize("before", ["set_registered_model_alias", "set_registered_model_tag", "log_artifact"])
def test_killed_between_act_and_alias_the_next_run_finishes(three: Path, before: str) -> None:
    process = start(KILL.format(before) + "promote('1', 'champion')")
    process.communicate("go\n", timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert reigning() is None
    assert race("print(promote('1', 'champion'))") == ["True"]
    assert reigning() == "1"
    assert [(entry.act.what, entry.act.version) for entry in ledger.read(NAME)] == [("promote", "1")]
    assert whole()


def test_an_interrupted_promotion_is_finished_once_also_after_acts_of_others(three: Path) -> None:
    assert race("print(promote('1', 'champion'))") == ["True"]
    process = start(KILL.format("set_registered_model_alias") + "promote('2', 'champion', '1')")
    process.communicate("go\n", timeout=120)
    ledger.append(NAME, Act("keep", "3", "not better", "cytoloop register"))
    assert race("print(promote('2', 'champion', '1'))") == ["True"]
    assert [(entry.act.what, entry.act.version) for entry in ledger.read(NAME)] == [
        ("promote", "1"), ("promote", "2"), ("keep", "3")
    ]  # fmt: skip
    assert whole()


# ------------------------------------------------------------------------------------------- on a server


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    """MLflow's own, to which the environment points with little patience."""
    (tmp_path / "mlflow.db").write_bytes(empty_database())
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CYTOLOOP_ACTOR", "ann@example.org")
    monkeypatch.setenv("CYTOLOOP_TRACKING_PATIENCE", "2")
    database, log = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "log"
    with servers.mlflow_server(database, f"{tmp_path}/artifacts", {}, log) as running:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", running.address)
        yield running


def models(*words: str) -> int:
    return run(["models", *words, "--name", NAME])


def test_all_commands_on_a_server(server: MlflowServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tracking.start_run("cells", "a run", {}) as trained:
        pass
    for seed in (1, 2, 3):
        digest = write_bundle_stub(tmp_path / str(seed), seed)
        version = registry.register_version(NAME, tmp_path / str(seed), trained.id, {"model_digest": digest})
        ledger.append(NAME, Act("register", version.version, "a new model", "cytoloop register"))

    assert models("promote", "1", "--reason", "the first") == 0
    assert models("promote", "2", "--reason", "the second") == 0
    assert models("rollback", "--reason", "worse in use") == 0
    assert models("archive", "2", "--reason", "worse in use") == 0
    assert models("promote", "2", "--reason", "once more") == 1
    assert models("list") == models("show", "1") == models("compare", "1", "2") == 0
    out = capsys.readouterr().out
    assert "@champion" in out
    assert "archived: worse in use" in out
    assert models("audit", "--jsonl", "acts.jsonl") == 0
    done = [json.loads(line)["what"] for line in Path("acts.jsonl").read_text().splitlines()]
    assert done == ["register"] * 3 + ["promote", "promote", "rollback", "archive"]

    # two writers at once: no act is lost; a fork, if there was one, is joined by the next act
    keep = "[ledger.append('cells', Act('keep', '3', f'{} {{i}}', 'x')) for i in range(5)]; print('done')"
    race(keep.format("mine"), keep.format("yours"))
    assert models("archive", "3", "--reason", "enough") == 0
    assert models("audit") == 0
    assert len(ledger.read(NAME)) == 18

    # the server is away: nothing reigns without its act
    server.kill()
    assert models("promote", "1", "--reason", "once more") == 1
    assert "does not answer" in capsys.readouterr().err
    server.start()
    (tmp_path / "artifacts").rename(tmp_path / "away")
    assert models("promote", "3", "--reason", "blind") == models("rollback", "--reason", "blind") == 1
    assert models("archive", "3", "--undo", "--reason", "blind") == 1
    assert capsys.readouterr().err.count("out of reach") == 3
    (tmp_path / "away").rename(tmp_path / "artifacts")
    assert models("audit") == 0
    assert reigning() == "1"
