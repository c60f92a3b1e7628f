"""Layouts: what is found by name, and which of them a source fits."""

import pytest

from cytoloop.errors import SourceError
from cytoloop.images.codec import LabelCodec
from cytoloop.images.decode import UnreadablePicture
from cytoloop.sources import LAYOUTS as REGISTRY
from cytoloop.sources import find, open_source
from cytoloop.sources.pairing import Role, origin_of, pair, role_by, with_ids
from cytoloop.steps.ingest import ingest
from drawn import CLASSES, LAYOUTS, cells, params, save, write, zipped


def found_in(layout, source, classes=None, **ingest):
    tree = params(layout, source, classes, **ingest)
    with open_source(tree.ingest, LabelCodec.from_json(tree.classes)) as opened:
        return find(opened)


def masks_in(layout, source, classes=None, **ingest):
    """id -> mask, of all entries."""
    tree = params(layout, source, classes, **ingest)
    with open_source(tree.ingest, LabelCodec.from_json(tree.classes)) as opened:
        read = REGISTRY[layout]
        return {entry.id: read.read_mask(opened, entry) for entry in read.unfold(opened, find(opened))}


def test_every_layout_tells_what_it_is():
    assert set(REGISTRY) == {*LAYOUTS, "smear"}
    for name, layout in REGISTRY.items():
        assert layout.name == name
        assert layout.description
        assert layout.expects


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_fits_its_own_as_folder_and_as_zip(layout, tmp_path):
    folder = write(layout, tmp_path / "data")
    for source in (folder, zipped(folder)):
        found = found_in(layout, source)
        assert found.fits
        assert not found.strangers
        assert not found.doubles
        assert all(entry.picture and entry.masks for entry in found.entries)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_source_in_another_layout_is_refused_with_what_would_fit(layout, tmp_path):
    folder = write(layout, tmp_path / "data")
    for other in {*REGISTRY} - {layout}:
        if (layout, other) == ("krd_wbc", "image_mask") or (
            other == "deepcell" and layout in ("krd_wbc", "image_mask")
        ):
            continue  # a krd_wbc folder is also the simplest image_mask, which deepcell reads beside its own
        classes = CLASSES.get(other, CLASSES["image_mask"])
        with pytest.raises(SourceError) as error:
            found_in(other, folder, classes)
        assert f"not in layout {other}" in str(error.value)
        assert "expected:" in str(error.value)
        assert "found:" in str(error.value)
        assert f"declare ingest.layout: {layout}" in str(error.value).replace("image_mask or krd_wbc", "krd_wbc")


def test_what_fits_nothing_is_told(tmp_path):
    (tmp_path / "notes.txt").write_text("no pictures")
    with pytest.raises(SourceError, match="no other layout fits either"):
        found_in("krd_wbc", tmp_path)


def test_an_empty_source_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="holds no files"):
        found_in("krd_wbc", tmp_path / "empty")
    with pytest.raises(SourceError, match="holds no files"):
        found_in("krd_wbc", zipped(tmp_path / "empty", tmp_path / "empty.zip"))


def test_an_unknown_layout_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"'coco': no such layout; allowed: blood_smear, .*smear"):
        ingest(tmp_path, params("coco", tmp_path, CLASSES["dsb2018"]).ingest, ())


def test_strangers_are_reported(tmp_path):
    folder = write("krd_wbc", tmp_path / "data")
    (folder / "README.md").write_text("hello")
    (folder / "KRD-WBC/images/notes.txt").write_text("hello")
    assert found_in("krd_wbc", folder).strangers == ["KRD-WBC/images/notes.txt", "README.md"]


def test_two_files_for_one_place_are_refused(tmp_path):
    folder = write("krd_wbc", tmp_path / "data")
    save(folder / "KRD-WBC/images/1000.bmp", cells().image_HW3)
    with pytest.raises(SourceError, match=r"claim the place of another.*images/1000\.bmp.*images/1000\.png"):
        found_in("krd_wbc", folder)


def test_pictures_without_mask_and_masks_without_picture_are_kept(tmp_path):
    folder = write("krd_wbc", tmp_path / "data")
    (folder / "KRD-WBC/images/1000.png").unlink()
    (folder / "KRD-WBC/masks/1002.png").unlink()
    by_id = {entry.id: entry for entry in found_in("krd_wbc", folder).entries}
    assert by_id["1000"].picture is None
    assert by_id["1000"].source_file == "KRD-WBC/masks/1000.png"
    assert by_id["1002"].masks == ()


