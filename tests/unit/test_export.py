"""The exported folders hold what the table holds; the COCO file follows COCO's rules, checked by arithmetic."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cytoloop.artifacts import Row
from cytoloop.errors import ArtifactError
from cytoloop.export import components, export, run_lengths
from cytoloop.images.decode import decode_rgb, encode_instances_png
from drawn import DISC_PIXELS, disc, touching_discs
from tables import CODEC, card, mask_of, picture_of, row, write_table


def touching(name: str, **changes: Any) -> Row:
    """Two nuclei side by side."""
    drawing = touching_discs(40, 5)
    return row(name, mask_HW=drawing.ids_HW, instances=encode_instances_png(drawing.instances_HW), **changes)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = [
        touching("a", given_split="train"),
        row("größe 1", given_split="train"),
        row("b", given_split="val", instances=None),
        row("empty", given_split="test", mask_HW=np.zeros((40, 40), np.uint8)),
        row("bad", given_split="test", problem="the mask is damaged"),
        row("maskless", given_split="test", mask=None, instances=None),
    ]
    return write_table(tmp_path / "raw", rows)


def annotations(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "annotations.json").read_text("utf-8")))


def decoded(segmentation: dict[str, Any]) -> np.ndarray[Any, Any]:
    """The mask of a run-length code, by COCO's rule: column by column, outside first."""
    height, width = segmentation["size"]
    counts = segmentation["counts"]
    flat = np.repeat(np.arange(len(counts)) % 2, counts)
    flat = np.append(flat, np.zeros(height * width - len(flat), int))
    return flat.reshape(width, height).T


def write_splits(folder: Path, split_of: dict[str, str]) -> Path:
    folder.mkdir()
    lines = ["id,group,split,reason", *(f"{name},{name},{split}," for name, split in split_of.items())]
    (folder / "splits.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_pictures_and_masks_lie_in_the_folders_of_their_split(table: Path, tmp_path: Path) -> None:
    numbers = export(table, tmp_path / "out")
    assert numbers == {"pictures": 4, "annotations": 5, "left_out": 2}
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert files == [
        *("test/annotations.json", "test/images/empty.png", "test/masks/empty.png", "train/annotations.json"),
        *("train/images/a.png", "train/images/größe 1.png", "train/masks/a.png", "train/masks/größe 1.png"),
        *("val/annotations.json", "val/images/b.png", "val/masks/b.png"),
    ]
    mask_HW = mask_of()
    image = decode_rgb((tmp_path / "out/train/images/größe 1.png").read_bytes())
    np.testing.assert_array_equal(image, picture_of(mask_HW))
    mask = decode_rgb((tmp_path / "out/train/masks/größe 1.png").read_bytes())
    np.testing.assert_array_equal(mask, CODEC.colors(mask_HW))


def test_masks_of_ids_are_grey(table: Path, tmp_path: Path) -> None:
    export(table, tmp_path / "out", masks="ids")
    mask = decode_rgb((tmp_path / "out/val/masks/b.png").read_bytes())
    np.testing.assert_array_equal(mask, np.repeat(mask_of()[..., None], 3, -1))


def test_an_annotation_is_an_instance_and_its_box_holds_exactly_its_pixels(table: Path, tmp_path: Path) -> None:
    export(table, tmp_path / "out")
    coco = annotations(tmp_path / "out/train")
    image = next(image for image in coco["images"] if image["file_name"] == "images/a.png")
    mine = [one for one in coco["annotations"] if one["image_id"] == image["id"]]
    instances_HW = touching_discs(40, 5).instances_HW
    assert len(mine) == 2
    for number, one in enumerate(mine, 1):
        np.testing.assert_array_equal(decoded(one["segmentation"]), instances_HW == number)
        assert one["area"] == DISC_PIXELS[5] == sum(one["segmentation"]["counts"][1::2])
        x, y, width, height = one["bbox"]
        assert (width, height) == (11, 11)  # of radius 5
        assert (instances_HW[y : y + height, x : x + width] == number).sum() == one["area"]
    assert mine[0]["bbox"][0] + 11 == mine[1]["bbox"][0]


def test_the_file_follows_the_rules_of_coco(table: Path, tmp_path: Path) -> None:
    export(table, tmp_path / "out")
    for split in ("train", "val", "test"):
        coco = annotations(tmp_path / "out" / split)
        assert [image["id"] for image in coco["images"]] == list(range(1, len(coco["images"]) + 1))
        assert [one["id"] for one in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
        names = [(category["id"], category["name"]) for category in coco["categories"]]
        assert names == [(1, "nucleus"), (2, "cytoplasm")]
        sizes = {image["id"]: (image["width"], image["height"]) for image in coco["images"]}
        for image in coco["images"]:
            assert (tmp_path / "out" / split / image["file_name"]).is_file()
        for one in coco["annotations"]:
            width, height = sizes[one["image_id"]]
            x, y, w, h = one["bbox"]
            assert min(x, y) >= 0
            assert x + w <= width
            assert y + h <= height
            assert 0 < one["area"] <= w * h
            assert one["category_id"] in (1, 2)
            assert one["iscrowd"] == 0
            assert one["segmentation"]["size"] == [height, width]
        assert coco["licenses"][0]["name"] == "CC0-1.0"
        assert coco["info"]["contributor"] == "drawn for tests"


def test_an_instance_of_two_classes_is_of_the_larger(tmp_path: Path) -> None:
    """A cell of 144 pixels whose nucleus has 9 and whose cytoplasm has the others."""
    write_table(tmp_path / "raw", [row("a")])
    export(tmp_path / "raw", tmp_path / "out")
    (one,) = annotations(tmp_path / "out/all")["annotations"]
    assert (one["category_id"], one["area"], one["bbox"]) == (2, 144, [6, 4, 12, 12])


def test_without_instances_connected_components_are_objects(table: Path, tmp_path: Path) -> None:
    export(table, tmp_path / "out")
    found = annotations(tmp_path / "out/val")["annotations"]
    assert [(one["category_id"], one["area"]) for one in found] == [(1, 9), (2, 144 - 9)]
    assert found[0]["bbox"] == [9, 7, 3, 3]


def test_components_are_of_one_class() -> None:
    ids_HW = np.zeros((20, 30), np.uint8)
    ids_HW[disc(30, (10, 6), 4)[:20]] = 1
    ids_HW[disc(30, (10, 15), 4)[:20]] = 2  # touches the first
    ids_HW[disc(30, (10, 25), 3)[:20]] = 1
    parts_HW = components(ids_HW)
    assert sorted(np.bincount(parts_HW.ravel())[1:].tolist()) == [DISC_PIXELS[3], DISC_PIXELS[4], DISC_PIXELS[4]]
    for number in range(1, 4):
        assert len(np.unique(ids_HW[parts_HW == number])) == 1


@given(arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 4)))
def test_run_lengths_are_those_of_the_pixels(instances_HW: np.ndarray[Any, Any]) -> None:
    codes = run_lengths(instances_HW)
    assert set(codes) == set(np.unique(instances_HW)) - {0}
    for number, counts in codes.items():
        assert min(counts[1:]) > 0
        assert len(counts) % 2 == 0 or counts[-1] > 0
        mask = decoded({"size": instances_HW.shape, "counts": counts})
        np.testing.assert_array_equal(mask, instances_HW == number)


def test_the_given_splits_divide(table: Path, tmp_path: Path) -> None:
    split_of = {"a": "test", "größe 1": "excluded", "b": "train", "empty": "train", "bad": "train", "maskless": "val"}
    numbers = export(table, tmp_path / "out", write_splits(tmp_path / "splits", split_of))
    assert numbers == {"pictures": 3, "annotations": 4, "left_out": 3}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["test", "train"]
    assert {path.stem for path in (tmp_path / "out/train/images").iterdir()} == {"b", "empty"}


def test_splits_of_another_table_are_refused(table: Path, tmp_path: Path) -> None:
    splits = write_splits(tmp_path / "splits", {"a": "train"})
    with pytest.raises(ArtifactError, match="größe 1: the splits do not know this picture"):
        export(table, tmp_path / "out", splits)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "splits"]


def test_a_folder_with_files_is_not_touched(table: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("precious")
    with pytest.raises(ArtifactError, match="holds files already"):
        export(table, tmp_path / "out")
    assert (tmp_path / "out/mine.txt").read_text() == "precious"
    (tmp_path / "out/mine.txt").unlink()
    assert export(table, tmp_path / "out")["pictures"] == 4


@pytest.mark.parametrize("name", ["../a", "a/b", ".."])
def test_an_id_never_leads_out_of_the_folder(name: str, tmp_path: Path) -> None:
    write_table(tmp_path / "raw", [row("first"), row(name)])
    if "/" in name:
        with pytest.raises(ArtifactError, match="not a name that a file can have"):
            export(tmp_path / "raw", tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    else:
        export(tmp_path / "raw", tmp_path / "out")
        assert (tmp_path / "out/all/images/...png").is_file()


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"dataset\.json: not found"):
        export(tmp_path, tmp_path / "out")


def test_the_same_table_gives_the_same_bytes(table: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        export(table, tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 11
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert str(tmp_path) not in (tmp_path / "one/train/annotations.json").read_text()


def test_a_table_of_no_pictures_is_exported(tmp_path: Path) -> None:
    write_table(tmp_path / "raw", [], licence=card().licence)
    assert export(tmp_path / "raw", tmp_path / "out")["pictures"] == 0
    assert list((tmp_path / "out").iterdir()) == []
