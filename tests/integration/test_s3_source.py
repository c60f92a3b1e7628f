"""S3 as a source and as a place to write to, against a local server that speaks its protocol."""

import hashlib
import os
from pathlib import Path

import pytest

from cytoloop import storage
from cytoloop.artifacts import read_rows
from cytoloop.door import run_step
from cytoloop.errors import SourceError
from drawn import params, write, zipped

pytest_plugins = ("s3_server",)


@pytest.fixture(autouse=True)
def bucket(s3, monkeypatch, tmp_path):
    monkeypatch.setenv("CYTOLOOP_WORK", str(tmp_path / "work"))
    s3.create_bucket(Bucket="pictures")


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


@pytest.mark.parametrize("uri", ["s3://", "s3:///a", "s3://[", "http://pictures/a", "s3://pictures/a?b=c"])
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


BIG = bytes(range(256)) * (2 * storage.PART_BYTES // 256 + 1)
"""The content of an object of three parts."""


def test_large_objects_come_and_go_in_parts(s3, s3_server, tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "big/archive").write_bytes(BIG)
    assert storage.push(tmp_path / "big", "s3://pictures/large") == 1
    assert sum(request == ("PUT", "/pictures/large/archive") for request in s3_server.requests) == 3
    s3_server.behave()
    assert (storage.fetch("s3://pictures/large", tmp_path) / "archive").read_bytes() == BIG
    assert sum(request == ("GET", "/pictures/large/archive") for request in s3_server.requests) == 3


def test_push_sends_what_is_new_or_changed(s3, s3_server, tmp_path):
    folder = write("krd_wbc", tmp_path / "data")
    (folder / "empty").touch()
    assert storage.push(folder, "s3://pictures/sent/") == 7
    assert {name: content for name, (content, _) in files(folder).items()} == {
        name: content for name, (content, _) in files(storage.fetch("s3://pictures/sent", tmp_path)).items()
    }
    assert storage.push(folder, "s3://pictures/sent") == 0
    (folder / "empty").write_bytes(b"no more")
    (folder / "KRD-WBC/new").write_bytes(b"new")
    assert storage.push(folder, "s3://pictures/sent") == 2
    # what another tool has sent is known by the MD5 that its ETag is
    s3.put_object(Bucket="pictures", Key="sent/KRD-WBC/new", Body=b"new")
    assert storage.push(folder, "s3://pictures/sent") == 0


def test_a_body_is_signed_by_its_checksum(s3, s3_server, tmp_path):
    """A store refuses a body that is not the one signed, so that nothing damaged on its way is kept."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one/1").write_bytes(b"signed")
    storage.push(tmp_path / "one", "s3://pictures/a")
    sha256 = hashlib.sha256(b"signed").hexdigest()
    assert s3_server.signed["PUT", "/pictures/a/1"] == sha256
    assert s3.head_object(Bucket="pictures", Key="a/1")["Metadata"] == {"cytoloop-sha256": sha256}


def test_a_server_that_fails_twice_is_asked_again(s3, s3_server, tmp_path):
    s3.put_object(Bucket="pictures", Key="a/1", Body=b"whole")
    wanted = ("GET", "/pictures/a/1")
    s3_server.fails = lambda request: request == wanted and s3_server.requests.count(wanted) <= 2
    assert (storage.fetch("s3://pictures/a", tmp_path) / "1").read_bytes() == b"whole"
    assert s3_server.requests.count(wanted) == 3


def test_a_server_that_always_fails_is_told(s3, s3_server, tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "ATTEMPTS", 2)
    s3_server.fails = lambda request: True
    with pytest.raises(SourceError, match=r"s3://pictures/.*503"):
        storage.fetch("s3://pictures/a", tmp_path)


CHECKSUMS = {
    "SHA-256 in the metadata": {"Metadata": {"cytoloop-sha256": hashlib.sha256(b"whole").hexdigest()}},
    "SHA256": {"ChecksumAlgorithm": "SHA256"},
    "SHA1": {"ChecksumAlgorithm": "SHA1"},
    "CRC32": {"ChecksumAlgorithm": "CRC32"},
    "MD5": {},
}


@pytest.mark.parametrize("kind", CHECKSUMS)
def test_what_is_damaged_on_the_way_is_refused(s3, s3_server, tmp_path, kind):
    s3.put_object(Bucket="pictures", Key="a/1", Body=b"whole", **CHECKSUMS[kind])
    assert (storage.fetch("s3://pictures/a", tmp_path / "good") / "1").read_bytes() == b"whole"
    s3_server.tampers = lambda request, body: body.replace(b"whole", b"whale")
    with pytest.raises(SourceError, match=rf"s3://pictures/a/1: its {kind.split()[0].replace('-', '')} is not"):
        storage.fetch("s3://pictures/a", tmp_path / "bad")
    assert not any(path.is_file() and path.suffix != ".json" for path in (tmp_path / "bad").rglob("*"))
    s3_server.tampers = lambda request, body: body
    assert (storage.fetch("s3://pictures/a", tmp_path / "bad") / "1").read_bytes() == b"whole"


def test_a_part_damaged_on_the_way_is_refused(s3, s3_server, tmp_path):
    (tmp_path / "big").mkdir()
    (tmp_path / "big/archive").write_bytes(BIG)
    storage.push(tmp_path / "big", "s3://pictures/large")
    s3_server.tampers = lambda request, body: body[:-1] + b"?" if len(body) == len(BIG) % storage.PART_BYTES else body
    with pytest.raises(SourceError, match="s3://pictures/large/archive: its SHA256 is not"):
        storage.fetch("s3://pictures/large/archive", tmp_path / "bad")


def test_checksums_that_are_not_of_the_whole_content_are_not_taken_for_one():
    md5 = hashlib.md5(b"whole").hexdigest()
    head = {"ETag": f'"{md5}"', "Metadata": {}}
    assert storage._recorded(head) == ("md5", md5)
    assert storage._recorded({**head, "ServerSideEncryption": "AES256"}) == ("md5", md5)
    assert storage._recorded({**head, "ServerSideEncryption": "aws:kms"}) is None
    assert storage._recorded({**head, "SSECustomerAlgorithm": "AES256"}) is None
    assert storage._recorded({**head, "ETag": f'"{md5}-3"'}) is None
    assert storage._recorded({**head, "ChecksumCRC32": "AAAAAA==-3"}) == ("md5", md5)
    assert storage._recorded({**head, "ChecksumCRC32": "AAAAAA==", "ChecksumType": "COMPOSITE"}) == ("md5", md5)
    assert storage._recorded({**head, "ChecksumCRC32": "AAAAAA=="}) == ("crc32", "00000000")


def test_an_object_replaced_while_it_is_read_is_told(s3, s3_server, tmp_path):
    s3.put_object(Bucket="pictures", Key="a/1", Body=b"before")
    replaced = []

    def tampers(request, body):
        if request == ("GET", "/pictures/a/1") and not replaced:
            replaced.append(s3.put_object(Bucket="pictures", Key="a/1", Body=b"after!"))
        return body

    s3_server.tampers = tampers
    with pytest.raises(SourceError, match="s3://pictures/a/1: changed while it was read"):
        storage.fetch("s3://pictures/a", tmp_path)
    assert (storage.fetch("s3://pictures/a", tmp_path) / "1").read_bytes() == b"after!"


def test_folders_and_prefixes_are_read_and_written_alike(s3, tmp_path):
    data = write("krd_wbc", tmp_path / "data")
    listings = []
    for address in (str(tmp_path / "copy"), "s3://pictures/copy"):
        place = storage.files_at(address)
        assert place.push(data) == 6
        assert place.push(data) == 0
        listings.append(list(place.listed()))
        first = listings[-1][0]
        assert place.find(first.name) == first
        assert place.find("no such") is None
        (path,) = place.bring([first], tmp_path / "brought")
        assert path.read_bytes() == (data / first.name).read_bytes()
    assert listings[0] == listings[1] != []
