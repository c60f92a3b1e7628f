"""Files in folders and at S3 addresses: fetched and pushed incrementally, each verified by its checksum.

Endpoint, region and credentials come from the environment (AWS_ENDPOINT_URL, AWS_REGION, ...). Requests
that fail are made again after growing pauses; large objects come and go in parts. A request's body is
signed by its SHA-256, which the store checks; what comes from it is checked here:

- what `push` has sent by the SHA-256 that it left in the object's metadata;
- other objects by the checksum that the store has (SHA-256, SHA-1 or CRC-32 of the whole content), else
  by the MD5 that the ETag is, unless the object came in parts or under a key of its own (SSE-KMS);
- objects of a DVC remote by the MD5 that is their name.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.exceptions import S3DownloadFailedError

from cytoloop.beside import beside
from cytoloop.errors import SourceError
from cytoloop.params import CONTENT_ADDRESS

THREADS = 16
"""Objects that come or go at once."""
ATTEMPTS = 6
"""Of one request, with growing pauses; an endpoint that does not answer is told after about 20 s."""
PART_BYTES = 8 * 2**20
"""Objects of more bytes come and go in parts of this size."""
PARTS_AT_ONCE = 4
"""Of one object."""

_CHUNK = 2**20
_CHUNKS_WAITING = 16  # of 256 KiB, of one object, where the network is faster than the disk
_SHA256 = "cytoloop-sha256"
"""The name, in an object's metadata, of its SHA-256 (hexadecimal)."""
_MISSING = ("404", "NoSuchKey", "NotFound")
_CHANGED = ("412", "PreconditionFailed")
_MOVED = "changed while it was read; run again"

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True, order=True)
class File:
    """A file at an address."""

    name: str
    """Below the address, with `/`."""
    version: str
    """Another one for another content: the object's ETag, or a local file's MD5."""
    size: int
    """Bytes."""


class _NotThere(SourceError):
    """There is no such object."""


class Files(ABC):
    """The files at an address, and those to be written there."""

    @abstractmethod
    def listed(self) -> Iterator[File]:
        """All files below the address."""

    @abstractmethod
    def find(self, name: str) -> File | None:
        """One file, or None where there is none of this name."""

    @abstractmethod
    def bring(self, files: Sequence[File], folder: Path) -> Iterator[Path]:
        """Local paths of these files, in their order, verified; copies lie in `folder` under their names."""

    @abstractmethod
    def push(self, folder: Path) -> int:
        """Write a folder's files, under their names in it; returns how many were new or changed."""


def files_at(address: str) -> Files:
    """The files in a folder, or under s3://bucket/prefix; raises SourceError when the address is malformed.

    The methods raise SourceError when access is refused, the endpoint does not answer, a name would
    lead out of its folder, a file changed while it was read, or its checksum is wrong.
    """
    return S3Files(address, _client()) if address.startswith("s3://") else FolderFiles(Path(address))


def fetch(uri: str, folder: Path) -> Path:
    """Bring an object, or all objects under a prefix, to a local folder.

    Args:
        uri: s3://bucket/key of an object, s3://bucket/prefix of a folder, or a file or folder in a DVC
            remote by its content, dvc+s3://bucket/prefix#<md5>[.dir] (a file is taken for a zip archive).
        folder: where downloads are kept, each address in a folder of its own.

    Returns:
        The local file or folder. Files whose version and size are those of the last time (of a DVC
        remote: whose MD5 is right) are kept, others fetched, and those gone from S3 removed.

    Raises:
        SourceError: as `files_at`, or nothing is there.
    """
    if uri.startswith("dvc+"):
        return _fetch_content(uri, folder)
    bucket, key = _parsed(uri)
    above, _, name = key.rpartition("/")
    client = _client()
    parent = S3Files(f"s3://{bucket}/{above}", client)
    single = parent.find(name) if name else None
    store = parent if single else S3Files(uri, client)
    files = [single] if single else list(store.listed())
    if not files:
        raise SourceError(f"{uri}: no object and nothing under this prefix; look with `aws s3 ls`")
    place = folder / hashlib.sha256(f"{_endpoint()} {uri}".encode()).hexdigest()[:16]
    _mirror(store, files, place)
    return place / single.name if single else place


