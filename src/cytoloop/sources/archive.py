"""Zip archives as sources: read in place, after everything hostile in them was refused.

Nothing is extracted, so no name can lead out of a folder; the names are judged all the same, since
they end up in tables and reports. Sizes are judged as declared before anything is decompressed, and
reading never gives more than was declared.
"""

import re
import stat
import struct
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from cytoloop.errors import SourceError
from cytoloop.sources.tree import Tree, composed, unique_names, visible

MAX_ENTRIES = 200_000
MAX_BYTES = 64 * 2**30
MAX_RATIO = 200
"""Most bytes that one byte of the archive may unfold to."""
RATIO_FROM = 10**6
"""Bytes below which the ratio does not matter: small flat masks compress well."""

_UTF8_NAME = 0x800
_ENCRYPTED = 0x1
DAMAGE = (
    BadZipFile,
    zlib.error,
    struct.error,
    OSError,  # a damaged directory makes zipfile seek to where nothing is
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    OverflowError,
)
"""What reading a damaged archive may raise."""
_CHUNK = 2**20


class ZipTree(Tree):
    """The files of a zip archive.

    Raises:
        SourceError: the archive is damaged, or holds any of: a name that is absolute, has `..`, a
            backslash or a drive letter; a link or device; an encrypted entry; names that differ
            only in case or in Unicode form; more than MAX_ENTRIES entries or MAX_BYTES bytes; what
            unfolds to more than MAX_RATIO times its size.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._zip = ZipFile(path)
        except DAMAGE as error:
            raise SourceError(f"{path}: not a readable zip archive ({error}); fetch or make it anew") from None
        try:
            infos = self._zip.infolist()
            refuse_hostile(infos, path.stat().st_size)
            self._infos = unique_names((_name(info), info) for info in infos if not info.is_dir())
        except SourceError as error:
            self._zip.close()
            raise SourceError(f"{path}: {error}") from None
        self.names = visible(self._infos)

    def size(self, name: str) -> int:
        return self._infos[name].file_size

    def read(self, name: str) -> bytes:
        return b"".join(self._chunks(name))

    @contextmanager
    def local(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            with path.open("wb") as target:
                target.writelines(self._chunks(name))
            yield path

    def _chunks(self, name: str) -> Iterator[bytes]:
        """The bytes, never more than declared: each request is bounded, and the checksum is of what was declared."""
        info = self._infos[name]
        try:
            with self._zip.open(info) as stream:
                for start in range(0, info.file_size, _CHUNK):
                    yield stream.read(min(_CHUNK, info.file_size - start))
        except DAMAGE as error:
            raise SourceError(f"{self._path}: {name} is damaged ({error}); fetch or make the archive anew") from None

    def close(self) -> None:
        self._zip.close()


def refuse_hostile(infos: Sequence[ZipInfo], archive_bytes: int) -> None:
    """Judge an archive's list of entries, before anything is decompressed; raises SourceError."""
    if len(infos) > MAX_ENTRIES:
        raise SourceError(f"{len(infos)} entries; at most {MAX_ENTRIES} are allowed; divide it")
    _refuse_size(infos, archive_bytes)
    seen: set[str] = set()
    for info in infos:
        _refuse_entry(info)
        key = composed(_name(info)).rstrip("/").casefold()
        if key in seen:
            raise SourceError(f"{info.filename!r}: the name occurs twice, or differs only in case; keep one")
        seen.add(key)


def _refuse_size(infos: Sequence[ZipInfo], archive_bytes: int) -> None:
    total = sum(info.file_size for info in infos)
    if total > MAX_BYTES:
        raise SourceError(f"unfolds to {total / 2**30:.0f} GiB; at most {MAX_BYTES / 2**30:.0f} GiB are allowed")
    for info in infos:
        _refuse_ratio(info.filename, info.file_size, info.compress_size)
    # of the archive's own size, not of the entries' sum: entries may claim the same bytes
    _refuse_ratio("the whole archive", total, archive_bytes)


def _refuse_ratio(what: str, unfolded: int, folded: int) -> None:
    if unfolded > RATIO_FROM and unfolded > MAX_RATIO * folded:
        raise SourceError(
            f"{what!r} unfolds to {unfolded} bytes from {folded}, more than {MAX_RATIO} to 1, as in a decompression "
            "bomb; if you trust it, unpack it yourself and give the folder"
        )


def _refuse_entry(info: ZipInfo) -> None:
    reason = _unsafe_name(info.orig_filename) or _unsafe_kind(info)
    if reason:
        raise SourceError(f"{info.orig_filename!r}: {reason}; such archives are refused as a whole")


def _unsafe_name(name: str) -> str | None:
    if "\\" in name or "\0" in name:
        return "a backslash or NUL in the name"
    if name.startswith("/") or re.match(r"^[A-Za-z]:", name):
        return "an absolute path"
    if any(part in ("", ".", "..") for part in name.removesuffix("/").split("/")):
        return "a path with '..', '.' or an empty part"
    return None


def _unsafe_kind(info: ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "a link or device"
    if info.flag_bits & _ENCRYPTED:
        return "encrypted"
    if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
        return f"compressed by method {info.compress_type}; only stored and deflated entries are read"
    return None


def _name(info: ZipInfo) -> str:
    """The entry's name; without the UTF-8 flag many programs write UTF-8 all the same."""
    if info.flag_bits & _UTF8_NAME:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename
