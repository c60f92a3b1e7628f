"""The augment step on small tables: only training rows, true facts, the same bytes whatever the order."""

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cytoloop.artifacts import Row, read_card, read_facts, read_rows
from cytoloop.errors import ArtifactError
from cytoloop.images.decode import decode_ids, decode_instances, decode_rgb
from cytoloop.params import AugmentParams
from cytoloop.steps.augment import augment
from tables import CODEC, mask_of, picture_of, row, write_table

ROWS = [row(f"p{n}", group=f"g{n // 2}", mask_HW=mask_of(40 + 4 * (n % 2), 40, 8 + n), label="x") for n in range(12)]
PARTS = ["train"] * 8 + ["val", "test", "excluded", "train"]


def augmented(folder: Path, rows: Sequence[Row] = ROWS, **params: Any) -> list[Row]:
    part_of = {one.id: part for one, part in zip(ROWS, PARTS, strict=True)}
    raw = write_table(folder / "raw", rows)
    (folder / "splits").mkdir()
    with (folder / "splits" / "splits.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "group", "split"), *[(one.id, one.group, part_of[one.id]) for one in rows]])
    numbers = augment(raw, folder / "splits", folder / "augmented", AugmentParams.model_validate(params))
    made = list(read_rows(folder / "augmented"))
    assert numbers["pictures"] == len(made) == read_card(folder / "augmented").rows
    return made


def test_only_training_rows_get_the_copies_they_were_promised(tmp_path: Path) -> None:
    made = augmented(tmp_path, copies=3)
    training = [one for one, part in zip(ROWS, PARTS, strict=True) if part == "train"]
    assert [one.id for one in made] == [f"{one.id}~{number}" for one in training for number in (1, 2, 3)]
    assert {(one.origin, one.group, one.label) for one in made} == {(one.id, one.group, one.label) for one in training}
    assert read_card(tmp_path / "augmented").name == "squares (augmented)"
    assert read_card(tmp_path / "augmented").classes == read_card(tmp_path / "raw").classes


@pytest.mark.parametrize("settings", [{}, {"rotation": {"probability": 1}, "elastic": {"probability": 1}}])
def test_the_facts_are_those_of_the_new_pixels(settings: dict[str, Any], tmp_path: Path) -> None:
    for one in augmented(tmp_path, **settings):
        assert one.image
        assert one.mask
        assert one.instances
        image_HW3, mask_HW = decode_rgb(one.image), decode_ids(one.mask)
        assert one.sha256 == hashlib.sha256(one.image).hexdigest()
        assert image_HW3.shape == (one.height, one.width, 3)
        assert mask_HW.shape == (one.mask_height, one.mask_width)
        assert one.class_pixels == np.bincount(mask_HW.ravel(), minlength=3).tolist()
        assert one.mean_rgb == pytest.approx(image_HW3.mean((0, 1)), abs=1e-4)
        assert one.std_rgb == pytest.approx(image_HW3.std((0, 1)), abs=1e-4)
        np.testing.assert_array_equal(decode_instances(one.instances), mask_HW > 0)
        if not settings:
            np.testing.assert_array_equal(image_HW3, picture_of(mask_HW))


def test_exact_variants_are_none_of_them_the_original(tmp_path: Path) -> None:
    origins = {one.id: one for one in ROWS}
    for one in augmented(tmp_path, copies=4):
        assert one.image != origins[str(one.origin)].image
        assert one.class_pixels == origins[str(one.origin)].class_pixels


def test_a_variant_depends_on_seed_origin_and_number_alone(tmp_path: Path) -> None:
    """Fewer pictures, in another order, and another count of copies: the same bytes."""
    names = ("rotation", "shear", "elastic", "pincushion", "sharpening")
    settings = {name: {"probability": 0.9} for name in names}
    all_of_them = {one.id: one for one in augmented(tmp_path / "a", copies=3, **settings)}
    some = augmented(tmp_path / "b", rows=[ROWS[5], ROWS[11], ROWS[0]], copies=2, **settings)
    assert [one.id for one in some] == ["p5~1", "p5~2", "p11~1", "p11~2", "p0~1", "p0~2"]
    assert all(one == all_of_them[one.id] for one in some)
    reseeded = augmented(tmp_path / "c", copies=1, seed=1, **settings)
    assert not any(one.image == all_of_them[one.id].image for one in reseeded)


def test_no_copies_make_an_empty_table_that_can_be_read(tmp_path: Path) -> None:
    assert augmented(tmp_path, copies=0) == []
    assert len(read_facts(tmp_path / "augmented")) == 0
    assert read_card(tmp_path / "augmented").rows == 0


def test_pictures_without_instances_stay_without(tmp_path: Path) -> None:
    made = augmented(tmp_path, rows=[replace(one, instances=None) for one in ROWS])
    assert all(one.instances is None for one in made)


def test_splits_of_another_table_are_refused(tmp_path: Path) -> None:
    augmented(tmp_path)
    other = write_table(tmp_path / "other", ROWS[:5])
    with pytest.raises(ArtifactError, match="not of the table"):
        augment(other, tmp_path / "splits", tmp_path / "nowhere", AugmentParams())


def test_mask_files_keep_the_palette_of_the_classes(tmp_path: Path) -> None:
    one = augmented(tmp_path)[0]
    assert one.mask == CODEC.encode_png(decode_ids(one.mask or b""))


def test_a_constant_border_is_background(tmp_path: Path) -> None:
    outside = 0
    for one in augmented(tmp_path, border="constant", border_value=255, rotation={"probability": 1}):
        outside_HW = (decode_rgb(one.image or b"") == 255).all(axis=-1)
        assert not decode_ids(one.mask or b"")[outside_HW].any()
        outside += outside_HW.sum()
    assert outside > 500