def push(folder: Path, uri: str) -> int:
    """Send a folder's files to s3://bucket/prefix, those that are new or changed; returns their number.

    Nothing is removed there. Raises SourceError as `files_at`.
    """
    return S3Files(uri, _client()).push(folder)


class FolderFiles(Files):
    """The files below a local folder."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def listed(self) -> Iterator[File]:
        return (self._file(path) for path in sorted(self._root.rglob("*")) if path.is_file())

    def find(self, name: str) -> File | None:
        path = self._root / name
        return self._file(path) if path.is_file() else None

    def _file(self, path: Path) -> File:
        return File(path.relative_to(self._root).as_posix(), _digest(path, "md5"), path.stat().st_size)

    def bring(self, files: Sequence[File], folder: Path) -> Iterator[Path]:
        return (self._root / file.name for file in files)

    def push(self, folder: Path) -> int:
        changed = [file for file in FolderFiles(folder).listed() if self.find(file.name) != file]
        for file in changed:
            with beside(self._root / file.name) as part:
                shutil.copyfile(folder / file.name, part)
        return len(changed)


class S3Files(Files):
    """The objects under s3://bucket/prefix, by one client that threads share."""

    def __init__(self, uri: str, client: Any) -> None:
        self.uri = uri.rstrip("/")
        self._bucket, prefix = _parsed(uri)
        self._start = f"{prefix}/" if prefix else ""
        self._client = client

    def listed(self) -> Iterator[File]:
        with _explained(self.uri):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._start)
            for item in (item for page in pages for item in page.get("Contents", [])):
                if not item["Key"].endswith("/"):  # some tools make empty objects for folders
                    yield self._file(item)

    def find(self, name: str) -> File | None:
        # by listing: a reader of `name/*` may not ask for the object `name` itself
        key = self._start + name
        with _explained(f"{self.uri}/{name}"):
            page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=key, MaxKeys=1)
        return next((self._file(item) for item in page.get("Contents", []) if item["Key"] == key), None)

    def _file(self, item: dict[str, Any]) -> File:
        return File(_safe(item["Key"].removeprefix(self._start)), item["ETag"].strip('"'), item["Size"])

    def bring(self, files: Sequence[File], folder: Path) -> Iterator[Path]:
        return _each(lambda file: self._bring(file, folder / file.name), files)

    def _bring(self, file: File, path: Path) -> Path:
        with beside(path) as part:
            self.download(file.name, part)
            # asked afterwards, the store says both what the content should be and that nobody changed it
            head = self._head(file.name, IfMatch=f'"{file.version}"')
            if head is None or part.stat().st_size != file.size:
                raise SourceError(f"{self.uri}/{file.name}: {_MOVED}")
            _verify(part, _recorded(head), f"{self.uri}/{file.name}")
        return path

    def download(self, name: str, path: Path) -> None:
        """An object's bytes as they come, for callers that know what they should be."""
        with _explained(f"{self.uri}/{name}"):
            self._client.download_file(self._bucket, self._start + name, str(path), Config=_parts())

    def push(self, folder: Path) -> int:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return sum(_each(lambda path: self._push(path, path.relative_to(folder).as_posix()), paths))

    def _push(self, path: Path, name: str) -> bool:
        """Send a file unless the store has its content under this name; whether it was sent."""
        head = self._head(name)
        there = _recorded(head) if head and head["ContentLength"] == path.stat().st_size else None
        if there and _fits(path, there):
            return False
        told = {"Metadata": {_SHA256: _digest(path, "sha256")}}
        with _explained(f"{self.uri}/{name}"):
            self._client.upload_file(str(path), self._bucket, self._start + name, ExtraArgs=told, Config=_parts())
        return True

    def _head(self, name: str, **conditions: str) -> dict[str, Any] | None:
        request = {"Bucket": self._bucket, "Key": self._start + name, "ChecksumMode": "ENABLED", **conditions}
        try:
            with _explained(f"{self.uri}/{name}"):
                head: dict[str, Any] = self._client.head_object(**request)
                return head
        except _NotThere:
            return None


