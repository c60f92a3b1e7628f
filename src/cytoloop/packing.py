"""Folders of many files as one archive: a cluster copies artifacts file by file, a third of a second each.

An artifact of at most MOST_FILES files stays as it is; another one becomes a folder with the one file `packed.tar`,
whose bytes depend on the files' names and content alone. `tar -xf packed.tar` opens it anywhere.
"""

import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cytoloop.errors import ArtifactError

MOST_FILES = 32
PACKED = "packed.tar"


def pack(folder: Path) -> None:
    """Replace the content of a folder by one archive, where it has more than MOST_FILES files at any depth."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if len(files) <= MOST_FILES:
        return
    archive = folder.with_name(f".{folder.name}.tar")
    with tarfile.open(archive, "w") as tar:
        for path in files:
            tar.add(path, path.relative_to(folder).as_posix(), filter=_anonymous)
    _replace(folder, archive)


@contextmanager
def unpacked(folder: Path) -> Iterator[Path]:
    """The folder, or a passing one with what its archive holds.

    Raises:
        ArtifactError: the archive is damaged, or would write outside the folder.
    """
    archive = folder / PACKED
    if not archive.is_file():
        yield folder
        return
    with tempfile.TemporaryDirectory() as passing:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(passing, filter="data")
        except tarfile.TarError as error:
            raise ArtifactError(f"{archive}: cannot be unpacked: {error}; run the step that writes it again") from None
        yield Path(passing)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Without times, owners and permissions."""
    member.mtime = member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def _replace(folder: Path, archive: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    archive.rename(folder / PACKED)