def test_suffixes_are_read_in_any_case(tmp_path):
    save(tmp_path / "IMAGES/1.PNG", cells().image_HW3)
    save(tmp_path / "Masks/1.Png", cells().ids_HW)
    (entry,) = found_in("krd_wbc", tmp_path).entries
    assert (entry.picture, entry.masks) == ("IMAGES/1.PNG", ("Masks/1.Png",))


@pytest.mark.parametrize(
    ("stem", "origin"),
    [
        ("1017", "1017"),
        ("barrdistorted_1001_0.3_0.3_1198", "1198"),
        ("pincdistorted_102_0.3_-0.3_1016", "1016"),
        ("distorted_0.02_rsigma0.5_sigma40_1007", "1007"),
        ("deformed_alpha_1300_sigmoid_8_1007", "1007"),
        ("rotated_90_1007", "1007"),
        ("rotated_90_shrinked_0_8_1007", "1007"),
        ("shrinked_0.8_1007", "1007"),
        ("hflipped_1007", "1007"),
        ("mirrored_slide_7_tile_3", "slide_7_tile_3"),
        ("flipped", "flipped"),
        ("rotated_cell", "rotated_cell"),
        ("unflipped_1007", "unflipped_1007"),
        ("WBC-Malignant-Early-001", "WBC-Malignant-Early-001"),
    ],
)
def test_a_variant_belongs_to_its_origin(stem, origin):
    assert origin_of(stem) == origin


def test_variants_share_the_group_of_their_origin(tmp_path):
    groups = {entry.id: entry.group for entry in found_in("krd_wbc", write("krd_wbc", tmp_path)).entries}
    assert groups == {"1000": "1000", "1002": "1002", "barrdistorted_1001_0.3_0.3_1000": "1000"}


def test_stems_that_repeat_get_the_name_of_their_folder(tmp_path):
    for name in ("train/images/1", "train/masks/1", "test/images/1", "test/masks/1", "test/images/2", "test/masks/2"):
        save(tmp_path / f"{name}.png", cells().ids_HW * 255)
    save(tmp_path / "train/images/hflipped_1.png", cells().ids_HW * 255)
    save(tmp_path / "train/masks/hflipped_1.png", cells().ids_HW * 255)
    entries = {entry.id: entry for entry in found_in("image_mask", tmp_path).entries}
    assert {name: entry.given_split for name, entry in entries.items()} == {
        "train_1": "train",
        "test_1": "test",
        "2": "test",
        "hflipped_1": "train",
    }


def test_folders_of_the_same_name_are_told_apart_by_their_path():
    role = role_by(r"(?P<folder>.*/)images/(?P<stem>.*)\.png", r"(?P<folder>.*/)masks/(?P<stem>.*)\.png")
    names = [f"{folder}/train/{kind}/1.png" for folder in ("a", "b") for kind in ("images", "masks")]
    assert [entry.id for entry in pair(names, role).entries] == ["a_train_1", "b_train_1"]


def test_ids_that_cannot_be_made_unique_are_refused():
    names = ["a/x/b/images/1.png", "a_x/b/images/1.png"]
    with pytest.raises(SourceError, match="same id: a_x_b_1"):
        pair(names, lambda name: Role("picture", name.rpartition("/images")[0], "1"))
    assert with_ids([]) == []


def test_given_splits_are_kept_with_valid_as_val(tmp_path):
    found = found_in("image_mask", write("image_mask", tmp_path))
    assert {entry.id: entry.given_split for entry in found.entries} == {"0": "train", "1": "val", "2": "test"}


def test_a_source_with_one_split_was_not_divided(tmp_path):
    found = found_in("blood_smear", write("blood_smear", tmp_path))
    assert {entry.given_split for entry in found.entries} == {None}


def test_images_and_masks_need_no_split_above_them(tmp_path):
    save(tmp_path / "images/1.png", cells().image_HW3)
    save(tmp_path / "masks/1.png", cells().ids_HW * 255)
    (entry,) = found_in("image_mask", tmp_path).entries
    assert (entry.id, entry.given_split, entry.label) == ("1", None, None)