def _parsed(uri: str) -> tuple[str, str]:
    parts = re.fullmatch("s3://(?P<bucket>[A-Za-z0-9._-]+)(?P<key>/[^?]*)?", uri)
    if parts is None:
        raise SourceError(f"{uri!r}: not an S3 address; allowed: s3://bucket/prefix or s3://bucket/object.zip")
    return parts["bucket"], (parts["key"] or "").strip("/")


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL") or None


def _client() -> Any:
    import boto3

    # checksums only when required: most S3-compatible stores do not know the newer ones
    config = Config(
        retries={"mode": "standard", "max_attempts": ATTEMPTS},
        connect_timeout=5,
        read_timeout=30,
        max_pool_connections=THREADS * PARTS_AT_ONCE,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if _endpoint() else "auto", "payload_signing_enabled": True},
    )
    session = boto3.session.Session(region_name=os.environ.get("AWS_REGION"))
    return session.client("s3", endpoint_url=_endpoint(), config=config)


def _parts() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(
        multipart_threshold=PART_BYTES,
        multipart_chunksize=PART_BYTES,
        max_concurrency=PARTS_AT_ONCE,
        max_io_queue=_CHUNKS_WAITING,
        preferred_transfer_client="classic",  # the other one follows the machine's settings, not ours
    )


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """What goes wrong with an address, as an error for people."""
    from boto3.exceptions import Boto3Error

    try:
        yield
    except S3DownloadFailedError:  # a later part has another ETag than the first
        raise SourceError(f"{uri}: {_MOVED}") from None
    except (BotoCoreError, ClientError, Boto3Error) as error:
        code = error.response["Error"]["Code"] if isinstance(error, ClientError) else ""
        if code in _MISSING:
            raise _NotThere(f"{uri}: no such object") from None
        if code in _CHANGED:
            raise SourceError(f"{uri}: {_MOVED}") from None
        raise SourceError(f"{uri}: {error}; check address, credentials and AWS_ENDPOINT_URL") from None


def _safe(name: str) -> str:
    if any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name or "\0" in name:
        raise SourceError(f"{name!r}: a name that would lead out of the folder, or has empty parts; rename it")
    return name


