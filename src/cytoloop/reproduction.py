"""A registered version made again, and every artifact on the way compared by its digest.

How it works: the version's commit is checked out into a passing git worktree, with the version's own
params and the pictures that its run names. The steps of *that* code run there one after another, with
this environment's packages and an MLflow store of their own. After each step the digest of what it
wrote is compared with the one that the version recorded, and the first that differs ends the work:
whatever follows from it would differ too.
"""

import importlib.metadata
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cytoloop import registry
from cytoloop.artifacts import (
    ARRAYS,
    BEST_PARAMS,
    BUNDLE,
    METRICS,
    RECEIPT,
    SPLITS,
    SPLITS_SUMMARY,
    flat,
    read_card,
    read_json,
    sha256_file,
)
from cytoloop.door import FOLDERS
from cytoloop.errors import CytoloopError, Irreproducible
from cytoloop.lineage import Evidence, gather
from cytoloop.model.bundle import read_bundle
from cytoloop.params import read_yaml

STEPS = {
    "ingest": "raw",
    "validate": "validated",
    "split": "splits",
    "augment": "augmented",
    "tune": "best_params",
    "train": "model",
    "evaluate": "evaluation",
}
"""What is run again, and the artifact that is compared then."""
DIGESTS: Mapping[str, Callable[[Path], str]] = {
    "raw": lambda folder: read_card(folder).digest,
    "validated": lambda folder: sha256_file(folder / RECEIPT),
    "splits": lambda folder: sha256_file(folder / SPLITS),
    "augmented": lambda folder: read_card(folder).digest,
    "best_params": lambda folder: sha256_file(folder / BEST_PARAMS),
    "model": lambda folder: read_bundle(folder).file.model_digest,
    "evaluation": lambda folder: sha256_file(folder / METRICS),
}
LOCK = "requirements.lock"
OURS = ("CYTOLOOP_", "MLFLOW_", "GIT_", "DVC_", "TF_CONFIG")
"""Beginnings of variables that would tie the rerun to stores, studies and repositories of others."""
PATIENCE = 10
"""Seconds that an interrupted step is given to end by itself."""
SHOWN = 3  # differences in a message

Say = Callable[[str], None]


@dataclass(frozen=True)
class Workplace:
    """Where a version is made again."""

    project: Path
    """The project's own working folder, which is only read."""
    tree: Path
    """The worktree of the version's commit."""
    scratch: Path
    """For all that is in neither."""

    def artifact(self, name: str) -> Path:
        """Where the rerun writes an artifact."""
        return self.tree / FOLDERS[name]


def reproduce(uri: str, project: Path, say: Say, source: str | None = None) -> None:
    """Make a version again and compare.

    Args:
        uri: `models:/NAME@ALIAS` or `models:/NAME/3`.
        project: the folder of the git repository that has the version's commit.
        say: told what is done, a line at a time.
        source: where the pictures lie today, instead of where they lay.

    Raises:
        Irreproducible: an artifact differs, and the message names the first one and how; or the version has not
            recorded enough to say that all is the same.
        ModelError: there is no such version.
        CytoloopError: it cannot be made again at all: commit, params or pictures are not there, or a
            step fails.
    """
    found = gather(uri)
    say(f"{found.version.name} version {found.version.version}, commit {found.tag('git_commit') or 'not recorded'}")
    with _terminable(), _workplace(project, _commit(found, project)) as place:
        for note in _notes(found, place):
            say(f"note: {note}")
        params = _write_params(found, place, source)
        same = [name for step, name in STEPS.items() if _again(step, found, place, params, say)]
    if len(same) < len(STEPS):
        unknown = ", ".join(name for name in STEPS.values() if name not in same)
        raise Irreproducible(f"{found.version.uri}: all that could be compared is identical; not recorded: {unknown}")
    say(f"byte-identical: {', '.join(same)}")


def _again(step: str, found: Evidence, place: Workplace, params: Path, say: Say) -> bool:
    """Run a step and compare what it wrote; whether it could be compared, and is the same."""
    name = STEPS[step]
    then = _recorded(found, name)
    if name == "raw":
        _make_table(then, place, params, say)
    else:
        _run_step(step, place, params)
    now = DIGESTS[name](place.artifact(name))
    if then is None:
        say(f"{name:12}{now[:12]}  not compared: the version has not recorded it")
        return False
    if then != now:
        raise Irreproducible(
            f"{found.version.uri} is not reproduced: {name} differs first: {then[:12]} then, {now[:12]} now; "
            f"{_how(name, found, place)}"
        )
    say(f"{name:12}{now[:12]}  identical")
    return True


def _recorded(found: Evidence, name: str) -> str | None:
    """An artifact's digest as the version has it, else as its bundle or its evaluation."""
    known = {"model": found.bundle.get("model_digest"), "evaluation": found.metrics_digest}
    return next((digest for digest in (*found.digests(name).values(), known.get(name)) if digest), None)


# ----------------------------------------------------------------------------------- commit and place


def _commit(found: Evidence, project: Path) -> str:
    """The version's commit, which the repository has."""
    commit = (found.tag("git_commit") or "unknown").removesuffix("-dirty")
    where = f"{found.version.uri}: its commit {commit}"
    if commit == "unknown":
        raise CytoloopError(f"{found.version.uri}: its commit was not recorded; such a version cannot be made again")
    try:
        _git(project, "cat-file", "-e", f"{commit}^{{commit}}")
    except FileNotFoundError:
        raise CytoloopError(f"{where} cannot be checked out: there is no git on this machine") from None
    except subprocess.CalledProcessError:
        raise CytoloopError(
            f"{where} is not in the git repository of {project.absolute()}; `git fetch` it, or go to the project"
        ) from None
    return commit


@contextmanager
def _terminable() -> Iterator[None]:
    """A SIGTERM leaves as SystemExit, so that all is removed that was made; a second one is not heard meanwhile."""

    def leave(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # no other may listen
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _workplace(project: Path, commit: str) -> Iterator[Workplace]:
    """A worktree of the commit, which is removed in any case."""
    below = _git(project, "rev-parse", "--show-prefix").strip()  # a project may be a folder of a larger repository
    with tempfile.TemporaryDirectory(prefix="cytoloop-reproduce-") as folder:
        tree = Path(folder) / "tree"
        try:
            _git(project, "worktree", "add", "--quiet", "--detach", str(tree), commit)
            yield Workplace(project.absolute(), tree / below, Path(folder))
        finally:
            with suppress(subprocess.CalledProcessError):  # it was not made yet
                _git(project, "worktree", "remove", "--force", str(tree))


def _git(project: Path, *arguments: str) -> str:
    """What git says, without the repository's hooks, which may start anything.

    It comes to its end even when this process is told to: half a worktree could not be removed.
    """
    command = ["git", "-c", "core.hooksPath=/dev/null", *arguments]
    process = subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said, error = process.communicate()
    except BaseException:  # KeyboardInterrupt, and SystemExit of a SIGTERM
        process.communicate()
        raise
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, said, error)
    return said


def _notes(found: Evidence, place: Workplace) -> Iterator[str]:
    """Why the rerun may differ, before it begins."""
    if str(found.tag("git_commit")).endswith("-dirty"):
        yield "the version was made with changes that were never committed; the commit alone is run again"
    then, now = found.environment, _installed()
    for name in sorted(then):
        if then[name] != now.get(name):
            yield f"{name} {then[name]} then, {now.get(name, 'none')} now"
    locks = [_text(folder / LOCK) for folder in (place.tree, place.project)]
    if locks[0] != locks[1]:
        yield f"{LOCK} of the commit is not this project's; for its packages, install it in an environment of its own"
    if found.tag("image"):
        yield f"it was trained in the image {found.tag('image')}, and is run again in this environment"


def _installed() -> dict[str, str]:
    """Versions of Python and of all packages of this environment, by name."""
    packages = {package.name: package.version for package in importlib.metadata.distributions()}
    return {"python": platform.python_version(), **packages}


def _text(path: Path) -> str:
    return path.read_text("utf-8") if path.is_file() else ""


# ----------------------------------------------------------------------------------- params and data


def _write_params(found: Evidence, place: Workplace, source: str | None) -> Path:
    """The version's own params.yaml: what it recorded, over what its commit has."""
    committed = place.tree / "params.yaml"
    tree: dict[str, Any] = read_yaml(committed, "params file") if committed.is_file() else {}
    recorded = found.params
    address = source or recorded.get("ingest", {}).get("source") or tree.get("ingest", {}).get("source")
    if not recorded or address is None:
        raise CytoloopError(
            f"{found.version.uri}: its params were not recorded, and its commit has no params.yaml with ingest.source"
            if not recorded
            else f"{found.version.uri}: where its pictures lie was not recorded; give --source"
        )
    tree |= recorded
    tree["ingest"] = {**tree["ingest"], "source": _source(address, place, source is not None)}
    tree["train"] = {**tree["train"], "start_from": _start(found, tree["train"].get("start_from"), place)}
    for path in (tree["model"].get("weights"), *tree["ingest"].get("smear", {}).get("cells_from", ())):
        if path:
            _bring(path, place)
    written = place.scratch / "params.yaml"
    written.write_text(yaml.safe_dump(tree, sort_keys=False), "utf-8")
    return written


def _start(found: Evidence, path: str | None, place: Workplace) -> str | None:
    """Where the weights lie that the training started from: at their place, else in the registry."""
    if path is None:
        return None
    digest = found.provenance.get("digests", {}).get("start_from")
    there = place.project / path
    arrays = there / ARRAYS if there.is_dir() else there
    if arrays.is_file() and digest in (None, sha256_file(arrays)):
        return str(there.absolute())
    address = registry.URI.fullmatch(path)
    for version in registry.versions(address["name"] if address else found.version.name):
        file = registry.fetch(version.uri, place.scratch / f"version-{version.version}", BUNDLE)
        if read_json(file)["arrays_sha256"] == digest:
            return str(registry.fetch(version.uri, place.scratch / "start"))
    raise CytoloopError(
        f"{found.version.uri}: it was trained from {path} (SHA-256 {digest}), which is neither there nor a version"
    )


def _source(address: str, place: Workplace, given: bool) -> str:
    """Where the pictures are found from the worktree."""
    if "://" in address:
        return address
    if given:
        return str((place.project / address).absolute())
    _bring(address, place)
    return address


def _bring(path: str, place: Workplace) -> None:
    """Put a file or folder of the project into the worktree, where the commit has it not.

    What the commit names by its MD5 in a .dvc file comes from the cache or the remote of DVC; else it is
    linked from the project, and may have changed since.
    """
    if (place.tree / path).exists():
        return
    for part in (Path(path), *Path(path).parents):
        pointer = place.tree / f"{part}.dvc"
        if pointer.is_file() and _from_dvc(place, _md5(pointer), place.tree / part):
            return
    if (place.project / path).exists():
        (place.tree / path).parent.mkdir(parents=True, exist_ok=True)
        (place.tree / path).symlink_to((place.project / path).resolve())


def _md5(pointer: Path) -> str:
    """Of the file or folder that a .dvc file stands for; nothing where it stands for none, or for several."""
    outs = yaml.safe_load(pointer.read_text("utf-8")).get("outs", [])
    return str(outs[0].get("md5", "")) if len(outs) == 1 else ""


def _from_dvc(place: Workplace, md5: str, target: Path) -> bool:
    """Bring content by its MD5 from the cache or the remotes of the project's DVC; whether it was there."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    if not md5:
        return False
    holder = Path(tempfile.mkdtemp(dir=place.scratch))
    out = {"md5": md5, "hash": "md5", "path": "content"}
    (holder / ".dvc").mkdir()
    (holder / "content.dvc").write_text(yaml.safe_dump({"outs": [out]}), "utf-8")
    try:
        with Repo(str(place.project)) as known:
            default = {name: value for name, value in known.config["core"].items() if name == "remote"}
            stores = {"remote": known.config["remote"], "cache": {"dir": known.cache.local_cache_dir}}
        with Repo(str(holder), config=stores | {"core": {"no_scm": True, **default}}) as passing:
            passing.pull()
    except DvcException:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    (holder / "content").rename(target)
    return True


def _make_table(digest: str | None, place: Workplace, params: Path, say: Say) -> None:
    """Ingest the source; where that is gone or has changed, take the table that DVC has by the digest, if it has."""
    gone: CytoloopError | None = None
    try:
        _run_step("ingest", place, params)
    except CytoloopError as error:
        gone = error
    if gone is None and digest in (None, read_card(place.artifact("raw")).digest):
        return
    if digest is not None and _raw_by_digest(place, digest):
        state = "is gone" if gone else "has changed since"
        say(f"note: the source {state}; going on from the table that DVC has by its digest")
    elif gone:
        raise gone


def _raw_by_digest(place: Workplace, digest: str) -> bool:
    """Replace the rerun's table by the one with that digest, if some dvc.lock of the project knows it."""
    raw = place.artifact("raw")
    for md5 in _tables(place):
        candidate = Path(tempfile.mkdtemp(dir=place.scratch)) / "raw"
        if _from_dvc(place, md5, candidate) and read_card(candidate).digest == digest:
            shutil.rmtree(raw, ignore_errors=True)
            raw.parent.mkdir(parents=True, exist_ok=True)
            candidate.rename(raw)
            return True
    return False


def _tables(place: Workplace) -> Iterator[str]:
    """The MD5s that `raw` ever had, by the project's dvc.lock and its history, newest first, each once."""
    commits = _git(place.project, "log", "--all", "--format=%H", "--", "dvc.lock").split()
    texts = (_lock(place.project, commit) for commit in commits)
    seen = set()
    for text in chain([_text(place.project / "dvc.lock")], texts):
        outs = (yaml.safe_load(text) or {}).get("stages", {}).get("ingest", {}).get("outs", ())
        for md5 in (out["md5"] for out in outs if out["path"] == FOLDERS["raw"]):
            if md5 not in seen:
                seen.add(md5)
                yield md5


def _lock(project: Path, commit: str) -> str:
    """dvc.lock in a commit; nothing in one that removes it."""
    with suppress(subprocess.CalledProcessError):
        return _git(project, "show", f"{commit}:./dvc.lock")
    return ""


# ------------------------------------------------------------------------------------------- the steps


def _run_step(step: str, place: Workplace, params: Path) -> None:
    """Run a step of the worktree's own code there; raises CytoloopError when it fails, which it explains itself."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    environment |= {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(place.tree / "src"), os.environ.get("PYTHONPATH")])),
        "CYTOLOOP_WORK": str(place.scratch / "work"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{place.scratch / 'mlflow.db'}",  # nobody else's
    }
    command = [sys.executable, "-m", "cytoloop", step, "--params", str(params)]
    process = subprocess.Popen(command, cwd=place.tree, env=environment, stdout=subprocess.DEVNULL)
    with _ended(process):
        code = process.wait()
    if code:
        raise CytoloopError(f"{step} failed in the rerun (exit code {code}), for what it said above")


@contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """However the context ends, the process has ended too: it still writes in what is to be removed."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


# ------------------------------------------------------------------------------------ what is different


def _how(name: str, found: Evidence, place: Workplace) -> str:
    """In what an artifact differs, for people."""
    folder = place.artifact(name)
    if name == "model":
        return _how_the_model(found, folder, place)
    then, now = _facts(name, found, folder)
    return _differences(then, now) or "all that is known of it is the same, its content is not"


def _facts(name: str, found: Evidence, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is known of an artifact: of the version's, and of the rerun's."""
    if name == "raw":
        return found.told("raw"), asdict(read_card(folder))
    if name == "validated":
        return found.told("validated"), read_json(folder / RECEIPT)
    if name == "splits":
        return found.told("splits"), read_json(folder / SPLITS_SUMMARY)
    if name == "best_params":
        return found.bundle.get("model", {}), read_json(folder / BEST_PARAMS)["model"]
    if name == "evaluation":
        return found.metrics, read_json(folder / METRICS)
    return {}, {}


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first facts that both know and that differ; digests say nothing to people."""
    before, after = flat(then), flat(now)
    names = [name for name in before if name in after and before[name] != after[name] and "digest" not in name]
    lines = [f"{name} {before[name]} then, {after[name]} now" for name in names[:SHOWN]]
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return "; ".join([*lines, *more])


def _how_the_model(found: Evidence, folder: Path, place: Workplace) -> str:
    """How many arrays differ and by how much, or else what beside them."""
    now = read_bundle(folder)
    if not found.bundle:
        return "the version's bundle is gone, so that arrays cannot be compared"
    then = read_bundle(registry.fetch(found.version.uri, place.scratch / "then"))
    names = sorted(then.arrays.keys() & now.arrays.keys())
    if len(names) < max(len(then.arrays), len(now.arrays)):
        return f"another network: {len(then.arrays)} arrays then, {len(now.arrays)} now"
    unlike = [name for name in names if not np.array_equal(then.arrays[name], now.arrays[name])]
    if not unlike:
        return _differences(then.file.model_dump(), now.file.model_dump()) or "its arrays are the same"
    return f"{len(unlike)} of {len(names)} arrays differ, {_worst(then.arrays, now.arrays, unlike)}"


def _worst(then: Mapping[str, Any], now: Mapping[str, Any], names: list[str]) -> str:
    """The array with the largest difference."""
    if any(then[name].shape != now[name].shape for name in names):
        return "also in their shapes"
    furthest = {name: float(np.max(np.abs(then[name] - now[name]))) for name in names}
    worst = max(furthest, key=lambda name: furthest[name])
    return f"by {furthest[worst]:.3g} at most, in {worst}"
