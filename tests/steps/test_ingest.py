"""Ingest: every layout becomes a table; every bad input is a row with a problem, or a clear error."""

import hashlib
import os
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml

from cytoloop.artifacts import CARD, PARAMS, read_card, read_rows
from cytoloop.door import run_step
from cytoloop.errors import CytoloopError, SourceError
from cytoloop.images.decode import decode_ids, decode_instances, decode_rgb
from cytoloop.images.hashes import perceptual_hash
from cytoloop.params import SmearParams
from cytoloop.smear import Smears, read_protocol
from cytoloop.smear import protocol as smear_protocol
from drawn import CLASSES, LAYOUTS, cells, colored, empty_picture, one_pixel_cell, params, save, write, zipped


def ingested(tmp_path, layout, source, classes=None, **ingest):
    """The table's rows by id, and the step's numbers."""
    raw = tmp_path / "out/raw"
    numbers = run_step("ingest", {"raw": raw}, params(layout, source, classes, **ingest))
    return {row.id: row for row in read_rows(raw)}, numbers


def nothing_left(raw: Path) -> bool:
    return not raw.exists() and not list(raw.parent.glob(".raw*"))


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_declared_size(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(600))) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_becomes_a_table(layout, tmp_path):
    rows, numbers = ingested(tmp_path, layout, write(layout, tmp_path / "data", 4))
    assert len(rows) == numbers["pictures"] == 4
    assert numbers["problems"] == numbers["strangers"] == 0
    for row in rows.values():
        assert row.problem is None
        image, mask = decode_rgb(row.image), decode_ids(row.mask)
        assert image.shape == (row.height, row.width, 3) == (*mask.shape, 3) == (48, 48, 3)
        assert (row.mask_height, row.mask_width) == (48, 48)
        assert row.class_pixels == np.bincount(mask.ravel(), minlength=len(CLASSES[layout])).tolist()
        assert row.unknown_pixels == 0
        assert row.phash == perceptual_hash(image)
        assert row.mean_rgb == pytest.approx(image.mean((0, 1)), abs=1e-3)
        assert row.std_rgb == pytest.approx(image.std((0, 1)), abs=1e-3)
        if row.instances is not None:
            assert np.array_equal(decode_instances(row.instances) > 0, mask > 0)
    assert (layout in ("dsb2018", "deepcell")) == all(row.instances is not None for row in rows.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_and_its_zip_become_the_same_table_twice(layout, tmp_path):
    folder = write(layout, tmp_path / "data")
    tables = []
    for name, source in (("a", folder), ("b", zipped(folder)), ("c", folder)):
        run_step("ingest", {"raw": tmp_path / name}, params(layout, source))
        tables.append(digests(tmp_path / name))
    assert tables[0] == tables[1] == tables[2]


def test_the_facts_are_those_of_the_files(tmp_path):
    folder = write("krd_wbc", tmp_path / "data")
    rows, numbers = ingested(tmp_path, "krd_wbc", folder)
    row = rows["barrdistorted_1001_0.3_0.3_1000"]
    path = folder / row.source_file
    assert row.source_file == "KRD-WBC/images/barrdistorted_1001_0.3_0.3_1000.png"
    assert row.mask_file == "KRD-WBC/masks/barrdistorted_1001_0.3_0.3_1000.png"
    assert row.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert np.array_equal(decode_rgb(row.image), cells(classes=6, seed=1).image_HW3)
    assert (row.group, row.mode, row.origin) == ("1000", "RGB", None)
    assert numbers["groups"] == 2


def test_the_card_says_whose_the_pictures_are(tmp_path):
    ingested(tmp_path, "krd_wbc", write("krd_wbc", tmp_path / "data"))
    card = read_card(tmp_path / "out/raw")
    assert (card.name, card.rows, card.groups, card.licence) == ("krd_wbc", 3, 2, "CC BY 4.0")
    assert "10.17632/jzdj6h7gms" in card.citation
    ingested(tmp_path, "krd_wbc", tmp_path / "data", licence="mine", citation="me")
    card = read_card(tmp_path / "out/raw")
    assert (card.licence, card.citation) == ("mine", "me")
    ingested(tmp_path, "image_mask", write("image_mask", tmp_path / "own"))
    assert read_card(tmp_path / "out/raw").licence == ""


def test_shards_hold_as_many_rows_as_declared(tmp_path):
    ingested(tmp_path, "krd_wbc", write("krd_wbc", tmp_path / "data", 5), rows_per_shard=2)
    assert sorted(path.name for path in (tmp_path / "out/raw").iterdir()) == [
        CARD,
        PARAMS,
        *(f"part-{k:05d}.parquet" for k in range(3)),
    ]


def test_groups_come_from_the_pattern(tmp_path):
    folder = tmp_path / "data"
    for stem in ("patient7_a", "patient7_b", "patient8_a"):
        save(folder / f"images/{stem}.png", cells().image_HW3)
        save(folder / f"masks/{stem}.png", colored(cells().ids_HW, "image_mask"))
    rows, numbers = ingested(tmp_path, "image_mask", folder, group_pattern="(?P<group>[^_]+)_.*")
    assert [row.group for row in rows.values()] == ["patient7", "patient7", "patient8"]
    assert numbers["groups"] == 2
    with pytest.raises(SourceError, match=r"no group in 2 stems: patient7_a, patient7_b; write a pattern"):
        ingested(tmp_path, "image_mask", folder, group_pattern="(?P<group>patient8)")


def test_a_pattern_is_held_against_pictures_in_archives_of_arrays(tmp_path):
    folder = write("deepcell", tmp_path / "data")
    rows, _ = ingested(tmp_path, "deepcell", folder, group_pattern="(?P<group>[a-z]+)_")
    assert {row.group for row in rows.values()} == {"train", "test"}
    with pytest.raises(SourceError, match="no group in 1 stems: train_00000"):
        ingested(tmp_path, "deepcell", folder, group_pattern="(?P<group>test)")


def test_missing_and_extra_masks_are_recorded(tmp_path):
    folder = write("krd_wbc", tmp_path / "data", 4)
    (folder / "KRD-WBC/masks/1002.png").unlink()
    (folder / "KRD-WBC/images/1003.png").unlink()
    rows, numbers = ingested(tmp_path, "krd_wbc", folder)
    assert numbers["problems"] == 2
    assert rows["1002"].problem == "the picture has no mask"
    assert rows["1002"].image is not None
    assert rows["1002"].mask is rows["1002"].mask_file is None
    assert rows["1003"].problem == "the mask has no picture"
    assert rows["1003"].image is None
    assert rows["1003"].source_file == rows["1003"].mask_file == "KRD-WBC/masks/1003.png"


def test_unreadable_pictures_and_masks_are_recorded(tmp_path):
    folder = write("krd_wbc", tmp_path / "data", 4)
    (folder / "KRD-WBC/images/1000.png").write_bytes(b"not a picture")
    path = folder / "KRD-WBC/masks/1002.png"
    path.write_bytes(path.read_bytes()[:80])
    rows, numbers = ingested(tmp_path, "krd_wbc", folder)
    assert numbers["problems"] == 2
    assert rows["1000"].problem == "the picture is no PNG, JPEG, BMP, TIFF, GIF picture"
    assert rows["1000"].sha256 == hashlib.sha256(b"not a picture").hexdigest()
    assert rows["1000"].image is None
    assert rows["1000"].mask is not None
    assert rows["1002"].problem.startswith("the mask is damaged")
    assert rows["1002"].mask is rows["1002"].class_pixels is None


@pytest.mark.parametrize("layout", ["krd_wbc", "dsb2018"])
@pytest.mark.parametrize("kind", ["images", "masks"])
def test_a_declared_size_is_refused_before_decoding(layout, kind, tmp_path):
    folder = write(layout, tmp_path / "data")
    path = sorted(folder.rglob(f"{kind}/*.png"))[0]
    path.write_bytes(png_of_declared_size(30_000, 30_000))
    assert path.stat().st_size < 1000
    rows, numbers = ingested(tmp_path, layout, folder)
    (problem,) = [row.problem for row in rows.values() if row.problem]
    assert "declares 30000 x 30000 pixels; at most 64 megapixels allowed" in problem
    assert numbers["problems"] == 1


def test_a_file_larger_than_any_picture_is_not_read(tmp_path):
    folder = write("krd_wbc", tmp_path / "data")
    with (folder / "KRD-WBC/images/1000.png").open("r+b") as file:
        file.truncate(2**31)  # sparse: takes no room on the disk
    rows, _ = ingested(tmp_path, "krd_wbc", folder)
    assert rows["1000"].problem.startswith("the picture has 2147483648 bytes")


def test_a_mask_of_another_size_is_recorded(tmp_path):
    folder = write("krd_wbc", tmp_path / "data")
    save(folder / "KRD-WBC/masks/1000.png", np.zeros((20, 30, 3), np.uint8))
    rows, _ = ingested(tmp_path, "krd_wbc", folder)
    assert rows["1000"].problem == "the picture is 48 x 48, the mask 30 x 20"
    assert (rows["1000"].mask_width, rows["1000"].mask_height) == (30, 20)


def test_unknown_colours_are_recorded_and_left_to_validate(tmp_path):
    folder = write("krd_wbc", tmp_path / "data")
    rgb = np.zeros((48, 48, 3), np.uint8)
    rgb[:2] = 255, 0, 255
    save(folder / "KRD-WBC/masks/1000.png", rgb)
    rows, _ = ingested(tmp_path, "krd_wbc", folder)
    assert (rows["1000"].unknown_pixels, rows["1000"].unknown_colors) == (96, "#ff00ff x 96")
    assert rows["1000"].problem is None


def test_overlapping_nuclei_are_counted(tmp_path):
    drawing = one_pixel_cell()
    save(tmp_path / "data/a/images/a.png", drawing.image_HW3)
    for label in (1, 2, 3):
        save(tmp_path / f"data/a/masks/{label}.png", drawing.ids_HW * 255)
    rows, numbers = ingested(tmp_path, "dsb2018", tmp_path / "data")
    assert numbers["overlapping_pixels"] == 2
    assert rows["a"].mask_file == "a/masks"
    assert rows["a"].class_pixels == [32 * 32 - 1, 1]


def test_one_picture_and_no_foreground_are_a_table(tmp_path):
    save(tmp_path / "data/images/only.png", empty_picture().image_HW3)
    save(tmp_path / "data/masks/only.png", colored(empty_picture().ids_HW, "image_mask"))
    rows, numbers = ingested(tmp_path, "image_mask", tmp_path / "data")
    assert rows["only"].class_pixels == [32 * 32, 0]
    assert numbers["pictures"] == numbers["groups"] == 1


@pytest.mark.parametrize("as_zip", [False, True])
def test_names_of_all_scripts_and_with_spaces_are_kept(as_zip, tmp_path):
    stems = ["größe 1", "細胞 2", "клетка_3", "with  two spaces & <tags>, 'quotes'"]
    for seed, stem in enumerate(stems):
        save(tmp_path / f"Daten säuberlich/images/{stem}.png", cells(seed=seed).image_HW3)
        save(tmp_path / f"Daten säuberlich/masks/{stem}.png", colored(cells(seed=seed).ids_HW, "image_mask"))
    folder = tmp_path / "Daten säuberlich"
    rows, _ = ingested(tmp_path, "image_mask", zipped(folder) if as_zip else folder)
    assert set(rows) == set(stems)
    assert all(row.problem is None for row in rows.values())


@pytest.mark.parametrize(
    ("mode", "recorded"),
    [("RGB", "RGB"), ("RGBA", "RGBA"), ("L", "L"), ("LA", "LA"), ("P", "P"), ("1", "1"), ("I;16", "I;16")],
)
def test_pictures_of_every_mode_are_accepted(mode, recorded, tmp_path):
    drawing = cells()
    wide = drawing.image_HW3[..., 0].astype(np.uint16) * 100
    path = tmp_path / "data/images/1.png"
    save(path, wide) if mode == "I;16" else save(path, drawing.image_HW3, mode)
    save(tmp_path / "data/masks/1.png", colored(drawing.ids_HW, "image_mask"))
    rows, _ = ingested(tmp_path, "image_mask", tmp_path / "data")
    assert rows["1"].mode == recorded
    assert rows["1"].problem is None
    assert decode_rgb(rows["1"].image).shape == (48, 48, 3)


def test_strangers_are_told_and_left_out(tmp_path, capsys):
    folder = write("krd_wbc", tmp_path / "data")
    for k in range(7):
        (folder / f"notes{k}.txt").write_text("hello")
    (folder / ".DS_Store").write_text("junk")
    _, numbers = ingested(tmp_path, "krd_wbc", folder)
    assert numbers["strangers"] == 7
    shown = capsys.readouterr().err
    assert "7 files have no place in layout krd_wbc and were left out: notes0.txt" in shown
    assert "and 2 more" in shown
    assert "100%" in shown


@pytest.mark.parametrize("name", ["../1.png", "/images/1.png", "images\\1.png"])
def test_a_hostile_archive_leaves_nothing(name, tmp_path):
    path = zipped(write("krd_wbc", tmp_path / "data"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(SourceError, match="refused as a whole"):
        ingested(tmp_path, "krd_wbc", path)
    assert nothing_left(tmp_path / "out/raw")


def test_a_bomb_leaves_nothing(tmp_path):
    path = zipped(write("krd_wbc", tmp_path / "data"))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("KRD-WBC/images/bomb.png", bytes(10**7))
    with pytest.raises(SourceError, match="decompression bomb"):
        ingested(tmp_path, "krd_wbc", path)
    assert nothing_left(tmp_path / "out/raw")


def test_damage_found_on_the_way_leaves_nothing(tmp_path):
    path = zipped(write("krd_wbc", tmp_path / "data", 20))
    data = bytearray(path.read_bytes())
    where = data.rindex(b"KRD-WBC/masks/1010.png", 0, data.index(b"PK\x01\x02"))
    data[where + 60] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(SourceError, match="fetch or make the archive anew"):
        ingested(tmp_path, "krd_wbc", path, rows_per_shard=1)
    assert nothing_left(tmp_path / "out/raw")


def test_an_empty_dataset_leaves_nothing(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(SourceError, match="holds no files"):
        ingested(tmp_path, "krd_wbc", tmp_path / "data")
    assert nothing_left(tmp_path / "out/raw")


def test_a_failed_ingest_keeps_the_table_of_before(tmp_path):
    ingested(tmp_path, "krd_wbc", write("krd_wbc", tmp_path / "data"))
    before = digests(tmp_path / "out/raw")
    with pytest.raises(SourceError):
        ingested(tmp_path, "krd_wbc", tmp_path / "nothing")
    assert digests(tmp_path / "out/raw") == before


def test_an_output_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(CytoloopError, match="could not read or write"):
        ingested(tmp_path, "krd_wbc", write("krd_wbc", tmp_path / "data"))


CHILD = """
import resource, sys
from pathlib import Path
from drawn import params
from cytoloop.door import run_step
from cytoloop.errors import CytoloopError
source, raw, limit = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    run_step("ingest", {"raw": Path(raw)}, params("krd_wbc", source, rows_per_shard=1))
except CytoloopError as error:
    sys.exit(f"told: {error}")
"""


def child(source: Path, raw: Path, limit: int = 0) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(source), str(raw), str(limit)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    process = child(write("krd_wbc", tmp_path / "data"), tmp_path / "out/raw", limit=4000)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "told: ingest could not read or write" in error
    assert nothing_left(tmp_path / "out/raw")


def many_pictures(folder: Path) -> Path:
    save(folder / "images/0.png", cells(512, 20, 6).image_HW3)
    save(folder / "masks/0.png", colored(cells(512, 20, 6).ids_HW, "krd_wbc"))
    for k in range(1, 400):
        os.link(folder / "images/0.png", folder / f"images/{k}.png")
        os.link(folder / "masks/0.png", folder / f"masks/{k}.png")
    return folder


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_ingest_leaves_no_table(sign, tmp_path):
    raw = tmp_path / "out/raw"
    process = child(many_pictures(tmp_path / "data"), raw)
    while not list(raw.parent.glob(".raw*/part-00001.parquet")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(sign)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not raw.exists()
    if sign == signal.SIGINT:
        assert nothing_left(raw)
    rows, _ = ingested(tmp_path, "krd_wbc", write("krd_wbc", tmp_path / "small"))
    assert len(rows) == 3
    assert [path.name for path in raw.parent.iterdir()] == ["raw"]


def test_rows_are_plain_and_say_nothing_of_this_machine(tmp_path):
    rows, _ = ingested(tmp_path, "krd_wbc", write("krd_wbc", tmp_path / "data"))
    told = repr([asdict(row) for row in rows.values()]) + (tmp_path / "out/raw" / CARD).read_text()
    assert str(tmp_path) not in told


@pytest.fixture(scope="module")
def small_protocol(tmp_path_factory):
    """The embedded protocol with one small background of each kind, which is quick to make."""
    import cytoloop.smear

    protocol = yaml.safe_load((Path(cytoloop.smear.__file__).parent / "protocol.yaml").read_text("utf-8"))
    protocol["background"]["side"] = 160
    path = tmp_path_factory.mktemp("protocol") / "protocol.yaml"
    path.write_text(yaml.safe_dump(protocol), "utf-8")
    return path


SMEAR_CLASSES = [{"name": name, "color": (20 * k, 255 - 20 * k, k)} for k, name in enumerate(smear_protocol.CLASSES)]
FEW = {"train": 2, "valid": 1, "test": 1, "size": 96, "cells_per_class": 10, "backgrounds": 3}


@pytest.fixture(autouse=True)
def _own_workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("CYTOLOOP_WORK", str(tmp_path / "work"))


def test_the_embedded_smear_becomes_a_table(small_protocol, tmp_path):
    rows, numbers = ingested(tmp_path, "smear", small_protocol, SMEAR_CLASSES, smear=FEW)
    assert [row.given_split for row in rows.values()] == ["train", "train", "val", "test"]
    assert numbers["problems"] == 0
    for row in rows.values():
        assert row.source_file == f"protocol.yaml#{row.id}"
        assert (row.width, row.height, row.mode) == (96, 96, "RGB")
        assert np.array_equal(decode_instances(row.instances) > 0, decode_ids(row.mask) > 0)


def test_the_smears_classes_are_its_own(small_protocol, tmp_path):
    with pytest.raises(SourceError, match="layout smear draws, in this order: background, eosinophil"):
        ingested(tmp_path, "smear", small_protocol, CLASSES["blood_smear"][::-1], smear=FEW)


def test_composed_pictures_are_grouped_by_the_pattern(small_protocol, tmp_path):
    pattern = "(?P<group>train|val|test)"
    _, numbers = ingested(tmp_path, "smear", small_protocol, SMEAR_CLASSES, smear=FEW, group_pattern=pattern)
    assert numbers["groups"] == 3
    with pytest.raises(SourceError, match="no group in 1 stems: train-00000"):
        ingested(tmp_path, "smear", small_protocol, SMEAR_CLASSES, smear=FEW, group_pattern="(?P<group>nothing)")


@pytest.fixture
def one_processor():
    """Function: from now on this process may use one processor only."""
    before = os.sched_getaffinity(0)
    yield lambda: os.sched_setaffinity(0, {min(before)})
    os.sched_setaffinity(0, before)


def test_a_composed_table_is_the_same_in_one_process_and_in_several(small_protocol, tmp_path, one_processor):
    smear = {**FEW, "train": 7, "valid": 2}
    rows, numbers = ingested(tmp_path, "smear", small_protocol, SMEAR_CLASSES, smear=smear, rows_per_shard=3)
    together = digests(tmp_path / "out/raw")
    assert sorted(together) == [CARD, PARAMS, *(f"part-{k:05d}.parquet" for k in range(4))]
    one_processor()
    _, again = ingested(tmp_path, "smear", small_protocol, SMEAR_CLASSES, smear=smear, rows_per_shard=3)
    assert digests(tmp_path / "out/raw") == together
    assert numbers == again
    pictures = Smears(read_protocol(small_protocol), SmearParams(**smear))
    for row, picture in zip(rows.values(), pictures, strict=True):
        assert (row.id, row.given_split) == (picture.id, picture.split)
        assert np.array_equal(decode_rgb(row.image), picture.image_HW3)
        assert np.array_equal(decode_instances(row.instances), picture.instances_HW)
    assert not list((tmp_path / "work").iterdir())


def test_the_notice_names_what_is_drawn_in_place_of_real_cells(small_protocol, tmp_path, caplog):
    ingested(tmp_path, "blood_smear", write("blood_smear", tmp_path / "data", 12))
    (tmp_path / "out/raw").rename(tmp_path / "cells")
    smear = {**FEW, "cells_from": [str(tmp_path / "cells")]}
    ingested(tmp_path, "smear", small_protocol, SMEAR_CLASSES, smear=smear)
    (notice,) = [record.getMessage() for record in caplog.records]
    assert notice.startswith("ingest.smear.cells_from has no cells of these classes, which are drawn: ")
    assert "infected_rbc (" in notice


def test_a_folder_that_no_cells_come_from_is_refused(small_protocol, tmp_path):
    smear = {**FEW, "cells_from": [str(tmp_path / "nowhere")]}
    with pytest.raises(SourceError, match="nowhere is neither an ingested table"):
        ingested(tmp_path, "smear", small_protocol, SMEAR_CLASSES, smear=smear)
    assert nothing_left(tmp_path / "out/raw")