def _each(function: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """`map` on THREADS threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        yield from pool.map(function, items)


# --------------------------------------------------------------------------------------- checksums


class Checksum(NamedTuple):
    """Of a file's whole content."""

    kind: str
    """crc32, or a name that hashlib knows."""
    value: str
    """Hexadecimal."""


def _recorded(head: dict[str, Any]) -> Checksum | None:
    """What the store knows of an object's content."""
    if _SHA256 in head["Metadata"]:
        return Checksum("sha256", head["Metadata"][_SHA256])
    for field, kind in (("ChecksumSHA256", "sha256"), ("ChecksumSHA1", "sha1"), ("ChecksumCRC32", "crc32")):
        value = head.get(field, "-")
        if "-" not in value and head.get("ChecksumType") != "COMPOSITE":  # a checksum of the parts' checksums
            return Checksum(kind, base64.b64decode(value).hex())
    etag = head["ETag"].strip('"')
    plain = head.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in head
    return Checksum("md5", etag) if plain and re.fullmatch("[0-9a-f]{32}", etag) else None


def _digest(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        if kind != "crc32":
            return hashlib.file_digest(file, partial(hashlib.new, kind, usedforsecurity=False)).hexdigest()
        checksum = 0
        for chunk in iter(partial(file.read, _CHUNK), b""):
            checksum = zlib.crc32(chunk, checksum)
        return f"{checksum:08x}"


def _fits(path: Path, checksum: Checksum) -> bool:
    return _digest(path, checksum.kind) == checksum.value


def _verify(path: Path, checksum: Checksum | None, uri: str) -> None:
    if checksum and not _fits(path, checksum):
        raise SourceError(
            f"{uri}: its {checksum.kind.upper()} is not {checksum.value}, as recorded: damaged on the way or in the "
            "store; run again, and if it stays so, upload it anew"
        )


# ------------------------------------------------------------------------------- copies of a prefix


def _mirror(store: Files, files: Sequence[File], place: Path) -> None:
    """Make the folder hold exactly these files, and remember their versions beside it."""
    manifest = place.with_name(place.name + ".json")
    known: dict[str, list[Any]] = json.loads(manifest.read_text("utf-8")) if manifest.is_file() else {}
    _remove_others(place, {file.name for file in files})
    current = [file for file in files if _is_current(file, known, place)]
    known = {file.name: [file.version, file.size] for file in current}
    stale = sorted(set(files) - set(current))
    try:
        for file, _ in zip(stale, store.bring(stale, place), strict=True):
            known[file.name] = [file.version, file.size]
    finally:
        with beside(manifest) as part:
            part.write_text(json.dumps(known, indent=1, sort_keys=True), "utf-8")


def _is_current(file: File, known: dict[str, list[Any]], place: Path) -> bool:
    path = place / file.name
    return known.get(file.name) == [file.version, file.size] and path.is_file() and path.stat().st_size == file.size


def _remove_others(place: Path, names: set[str]) -> None:
    for path in [path for path in place.rglob("*") if path.is_file()]:
        if path.relative_to(place).as_posix() not in names:
            path.unlink()


# -------------------------------------------------------------------------------------- DVC remotes


def _fetch_content(uri: str, folder: Path) -> Path:
    """A zip archive, or a folder by its list of MD5s and names, from a DVC 3 remote.

    Objects are kept by their MD5 too, so that another revision fetches only what it has of its own.
    """
    address = CONTENT_ADDRESS.fullmatch(uri)
    if address is None:
        raise SourceError(
            f"{uri!r}: not content of a DVC remote; allowed: dvc+s3://bucket/prefix#<32 hex digits>[.dir]"
        )
    remote, content = S3Files(address["remote"], _client()), folder / "content"
    root = _content(remote, address["hash"], content)
    if not address["hash"].endswith(".dir"):
        return _linked(root, folder / f"{address['hash']}.zip")
    place = folder / address["hash"]
    names = _names(root, uri)
    objects = sorted(set(names.values()))
    paths = dict(zip(objects, _each(lambda md5: _content(remote, md5, content), objects), strict=True))
    _remove_others(place, set(names))
    for name, md5 in names.items():
        _linked(paths[md5], place / name)
    return place


def _names(root: Path, uri: str) -> dict[str, str]:
    """The MD5 of each file of a folder, by its name."""
    try:
        names = {_safe(str(item["relpath"])): str(item["md5"]) for item in json.loads(root.read_bytes())}
    except (ValueError, TypeError, KeyError):
        names = {}
    if not names or not all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in names.values()):
        raise SourceError(f"{uri}: not a list of a folder's files; take the hash from the .dvc file or dvc.lock")
    return names


def _content(remote: S3Files, name: str, folder: Path) -> Path:
    """The local path of a remote's object, fetched unless it lies there with the right MD5."""
    path = folder / name[:2] / name[2:]
    right = Checksum("md5", name.removesuffix(".dir"))
    if not (path.is_file() and _fits(path, right)):
        with beside(path) as part:
            key = f"files/md5/{name[:2]}/{name[2:]}"
            try:
                remote.download(key, part)
            except _NotThere as error:
                raise SourceError(f"{error}; `dvc push` it from where it was made") from None
            _verify(part, right, f"{remote.uri}/{key}")
    return path


def _linked(content: Path, path: Path) -> Path:
    if not (path.is_file() and path.samefile(content)):
        with beside(path) as part:
            os.link(content, part)
    return path
