"""Artifacts of many files travel as one archive."""

import io
import tarfile
from pathlib import Path

import pytest

from cytoloop.errors import ArtifactError
from cytoloop.packing import MOST_FILES, PACKED, pack, unpacked


def fill(folder: Path, count: int) -> dict[str, bytes]:
    for number in range(count):
        path = folder / f"{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number % 256]) * number)
    return content(folder)


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_few_files_stay_as_they_are(tmp_path: Path) -> None:
    files = fill(tmp_path / "few", MOST_FILES)
    pack(tmp_path / "few")
    assert content(tmp_path / "few") == files
    with unpacked(tmp_path / "few") as folder:
        assert folder == tmp_path / "few"


def test_many_files_become_one_and_come_back(tmp_path: Path) -> None:
    files = fill(tmp_path / "many", MOST_FILES + 1)
    pack(tmp_path / "many")
    assert list(content(tmp_path / "many")) == [PACKED]
    assert [path.name for path in tmp_path.iterdir()] == ["many"]
    with unpacked(tmp_path / "many") as folder:
        assert content(folder) == files
    assert not folder.exists()


def test_the_archive_depends_on_the_files_alone(tmp_path: Path) -> None:
    for name in ("one", "other"):
        fill(tmp_path / name, MOST_FILES + 1)
    (tmp_path / "other" / "0" / "0.png").chmod(0o600)
    (tmp_path / "other" / "1").touch()
    for name in ("one", "other"):
        pack(tmp_path / name)
    assert content(tmp_path / "one") == content(tmp_path / "other")


def test_a_damaged_or_hostile_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / PACKED).write_bytes(b"not a tar" * 100)
    with pytest.raises(ArtifactError, match="cannot be unpacked"), unpacked(tmp_path):
        pass
    with tarfile.open(tmp_path / PACKED, "w") as tar:
        tar.addfile(tarfile.TarInfo("../outside.txt"), io.BytesIO())
    with pytest.raises(ArtifactError, match="outside"), unpacked(tmp_path):
        pass
