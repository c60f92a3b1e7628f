"""The image: its locks agree with the project's, and its Dockerfile keeps to what is promised."""

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "infra" / "image"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCKS = {name: (IMAGE / f"requirements-{name}.lock").read_text("utf-8") for name in ("cpu", "gpu")}
DOCKERFILE = re.sub(r"\\\n\s*", "", (IMAGE / "Dockerfile").read_text("utf-8"))
LINES = [line for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]


def pins(text: str) -> dict[str, set[str]]:
    """Each `name==version ; marker` with its hashes."""
    found: dict[str, set[str]] = {}
    for line in text.splitlines():
        if not line.startswith(" "):
            pin = line.removesuffix("\\").strip()
            found[pin] = set()
        else:
            found[pin].add(line.strip().removesuffix("\\").strip())
    return found


def names(text: str) -> set[str]:
    return {Requirement(pin.split(";")[0]).name for pin in pins(text)}


def stages() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in LINES:
        if line.startswith("FROM "):
            name = line.rpartition(" AS ")[2]
            found[name] = []
        if line.startswith("ARG BASE"):
            continue
        found[name].append(line)
    return found


STAGES = stages()
TARGETS = ("cpu", "gpu")


@pytest.mark.parametrize("lock", TARGETS)
def test_a_lock_has_hashes_and_no_address(lock: str) -> None:
    for pin, hashes in pins(LOCKS[lock]).items():
        assert re.match(r"[a-z0-9][a-z0-9._-]*(\[.*\])?==\S+( ; .+)?$", pin), pin
        assert hashes, pin
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", one) for one in hashes), pin


def test_the_image_holds_the_versions_that_are_tested() -> None:
    tested = pins((ROOT / "requirements.lock").read_text("utf-8"))
    by_name = {pin.split(";")[0].strip(): hashes for pin, hashes in tested.items()}
    for pin, hashes in pins(LOCKS["cpu"]).items():
        assert by_name.get(pin.split(";")[0].strip()) == hashes, f"{pin}: run `make image-locks`"


@pytest.mark.parametrize("lock", TARGETS)
def test_the_image_holds_what_steps_need_and_no_tools_of_development(lock: str) -> None:
    extras = PROJECT["optional-dependencies"]
    locked = {Requirement(pin.split(";")[0]).name: pin for pin in pins(LOCKS[lock])}
    for text in [*PROJECT["dependencies"], *extras["cluster"]]:
        wanted = Requirement(text)
        versions = [
            pin.split(";")[0].strip().split("==")[1] for pin in pins(LOCKS[lock]) if pin.startswith(wanted.name)
        ]
        assert wanted.name in locked, f"{text}: run `make image-locks`"
        assert any(wanted.specifier.contains(version) for version in versions), f"{text}: run `make image-locks`"
    development = {Requirement(text).name for text in extras["dev"]} - {"cytoloop"}
    assert not development & locked.keys()


def test_the_gpu_image_has_nvidia_s_libraries_besides() -> None:
    more = names(LOCKS["gpu"]) - names(LOCKS["cpu"])
    assert {"nvidia-cudnn-cu12", "nvidia-nccl-cu12", "nvidia-cuda-runtime-cu12"} <= more
    assert all(name.startswith("nvidia-") for name in more)
    assert pins(LOCKS["cpu"]).items() <= pins(LOCKS["gpu"]).items()


def test_the_base_is_given_and_all_stages_come_from_it() -> None:
    assert LINES[0] == "ARG BASE"
    for name, lines in STAGES.items():
        origin = lines[0].split()[1]
        assert origin == "${BASE}" or origin in STAGES, name


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_as_a_numeric_user_with_a_home(target: str) -> None:
    assert STAGES[target][-1] == "USER 10001:10001"
    runtime = "\n".join(STAGES["runtime"])
    assert STAGES[target][0].split()[1] == "runtime"
    assert "useradd --uid 10001" in runtime
    assert "HOME=/home/cytoloop" in runtime
    assert "HEALTHCHECK" in runtime
    assert "WORKDIR /workspace" in runtime


def test_the_commit_is_demanded_and_becomes_label_and_environment() -> None:
    runtime = "\n".join(STAGES["runtime"])
    assert 'RUN test -n "$GIT_COMMIT"' in runtime
    assert "CYTOLOOP_GIT_COMMIT=$GIT_COMMIT" in runtime
    assert "org.opencontainers.image.revision=$GIT_COMMIT" in runtime


def test_nothing_is_installed_but_what_a_lock_has() -> None:
    installs = [line for line in LINES if re.search(r"pip (install|wheel)", line)]
    assert len(installs) == 5
    for line in installs:
        assert "--require-hashes" in line or "--no-deps" in line, line
    assert not [line for line in LINES if re.search(r"apt-get|curl|wget|^ADD ", line)]


def test_what_is_copied_reaches_the_build() -> None:
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    copied = [
        source for line in LINES if line.startswith("COPY ") and "--from" not in line for source in line.split()[1:-1]
    ]
    assert "*" in ignored
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) or source.startswith(f"{pattern}/") for pattern in kept), source
