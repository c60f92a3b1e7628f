"""`dvc` killed in mid-training takes the trainer with it, and the next run goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

DVC_YAML = """
stages:
  sleep:
    cmd: python -c "from cytoloop.workspace import end_with_dvc; end_with_dvc();
      import time; open('began', 'w').close(); time.sleep(120)"
    outs: [done]
"""


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])  # bash becomes its last command, dash does not
def test_no_orphan_is_left(tmp_path: Path, shell: str) -> None:
    (tmp_path / "dvc.yaml").write_text(DVC_YAML)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    environment["SHELL"] = shell
    subprocess.run(["dvc", "init", "-q", "--no-scm"], cwd=tmp_path, env=environment, check=True)
    dvc = subprocess.Popen(["dvc", "repro"], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "began").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    children = psutil.Process(dvc.pid).children(recursive=True)
    assert children
    os.kill(dvc.pid, signal.SIGKILL)
    dvc.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []
