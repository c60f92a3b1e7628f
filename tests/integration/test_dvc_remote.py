"""The DVC remote on S3, as docs/how-to/data-on-s3.md has it, and a pod that takes from it without DVC and git."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cytoloop import storage
from cytoloop.artifacts import read_rows
from cytoloop.door import run_step
from cytoloop.errors import ParamsError, SourceError
from cytoloop.params import check_params
from drawn import params, write, zipped

pytest_plugins = ("s3_server",)

ROOT = Path(__file__).parents[2]
BUCKET = "cytoloop-data"
REMOTE = f"s3://{BUCKET}/dvc"


@pytest.fixture(autouse=True)
def bucket(s3: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CYTOLOOP_WORK", str(tmp_path / "work"))
    s3.create_bucket(Bucket=BUCKET)


def policy() -> str:
    """The rights that the page names."""
    page = (ROOT / "docs/how-to/data-on-s3.md").read_text()
    return page.partition("```json\n")[2].partition("```")[0]


def shell(folder: Path, *command: str, **variables: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "GIT_"))} | variables
    environment |= {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1",
        "PYTHONPATH": str(folder / "src"),
        "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@t",
    }  # fmt: skip
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def project(folder: Path) -> Path:
    """As much of this project as its stage `ingest` needs, with pictures beside it, in git."""
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("dvc.yaml", ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    recipe = yaml.safe_load((ROOT / "recipes/krd_wbc.yaml").read_text())
    recipe["ingest"]["source"] = "pictures"
    (folder / "params.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    zipped(write("krd_wbc", folder / "pictures"))
    shell(folder, "git", "init", "-q")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.slow
def test_push_clone_pull_and_nothing_to_do(s3_server: Any, tmp_path: Path) -> None:
    first = project(tmp_path / "first")
    shell(first, "dvc", "remote", "add", "--default", "s3", REMOTE)
    shell(first, "dvc", "add", "pictures", "pictures.zip")
    shell(first, "dvc", "repro", "ingest")
    with s3_server.holding(policy().replace("masks", "dvc")) as writer:
        shell(first, "dvc", "push", "pictures.dvc", "pictures.zip.dvc", "ingest", **writer)
    shell(first, "git", "add", "-A")
    shell(first, "git", "commit", "-qm", "0")
    shell(tmp_path, "git", "clone", "-q", "first", "second")
    second = tmp_path / "second"
    assert not (second / "pictures").exists()
    with s3_server.holding(policy()) as reader:
        shell(second, "dvc", "pull", "pictures.dvc", "ingest", **reader)
        a_pod_makes_the_same_table(first, tmp_path / "pod", reader)
    assert contents(second / "pictures") == contents(first / "pictures")
    assert contents(second / "data/raw") == contents(first / "data/raw")
    said = shell(second, "dvc", "repro", "ingest")
    assert "Stage 'ingest' didn't change, skipping" in said
    assert "Data and pipelines are up to date" in said
    table = yaml.safe_load((first / "dvc.lock").read_text())["stages"]["ingest"]["outs"][0]["md5"]
    assert contents(storage.fetch(f"dvc+{REMOTE}#{table}", tmp_path / "raw")) == contents(first / "data/raw")


def a_pod_makes_the_same_table(first: Path, pod: Path, reader: dict[str, str]) -> None:
    """In a folder without git and DVC, with no program on the PATH."""
    pod.mkdir()
    shutil.copy(first / "params.yaml", pod)
    environment = {**reader, "PATH": "", "PYTHONPATH": str(first / "src"), "CYTOLOOP_WORK": str(pod / "work")}
    for name in ("pictures", "pictures.zip"):
        recorded = yaml.safe_load((first / f"{name}.dvc").read_text())["outs"][0]["md5"]
        subprocess.run(
            [sys.executable, "-m", "cytoloop", "ingest", "--source", f"dvc+{REMOTE}#{recorded}"],
            cwd=pod, env=environment, check=True,
        )  # fmt: skip
        assert contents(pod / "data/raw") == contents(first / "data/raw")


# -------------------------------------------------------------- the remote's form, written by hand


def put(s3: Any, content: bytes, name: str | None = None) -> str:
    """Store content as DVC does; returns its MD5."""
    md5 = hashlib.md5(content).hexdigest()
    s3.put_object(Bucket=BUCKET, Key=f"dvc/files/md5/{md5[:2]}/{md5[2:]}{name or ''}", Body=content)
    return md5


def put_folder(s3: Any, files: dict[str, bytes]) -> str:
    """Store a folder as DVC does; returns its address."""
    tree = [{"md5": put(s3, content), "relpath": name} for name, content in sorted(files.items())]
    return f"dvc+{REMOTE}#{put(s3, json.dumps(tree).encode(), '.dir')}.dir"


def fetched(s3_server: Any) -> int:
    """Objects asked for since the last time."""
    number = sum(method == "GET" for method, _ in s3_server.requests)
    s3_server.behave()
    return number


def test_only_objects_that_are_not_there_are_fetched(s3: Any, s3_server: Any, tmp_path: Path) -> None:
    files = {"a/1": b"one", "a/2": b"two", "b": b"one", "empty": b""}
    address = put_folder(s3, files)
    s3_server.behave()
    place = storage.fetch(address, tmp_path)
    assert contents(place) == files
    assert fetched(s3_server) == 4  # the list, and three contents
    assert storage.fetch(address, tmp_path) == place
    assert fetched(s3_server) == 0
    (place / "a/2").unlink()
    (place / "a/2").write_bytes(b"TWO")
    (place / "stranger").touch()
    assert contents(storage.fetch(address, tmp_path)) == files
    assert fetched(s3_server) == 0  # it was kept by its content, too
    (place / "a/1").write_bytes(b"damaged")  # in place, so that what is kept is damaged with it
    assert contents(storage.fetch(address, tmp_path)) == files
    assert fetched(s3_server) == 1
    revised = put_folder(s3, {**files, "a/2": b"new"})
    s3_server.behave()
    assert contents(storage.fetch(revised, tmp_path)) == {**files, "a/2": b"new"}
    assert fetched(s3_server) == 2  # its list, and what it has of its own
    assert contents(place) == files


def test_content_that_is_not_its_name_is_refused(s3: Any, tmp_path: Path) -> None:
    address = put_folder(s3, {"1": b"right"})
    md5 = hashlib.md5(b"right").hexdigest()
    s3.put_object(Bucket=BUCKET, Key=f"dvc/files/md5/{md5[:2]}/{md5[2:]}", Body=b"wrong")
    with pytest.raises(SourceError, match=f"{REMOTE}/files/md5/{md5[:2]}/{md5[2:]}: its MD5 is not {md5}"):
        storage.fetch(address, tmp_path)
    assert [path.name.endswith(".dir") for path in tmp_path.rglob("*") if path.is_file()] == [True]
    put(s3, b"right")
    assert contents(storage.fetch(address, tmp_path)) == {"1": b"right"}


def test_content_that_is_not_there_is_told(s3: Any, tmp_path: Path) -> None:
    missing = hashlib.md5(b"nobody").hexdigest()
    with pytest.raises(SourceError, match=rf"{missing[2:]}.dir.*dvc push"):
        storage.fetch(f"dvc+{REMOTE}#{missing}.dir", tmp_path)


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "a\\..\\evil", "", "a//b"])
def test_names_that_lead_out_of_the_folder_are_refused(s3: Any, tmp_path: Path, name: str) -> None:
    address = put_folder(s3, {"good": b"1", name: b"2"})
    with pytest.raises(SourceError, match="lead out of the folder"):
        storage.fetch(address, tmp_path / "cache")
    assert not [path for path in tmp_path.rglob("*") if path.name in ("evil", "good")]


@pytest.mark.parametrize("content", [b"no list", b"{}", b'[{"relpath": "a"}]', b'[{"md5": "../../x", "relpath": "a"}]'])
def test_a_list_that_is_none_is_refused(s3: Any, tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SourceError, match="not a list of a folder's files"):
        storage.fetch(f"dvc+{REMOTE}#{put(s3, content, '.dir')}.dir", tmp_path)


@pytest.mark.parametrize("address", ["dvc+s3://data#abc", f"dvc+{REMOTE}", "dvc+gs://data/x#" + 32 * "0"])
def test_a_malformed_address_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(SourceError, match="not content of a DVC remote"):
        storage.fetch(address, tmp_path)
    tree = yaml.safe_load((ROOT / "params.yaml").read_text())
    tree["ingest"]["source"] = address
    with pytest.raises(ParamsError, match=r"ingest\.source.*dvc\+s3://"):
        check_params(tree, "test")


def test_a_table_from_content_is_the_folders(s3: Any, tmp_path: Path) -> None:
    folder = write("krd_wbc", tmp_path / "pictures")
    address = put_folder(s3, contents(folder))
    tables = []
    for source in (address, str(folder)):
        run_step("ingest", {"raw": tmp_path / "raw"}, params("krd_wbc", source))
        tables.append(contents(tmp_path / "raw"))
    assert tables[0] == tables[1]
    assert len(list(read_rows(tmp_path / "raw"))) == 3


def test_the_rights_that_the_page_names_suffice_and_are_needed(
    s3: Any, s3_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put_object(Bucket=BUCKET, Key="slides/Zelle 1 ü.png", Body=b"1")
    s3.put_object(Bucket=BUCKET, Key="elsewhere/1.png", Body=b"1")
    (tmp_path / "made").mkdir()
    (tmp_path / "made/large").write_bytes(bytes(storage.PART_BYTES + 1))
    with s3_server.holding(policy()) as pod:
        for name, value in pod.items():
            monkeypatch.setenv(name, value)
        assert list(contents(storage.fetch(f"s3://{BUCKET}/slides", tmp_path / "work"))) == ["Zelle 1 ü.png"]
        assert storage.push(tmp_path / "made", f"s3://{BUCKET}/masks") == 1
        assert storage.push(tmp_path / "made", f"s3://{BUCKET}/masks") == 0
        with pytest.raises(SourceError, match=r"elsewhere/1\.png: .*AccessDenied"):
            storage.fetch(f"s3://{BUCKET}/elsewhere", tmp_path / "work")
        for forbidden in ("slides", "dvc"):
            with pytest.raises(SourceError, match=r"Denied|Forbidden"):
                storage.push(tmp_path / "made", f"s3://{BUCKET}/{forbidden}")
