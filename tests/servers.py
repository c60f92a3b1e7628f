"""Real servers for tests: PostgreSQL in a throw-away cluster, and MLflow's own server, which can be stopped.

Fixtures live in the modules that use them (`postgres = servers.postgres`), once a session.
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""Settings of a cluster that nobody will miss."""


def free_ports(number: int) -> list[int]:
    doors = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [int(door.getsockname()[1]) for door in doors]
    for door in doors:
        door.close()
    return ports


def free_port() -> int:
    return free_ports(1)[0]


# ------------------------------------------------------------------------------------------ PostgreSQL


@dataclass(frozen=True)
class Postgres:
    """A cluster on a port of its own."""

    port: int

    def database(self, name: str) -> str:
        """The address, for SQLAlchemy, of a new and empty database."""
        with psycopg.connect(host="127.0.0.1", port=self.port, user="tester", dbname="postgres", autocommit=True) as c:
            c.execute(f'drop database if exists "{name}" with (force)')
            c.execute(f'create database "{name}"')
        return f"postgresql+psycopg://tester@127.0.0.1:{self.port}/{name}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A cluster in a folder of its own, which is gone afterwards; skips where PostgreSQL is not installed."""
    if not BINARIES:
        pytest.skip("PostgreSQL's server is not installed: apt-get install postgresql")
    port, folder = free_port(), Path(tempfile.mkdtemp(prefix="cytoloop-postgres-"))
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    try:
        _command("initdb", "-D", f"{folder}/data", "-U", "tester", "--auth=trust", "--no-sync", "-E", "UTF8")
        settings = " ".join(f"-c {name}={value}" for name, value in QUICK.items())
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 {settings}"
        _command("pg_ctl", "-D", f"{folder}/data", "-l", f"{folder}/log", "-o", options, "-w", "start")
        yield Postgres(port)
        _command("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _command(name: str, *arguments: str) -> None:
    """PostgreSQL refuses to be root's; then it is the system's user `postgres`'s."""
    user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    done = subprocess.run(
        [BINARIES[-1] / name, *arguments], cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **user
    )
    assert done.returncode == 0, f"{name}: {done.stdout}"


# ----------------------------------------------------------------------------------------------- MLflow


class MlflowServer:
    """MLflow's server as a process that can be frozen, killed, and started again at the same address.

    Args:
        store: the database's address, for SQLAlchemy.
        artifacts: folder or s3:// address that the server keeps artifacts in.
        environment: of the process, on top of ours.
        log: what the server says.
    """

    def __init__(self, store: str, artifacts: str, environment: Mapping[str, str], log: Path) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", store, "--artifacts-destination", artifacts,
        ]  # fmt: skip
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        ours = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        self._environment = ours | quiet | dict(environment)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environment, cwd=self._log.parent, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 120
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()[-3000:]
            assert time.monotonic() < deadline, "MLflow's server does not start"
            time.sleep(0.1)

    def freeze(self) -> None:
        """From now on it takes connections and says nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """From now on connections to it are refused."""
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        self._process = None

    @property
    def runs(self) -> bool:
        return self._process is not None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)  # its workers too

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
        return False


@contextlib.contextmanager
def mlflow_server(store: str, artifacts: str, environment: Mapping[str, str], log: Path) -> Iterator[MlflowServer]:
    """A running server, which is gone afterwards."""
    server = MlflowServer(store, artifacts, environment, log)
    try:
        server.start()
        yield server
    finally:
        if server.runs:
            server.kill()


def until(happened: Callable[[], bool], seconds: float = 180) -> None:
    """Wait for something."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
