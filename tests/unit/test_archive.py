"""Trees of files: hostile archives and folders are refused before anything in them is read."""

import io
import os
import stat
import struct
import unicodedata
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cytoloop.errors import SourceError
from cytoloop.sources import archive, open_tree
from cytoloop.sources.archive import ZipTree
from cytoloop.sources.tree import FolderTree


def zip_of(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in entries:
            file.writestr(name, data)
    return path


def special(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil.png", r"'\.\.'"),
        ("images/../../evil.png", r"'\.\.'"),
        ("/etc/evil.png", "absolute"),
        ("C:/evil.png", "absolute"),
        ("images\\evil.png", "backslash"),
        ("images//evil.png", "empty part"),
        ("./evil.png", "empty part"),
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path, name, reason):
    path = zip_of(tmp_path / "a.zip", ("images/1.png", b"x"), (name, b"x"))
    with pytest.raises(SourceError, match=reason):
        ZipTree(path)


def test_a_name_with_nul_is_refused(tmp_path):
    path = zip_of(tmp_path / "a.zip", ("images/1.png", b"x"))
    path.write_bytes(path.read_bytes().replace(b"images/1.png", b"images/\0.png"))
    with pytest.raises(SourceError, match="NUL"):
        ZipTree(path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path, kind):
    path = zip_of(tmp_path / "a.zip", (special("images/1.png", kind), b"/etc/passwd"))
    with pytest.raises(SourceError, match="link or device"):
        ZipTree(path)


@pytest.mark.parametrize(
    ("first", "second"),
    [("a/1.png", "a/1.png"), ("a/1.png", "A/1.PNG"), ("caf\u00e9.png", "cafe\u0301.png"), ("a/1", "a/1/")],
    ids=["same", "case", "unicode", "folder"],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_occur_twice_are_refused(tmp_path, first, second):
    path = zip_of(tmp_path / "a.zip", (first, b"1"), (second, b"" if second.endswith("/") else b"2"))
    with pytest.raises(SourceError, match="occurs twice"):
        ZipTree(path)


def test_encrypted_entries_are_refused(tmp_path):
    path = zip_of(tmp_path / "a.zip", ("1.png", b"secret"))
    data = bytearray(path.read_bytes())
    central = data.rindex(b"PK\x01\x02")
    struct.pack_into("<H", data, central + 8, 1)
    path.write_bytes(data)
    with pytest.raises(SourceError, match="encrypted"):
        ZipTree(path)


def test_other_compressions_are_refused(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as file:
        file.writestr("1.png", b"x")
    with pytest.raises(SourceError, match="compressed by method 14"):
        ZipTree(path)


def test_a_bomb_is_refused_before_it_is_unfolded(tmp_path):
    path = zip_of(tmp_path / "bomb.zip", ("images/1.png", bytes(50 * 10**6)))
    assert path.stat().st_size * 900 < 50 * 10**6  # about 1000 : 1
    with pytest.raises(SourceError, match=r"unfolds to 50000000 bytes .* bomb"):
        ZipTree(path)


def test_a_bomb_of_many_small_entries_is_refused(tmp_path):
    path = zip_of(tmp_path / "bomb.zip", *((f"{k}.png", bytes(900_000)) for k in range(20)))
    with pytest.raises(SourceError, match="the whole archive"):
        ZipTree(path)


def test_small_flat_files_are_no_bomb(tmp_path):
    path = zip_of(tmp_path / "a.zip", ("1.bmp", bytes(500_000)))
    with ZipTree(path) as tree:
        assert tree.read("1.bmp") == bytes(500_000)


def test_a_header_that_lies_about_its_size_gives_no_more_than_it_declares(tmp_path):
    path = zip_of(tmp_path / "a.zip", ("1.png", bytes(30 * 10**6)))
    data = bytearray(path.read_bytes())
    central = data.rindex(b"PK\x01\x02")
    struct.pack_into("<I", data, central + 24, 1000)  # uncompressed size, in the directory
    path.write_bytes(data)
    with ZipTree(path) as tree, pytest.raises(SourceError, match="damaged"):
        tree.read("1.png")


def test_too_many_entries_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_ENTRIES", 2)
    path = zip_of(tmp_path / "a.zip", *((f"{k}.png", b"x") for k in range(3)))
    with pytest.raises(SourceError, match="3 entries; at most 2"):
        ZipTree(path)


def test_too_many_bytes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_BYTES", 999)
    path = zip_of(tmp_path / "a.zip", ("1.png", os.urandom(1000)))
    with pytest.raises(SourceError, match="at most"):
        ZipTree(path)


@pytest.mark.parametrize("keep", [0, 10, 100, -10])
def test_a_truncated_archive_is_told(tmp_path, keep):
    path = zip_of(tmp_path / "a.zip", ("1.png", os.urandom(500)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SourceError, match="not a readable zip"):
        ZipTree(path)


def test_a_damaged_entry_is_told_when_it_is_read(tmp_path):
    path = zip_of(tmp_path / "a.zip", ("1.png", os.urandom(5000)))
    data = bytearray(path.read_bytes())
    data[2000] ^= 0xFF
    path.write_bytes(data)
    with ZipTree(path) as tree:
        with pytest.raises(SourceError, match=r"1\.png is damaged"):
            tree.read("1.png")
        with pytest.raises(SourceError, match=r"1\.png is damaged"), tree.local("1.png"):
            pass


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_whatever_the_damage_only_source_errors_come_out(tmp_path_factory, data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("images/1.png", b"abc" * 50)
        file.writestr("masks/1.png", bytes(range(256)))
    damaged = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "a.zip"
    path.write_bytes(damaged)
    try:
        with ZipTree(path) as tree:
            for name in tree.names:
                tree.read(name)
    except SourceError:
        pass


@pytest.mark.parametrize("name", ["Bilder/größe 1.png", "画像/細胞 1.png", "плазма.png"])
def test_names_of_all_scripts_are_read(tmp_path, name):
    with ZipTree(zip_of(tmp_path / "a.zip", (name, b"data"))) as tree:
        assert tree.names == (name,)
        assert tree.read(name) == b"data"


def test_utf8_names_without_the_flag_are_read_as_utf8(tmp_path):
    path = zip_of(tmp_path / "a.zip", ("größe.png", b"data"))
    data = bytearray(path.read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        struct.pack_into("<H", data, data.index(signature) + place, 0)
    path.write_bytes(data)
    with ZipTree(path) as tree:
        assert tree.names == ("größe.png",)
        assert tree.read("größe.png") == b"data"


def test_old_dos_names_are_read_as_cp437(tmp_path):
    path = zip_of(tmp_path / "a.zip", ("gr~~e.png", b"data"))
    path.write_bytes(path.read_bytes().replace(b"gr~~e", "größe".encode("cp437")))
    with ZipTree(path) as tree:
        assert tree.names == ("größe.png",)


def test_names_are_composed_so_that_pairs_meet(tmp_path):
    decomposed = unicodedata.normalize("NFD", "masks/größe.png")
    with ZipTree(zip_of(tmp_path / "a.zip", ("images/größe.png", b"1"), (decomposed, b"2"))) as tree:
        assert tree.names == ("images/größe.png", "masks/größe.png")
        assert tree.read("masks/größe.png") == b"2"


def test_what_a_desktop_leaves_behind_is_passed_over(tmp_path):
    junk = ["__MACOSX/images/._1.png", "images/._1.png", ".DS_Store", "images/Thumbs.db", "desktop.ini"]
    path = zip_of(tmp_path / "a.zip", ("images/1.png", b"x"), *((name, b"junk") for name in junk))
    with ZipTree(path) as tree:
        assert tree.names == ("images/1.png",)


def test_a_zip_entry_can_be_had_as_a_file(tmp_path):
    with ZipTree(zip_of(tmp_path / "a.zip", ("a.npz", b"data"))) as tree:
        with tree.local("a.npz") as path:
            assert path.read_bytes() == b"data"
        assert not path.exists()


def test_a_folder_lists_its_files_in_order(tmp_path):
    for name in ("b/2.png", "a/10.png", "a/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    with FolderTree(tmp_path) as tree:
        assert tree.names == ("a/1.png", "a/10.png", "b/2.png")
        assert tree.read("b/2.png") == b"b/2.png"
        assert tree.size("b/2.png") == 7
        with tree.local("b/2.png") as path:
            assert path == tmp_path / "b/2.png"


def test_links_out_of_a_folder_are_refused(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/1.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(SourceError, match="leaves the folder"):
        FolderTree(tmp_path / "data")


def test_links_to_folders_and_to_nothing_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(SourceError, match="link to a folder"):
        FolderTree(tmp_path)
    (tmp_path / "b").unlink()
    (tmp_path / "b").symlink_to(tmp_path / "gone")
    with pytest.raises(SourceError, match="link to nothing"):
        FolderTree(tmp_path)


def test_links_within_a_folder_are_followed(tmp_path):
    (tmp_path / "1.png").write_bytes(b"x")
    (tmp_path / "2.png").symlink_to("1.png")
    assert FolderTree(tmp_path).read("2.png") == b"x"


def test_pipes_are_refused(tmp_path):
    os.mkfifo(tmp_path / "1.png")
    with pytest.raises(SourceError, match="neither a file nor a folder"):
        FolderTree(tmp_path)


def test_names_that_are_not_unicode_are_refused(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.png")).write_bytes(b"x")
    with pytest.raises(SourceError, match="not a Unicode file name"):
        FolderTree(tmp_path)


def test_two_unicode_forms_of_one_name_are_refused(tmp_path):
    (tmp_path / "caf\u00e9.png").write_bytes(b"1")
    (tmp_path / "cafe\u0301.png").write_bytes(b"2")
    with pytest.raises(SourceError, match="two Unicode forms"):
        FolderTree(tmp_path)


def test_one_file_is_a_tree_of_itself(tmp_path):
    (tmp_path / "train.npz").write_bytes(b"x")
    (tmp_path / "other.npz").write_bytes(b"y")
    assert open_tree(str(tmp_path / "train.npz")).names == ("train.npz",)


def test_a_source_that_is_not_there_is_told(tmp_path):
    with pytest.raises(SourceError, match="no such folder or file"):
        open_tree(str(tmp_path / "nothing"))
