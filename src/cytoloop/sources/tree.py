"""The files of a source, wherever they lie: a folder, a zip archive, or one file.

Names are relative, with `/`, in Unicode's composed form (NFC) and sorted. What a desktop leaves
behind (JUNK) is passed over; nothing else is.
"""

import os
import re
import stat
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Self, TypeVar

from cytoloop.errors import SourceError

JUNK = re.compile(r"(^|/)(__MACOSX/|\._|\.DS_Store$|Thumbs\.db$|desktop\.ini$)")


class Tree(ABC):
    """A read-only set of files; reading is safe from several threads."""

    names: tuple[str, ...]

    @abstractmethod
    def size(self, name: str) -> int:
        """Bytes of a file."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """All of a file's bytes; raises SourceError when they are damaged."""

    @abstractmethod
    def local(self, name: str) -> AbstractContextManager[Path]:
        """A path at which the file lies while the context lasts; raises SourceError as `read`."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FolderTree(Tree):
    """The files under a folder, or one file alone.

    Raises:
        SourceError: a link leads out of the folder, something is neither file nor folder (a pipe
            or device), or a name is not Unicode or differs from another in its encoding alone.
    """

    def __init__(self, root: Path) -> None:
        paths = [root] if root.is_file() else _files_below(root)
        base = root.parent if root.is_file() else root
        self._paths = unique_names((path.relative_to(base).as_posix(), path) for path in paths)
        self.names = visible(self._paths)

    def size(self, name: str) -> int:
        return self._paths[name].stat().st_size

    def read(self, name: str) -> bytes:
        return self._paths[name].read_bytes()

    def local(self, name: str) -> AbstractContextManager[Path]:
        return nullcontext(self._paths[name])

    def close(self) -> None:
        """Nothing is kept open."""


def _files_below(root: Path) -> list[Path]:
    files = []
    for folder, folders, names in os.walk(root, onerror=_refuse_unreadable):
        links = [path for path in (Path(folder, name) for name in [*folders, *names]) if path.is_symlink()]
        for link in links:
            _refuse_link(link, root)
        files += [Path(folder, name) for name in names]
    for path in files:
        if not stat.S_ISREG(path.stat().st_mode):
            raise SourceError(f"{path}: neither a file nor a folder; remove it")
    return files


def _refuse_link(link: Path, root: Path) -> None:
    if not link.exists():
        raise SourceError(f"{link}: a link to nothing; remove it")
    if not link.resolve().is_relative_to(root.resolve()):
        raise SourceError(f"{link}: a link that leaves the folder; copy what it points to, or remove it")
    if link.is_dir():
        raise SourceError(f"{link}: a link to a folder, whose files would count twice; remove it")


def _refuse_unreadable(error: OSError) -> None:
    raise SourceError(f"{error.filename}: cannot be listed ({error.strerror}); allow reading it") from error


T = TypeVar("T")


def composed(name: str) -> str:
    """The name in NFC, as all names here are; raises SourceError when it is not Unicode."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise SourceError(f"{name!r}: not a Unicode file name; rename it") from None
    return unicodedata.normalize("NFC", name)


def unique_names(named: Iterable[tuple[str, T]]) -> dict[str, T]:
    """NFC name -> thing; raises SourceError when two names are the same in NFC."""
    found: dict[str, T] = {}
    for name, thing in named:
        key = composed(name)
        if key in found:
            raise SourceError(f"{name}: the name occurs twice (in two Unicode forms); keep one of the two")
        found[key] = thing
    return found


def visible(names: Iterable[str]) -> tuple[str, ...]:
    """The names without the junk, sorted."""
    return tuple(sorted(name for name in names if not JUNK.search(name)))
