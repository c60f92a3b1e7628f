"""S3 as a source, against a local server that speaks its protocol."""

import os
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from cytoloop import storage
from cytoloop.artifacts import read_rows
from cytoloop.door import run_step
from cytoloop.errors import SourceError
from drawn import params, write, zipped


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint, monkeypatch, tmp_path):
    """A client of an empty bucket `pictures`."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("CYTOLOOP_WORK", str(tmp_path / "work"))
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="pictures")
    yield client
    for item in client.list_objects_v2(Bucket="pictures").get("Contents", []):
        client.delete_object(Bucket="pictures", Key=item["Key"])
    client.delete_bucket(Bucket="pictures")


def upload(s3, folder: Path, prefix: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), "pictures", f"{prefix}/{path.relative_to(folder).as_posix()}")


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Name -> content and time of writing."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def test_a_prefix_and_an_archive_become_the_same_table(s3, tmp_path):
    folder = write("krd_wbc", tmp_path / "data")
    upload(s3, folder, "sets/krd")
    s3.upload_file(str(zipped(folder)), "pictures", "sets/krd.zip")
    s3.put_object(Bucket="pictures", Key="sets/krd/", Body=b"")  # what some tools leave for a folder
    s3.put_object(Bucket="pictures", Key="sets/krd-other/9.png", Body=b"of another prefix")
    tables = []
    for source in ("s3://pictures/sets/krd", "s3://pictures/sets/krd.zip", str(folder)):
        run_step("ingest", {"raw": tmp_path / "raw"}, params("krd_wbc", source))
        tables.append(list(read_rows(tmp_path / "raw")))
    assert tables[0] == tables[1] == tables[2]
    assert len(tables[0]) == 3


def test_only_what_is_new_or_changed_is_fetched(s3, tmp_path):
    for name in ("kept", "changed", "gone", "deep/er"):
        s3.put_object(Bucket="pictures", Key=f"a/{name}", Body=name.encode())
    place = storage.fetch("s3://pictures/a", tmp_path / "cache")
    first = files(place)
    assert {name: content for name, (content, _) in first.items()} == {
        "kept": b"kept",
        "changed": b"changed",
        "gone": b"gone",
        "deep/er": b"deep/er",
    }
    s3.put_object(Bucket="pictures", Key="a/changed", Body=b"CHANGED")
    s3.put_object(Bucket="pictures", Key="a/new", Body=b"new")
    s3.delete_object(Bucket="pictures", Key="a/gone")
    assert storage.fetch("s3://pictures/a", tmp_path / "cache") == place
    second = files(place)
    assert {name: content for name, (content, _) in second.items()} == {
        "kept": b"kept",
        "changed": b"CHANGED",
        "new": b"new",
        "deep/er": b"deep/er",
    }
    assert second["kept"] == first["kept"]
    assert second["deep/er"] == first["deep/er"]


def test_what_was_damaged_locally_is_fetched_again(s3, tmp_path):
    s3.put_object(Bucket="pictures", Key="a/1", Body=b"whole")
    place = storage.fetch("s3://pictures/a", tmp_path)
    (place / "1").write_bytes(b"who")
    assert (storage.fetch("s3://pictures/a", tmp_path) / "1").read_bytes() == b"whole"


def test_no_part_is_left(s3, tmp_path, monkeypatch):
    s3.put_object(Bucket="pictures", Key="a/1", Body=b"whole")
    s3.put_object(Bucket="pictures", Key="a/2", Body=b"whole")
    replace = os.replace

    def full(source, target):
        if Path(target).name == "2":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        storage.fetch("s3://pictures/a", tmp_path)
    assert sorted(files(next(path for path in tmp_path.iterdir() if path.is_dir()))) == ["1"]
    monkeypatch.undo()


def test_what_is_not_there_is_told(s3, tmp_path):
    with pytest.raises(SourceError, match="no object and nothing under this prefix"):
        storage.fetch("s3://pictures/nothing", tmp_path)
    with pytest.raises(SourceError, match=r"NoSuchBucket|does not exist"):
        storage.fetch("s3://no-such-bucket/a", tmp_path)


@pytest.mark.parametrize("uri", ["s3://", "s3:///a", "http://pictures/a", "s3://pictures/a?b=c"])
def test_a_malformed_address_is_told(uri, s3, tmp_path):
    with pytest.raises(SourceError, match="not an S3 address"):
        storage.fetch(uri, tmp_path)


def test_keys_that_lead_out_of_the_folder_are_refused(s3, tmp_path):
    s3.put_object(Bucket="pictures", Key="a/x/../../../evil", Body=b"x")
    with pytest.raises(SourceError, match="lead out of the folder"):
        storage.fetch("s3://pictures/a", tmp_path / "cache")
    assert not (tmp_path / "evil").exists()


def test_an_endpoint_that_does_not_answer_is_told_without_secrets(s3, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(storage, "ATTEMPTS", 1)
    with pytest.raises(SourceError, match="AWS_ENDPOINT_URL") as error:
        storage.fetch("s3://pictures/a", tmp_path)
    assert "test-secret" not in str(error.value)