def test_divided_folders_are_not_krd_wbc(tmp_path):
    with pytest.raises(SourceError, match=r"declare ingest\.layout: image_mask"):
        found_in("krd_wbc", write("image_mask", tmp_path))


def test_leukemia_needs_a_declared_threshold(tmp_path):
    with pytest.raises(SourceError, match=r"ingest\.mask_threshold: is not declared"):
        found_in("leukemia", write("leukemia", tmp_path), mask_threshold=None)


def test_the_category_is_the_label(tmp_path):
    found = found_in("leukemia", write("leukemia", tmp_path))
    assert [(entry.stem, entry.label) for entry in found.entries] == [
        ("WBC-001", "early"),
        ("WBC-000", "pro"),
        ("WBC-002", "pro"),
    ]


@pytest.mark.parametrize("layout", ["leukemia", "dsb2018", "deepcell"])
def test_one_foreground_class_is_needed(layout, tmp_path):
    with pytest.raises(SourceError, match="declare two classes"):
        found_in(layout, write(layout, tmp_path), CLASSES["krd_wbc"])


def test_deepcell_reads_pictures_and_grey_masks_in_folders(tmp_path):
    save(tmp_path / "train/images/1.jpg", cells().image_HW3)
    save(tmp_path / "train/masks/1.jpg", (cells().ids_HW > 0).astype("uint8") * 255)
    with pytest.raises(SourceError, match=r"ingest\.mask_threshold is not declared"):
        masks_in("deepcell", tmp_path)
    ((name, mask),) = masks_in("deepcell", tmp_path, mask_threshold=128).items()
    assert name == "1"
    # a JPEG's grey values waver at the edges: a threshold of 1 would have taken them all
    assert abs(int(mask.ids_HW.sum()) - int((cells().ids_HW > 0).sum())) < 0.05 * mask.ids_HW.size


def test_segmentation_wbc_needs_values(tmp_path):
    classes = [{**CLASSES["segmentation_wbc"][0]}, {"name": "nucleus", "color": (9, 9, 9)}]
    with pytest.raises(SourceError, match="classes: nucleus have no `value`"):
        found_in("segmentation_wbc", write("segmentation_wbc", tmp_path), classes)


def test_jpeg_masks_need_a_threshold(tmp_path):
    save(tmp_path / "images/1.jpg", cells().image_HW3)
    save(tmp_path / "masks/1.jpg", cells().ids_HW * 255)
    with pytest.raises(SourceError, match="1 masks are JPEG"):
        found_in("image_mask", tmp_path)
    assert found_in("image_mask", tmp_path, mask_threshold=128).fits


def test_labels_come_from_the_table_beside_the_folder(tmp_path):
    folder = write("segmentation_wbc", tmp_path)
    tree = params("segmentation_wbc", folder)
    layout = REGISTRY["segmentation_wbc"]
    with open_source(tree.ingest, LabelCodec.from_json(tree.classes)) as source:
        labels = {entry.id: entry.label for entry in layout.unfold(source, find(source))}
    assert labels == {"001": "neutrophil", "002": "lymphocyte", "003": "monocyte"}


@pytest.mark.parametrize("text", ["image ID,class label\n1,6\n", "a\n1\n", "a,b\n1,2,3\n", "\xff\xfe"])
def test_a_damaged_table_of_labels_is_told(text, tmp_path):
    folder = write("segmentation_wbc", tmp_path)
    (folder / "WBC/Class Labels of Dataset 1.csv").write_text(text, "latin-1")
    with pytest.raises(SourceError, match=r"Class Labels of Dataset 1\.csv: not a table"):
        masks_in("segmentation_wbc", folder)


def test_pictures_outside_the_folders_of_cells_are_strangers(tmp_path):
    folder = write("segmentation_wbc", tmp_path)
    save(folder / "WBC/overview.png", cells().image_HW3)
    assert found_in("segmentation_wbc", folder).strangers == ["WBC/overview.png"]


def test_a_mask_that_is_coloured_has_no_values(tmp_path):
    folder = write("segmentation_wbc", tmp_path)
    save(folder / "WBC/Dataset 1/001.png", cells().image_HW3)
    with pytest.raises(UnreadablePicture, match="is coloured"):
        masks_in("segmentation_wbc", folder)
