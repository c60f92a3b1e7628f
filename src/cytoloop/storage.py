"""S3 addresses to local files: incremental, so that a second run fetches only what is new.

The endpoint, region and credentials come from the environment (AWS_ENDPOINT_URL, AWS_REGION, ...).
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from cytoloop.errors import SourceError

THREADS = 8
ATTEMPTS = 6
"""Of one request, with growing pauses; an endpoint that does not answer is told after about 20 s."""
_CHUNK = 2**20


@dataclass(frozen=True)
class Remote:
    """An object: its key, its place under the local folder, its version and its size in bytes."""

    key: str
    name: str
    etag: str
    size: int


def fetch(uri: str, folder: Path) -> Path:
    """Bring an object, or all objects under a prefix, to a local folder.

    Args:
        uri: s3://bucket/key of an object, or s3://bucket/prefix of a folder.
        folder: where downloads are kept, each address in a folder of its own.

    Returns:
        The local file or folder. Files whose ETag and size are those of the last time are kept,
        new and changed ones fetched (beside, then renamed), and those gone from S3 removed.

    Raises:
        SourceError: the address is malformed, nothing is there, access is refused, the endpoint does
            not answer, a key would lead out of the folder, or an object changed while it was read.
    """
    bucket, key = _parsed(uri)
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    place = folder / hashlib.sha256(f"{endpoint} {uri}".encode()).hexdigest()[:16]
    try:
        client = _client(endpoint)
        single = _head(client, bucket, key)
        remotes = [single] if single else list(_listed(client, bucket, key))
        if not remotes:
            raise SourceError(f"{uri}: no object and nothing under this prefix; look with `aws s3 ls`")
        _mirror(client, bucket, remotes, place)
    except (BotoCoreError, ClientError) as error:
        raise SourceError(f"{uri}: {error}; check address, credentials and AWS_ENDPOINT_URL") from None
    return place / single.name if single else place


def _parsed(uri: str) -> tuple[str, str]:
    parts = urlsplit(uri, allow_fragments=False)
    if parts.scheme != "s3" or not parts.netloc or parts.query:
        raise SourceError(f"{uri!r}: not an S3 address; allowed: s3://bucket/prefix or s3://bucket/object.zip")
    return parts.netloc, parts.path.strip("/")


def _client(endpoint: str | None) -> Any:
    import boto3

    # checksums only when required: most S3-compatible stores do not know the newer ones
    config = Config(
        retries={"mode": "standard", "max_attempts": ATTEMPTS},
        connect_timeout=5,
        read_timeout=30,
        max_pool_connections=2 * THREADS,
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if endpoint else None,
    )
    return boto3.session.Session().client("s3", endpoint_url=endpoint, config=config)


def _head(client: Any, bucket: str, key: str) -> Remote | None:
    if not key:
        return None
    try:
        head = client.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("404", "NoSuchKey", "NotFound"):
            return None
        raise
    return Remote(key, _safe(PurePosixPath(key).name), head["ETag"], head["ContentLength"])


def _listed(client: Any, bucket: str, prefix: str) -> Iterator[Remote]:
    start = f"{prefix}/" if prefix else ""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=start):
        for item in page.get("Contents", []):
            if not item["Key"].endswith("/"):  # some tools make empty objects for folders
                yield Remote(item["Key"], _safe(item["Key"].removeprefix(start)), item["ETag"], item["Size"])


def _safe(name: str) -> str:
    if any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name or "\0" in name:
        raise SourceError(f"{name!r}: a key that would lead out of the folder, or has empty parts; rename it")
    return name


def _mirror(client: Any, bucket: str, remotes: list[Remote], place: Path) -> None:
    """Make the folder hold exactly these objects, and remember their versions beside it."""
    manifest = place.with_name(place.name + ".json")
    known: dict[str, list[Any]] = json.loads(manifest.read_text("utf-8")) if manifest.is_file() else {}
    names = {remote.name for remote in remotes}
    for path in [path for path in place.rglob("*") if path.is_file()]:
        if path.relative_to(place).as_posix() not in names:
            path.unlink()
    known = {name: version for name, version in known.items() if name in names}
    stale = [remote for remote in remotes if not _is_current(remote, known, place)]
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            for remote in pool.map(lambda remote: _download(client, bucket, remote, place), stale):
                known[remote.name] = [remote.etag, remote.size]
    finally:
        place.mkdir(parents=True, exist_ok=True)
        part = manifest.with_name(manifest.name + ".part")
        part.write_text(json.dumps(known, indent=1, sort_keys=True), "utf-8")
        os.replace(part, manifest)


def _is_current(remote: Remote, known: dict[str, list[Any]], place: Path) -> bool:
    path = place / remote.name
    return (
        known.get(remote.name) == [remote.etag, remote.size] and path.is_file() and path.stat().st_size == remote.size
    )


def _download(client: Any, bucket: str, remote: Remote, place: Path) -> Remote:
    path = place / remote.name
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        body = client.get_object(Bucket=bucket, Key=remote.key, IfMatch=remote.etag)["Body"]
        with contextlib.closing(body), part.open("wb") as file:
            for chunk in body.iter_chunks(_CHUNK):
                file.write(chunk)
        if part.stat().st_size != remote.size:
            raise SourceError(f"s3://{bucket}/{remote.key}: came with another size than announced; run again")
        os.replace(part, path)
    except ClientError as error:
        if error.response["Error"]["Code"] in ("412", "PreconditionFailed"):
            raise SourceError(f"s3://{bucket}/{remote.key}: changed while it was read; run again") from None
        raise
    finally:
        part.unlink(missing_ok=True)
    return remote
