"""Masks of every layout: ids, instances and what is unknown, by arithmetic."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from test_sources_layouts import masks_in

from cytoloop.errors import SourceError
from cytoloop.images.codec import LabelCodec
from cytoloop.images.decode import UnreadablePicture, decode_rgb, grey_to_rgb, open_picture
from cytoloop.sources import LAYOUTS as REGISTRY
from cytoloop.sources import find, open_source
from drawn import CLASSES, DISC_PIXELS, LAYOUTS, cells, colored, disc, params, save, touching_discs, write

EXACT = [layout for layout in LAYOUTS if layout not in ("leukemia", "deepcell")]


@pytest.mark.parametrize("layout", EXACT)
def test_the_ids_drawn_are_the_ids_read(layout, tmp_path):
    masks = list(masks_in(layout, write(layout, tmp_path, 4)).values())
    drawn = [cells(classes=len(CLASSES[layout]), seed=seed).ids_HW for seed in range(4)]
    assert len(masks) == 4
    for ids in drawn:
        assert sum(np.array_equal(ids, mask.ids_HW) for mask in masks) == 1
    assert {mask.unknown_pixels for mask in masks} == {0}


def test_deepcell_keeps_instances_and_streams_both_files(tmp_path):
    masks = masks_in("deepcell", write("deepcell", tmp_path, 3))
    assert list(masks) == ["test_00000", "train_00000", "train_00001"]
    for mask, seed in zip(masks.values(), (0, 1, 2), strict=True):
        drawing = cells(seed=seed)
        assert np.array_equal(mask.instances_HW > 0, drawing.instances_HW > 0)
        assert np.array_equal(mask.ids_HW, drawing.ids_HW)


def test_deepcell_numbers_objects_in_sequence(tmp_path):
    labels = np.zeros((1, 8, 8, 2), np.int32)
    labels[0, 0, 0, 0], labels[0, 1, 1, 0] = 70_000, 3
    np.savez(tmp_path / "train.npz", X=np.ones((1, 8, 8, 2), np.float32), y=labels)
    mask = masks_in("deepcell", tmp_path / "train.npz")["train_00000"]
    assert mask.instances_HW[0, 0] == 2
    assert mask.instances_HW[1, 1] == 1
    assert mask.instances_HW.sum() == 3


def test_deepcell_splits_are_those_of_the_files(tmp_path):
    tree = params("deepcell", write("deepcell", tmp_path))
    with open_source(tree.ingest, LabelCodec.from_json(tree.classes)) as source:
        entries = list(REGISTRY["deepcell"].unfold(source, find(source)))
    assert [(entry.id, entry.given_split) for entry in entries] == [
        ("test_00000", "test"),
        ("train_00000", "train"),
        ("train_00001", "train"),
    ]


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        (np.ones((2, 8, 8, 1), np.float32), np.ones((1, 8, 8, 1), np.int32), "must agree"),
        (np.ones((1, 8, 8), np.float32), np.ones((1, 8, 8, 1), np.int32), "X is float32"),
        (np.ones((1, 8, 8, 1), np.float32), np.ones((1, 8, 8, 1), np.float32), "y is float32"),
        (np.ones((1, 8, 8, 3), np.float32), np.ones((1, 8, 8, 1), np.int32), "1 or 2"),
        (np.full((1, 8, 8, 1), {}, object), np.ones((1, 8, 8, 1), np.int32), "X is object"),
        (np.asfortranarray(np.ones((2, 8, 8, 1), np.float32)), np.ones((2, 8, 8, 1), np.int32), "Fortran"),
        (np.ones((1, 2000, 2000, 1), np.uint8), np.ones((1, 2000, 2000, 1), np.uint8), "2000 x 2000; at most 1 mega"),
    ],
)
def test_deepcell_refuses_what_it_is_not(x, y, reason, tmp_path):
    np.savez_compressed(tmp_path / "train.npz", X=x, y=y)
    with pytest.raises(SourceError, match=reason):
        masks_in("deepcell", tmp_path, max_megapixels=1)


def test_deepcell_needs_both_arrays_undamaged(tmp_path):
    np.savez(tmp_path / "train.npz", X=np.ones((1, 8, 8, 1), np.float32))
    with pytest.raises(SourceError, match="holds the arrays X and y"):
        masks_in("deepcell", tmp_path)
    (tmp_path / "train.npz").write_bytes((tmp_path / "train.npz").read_bytes()[:200])
    with pytest.raises(SourceError, match="not a readable file"):
        masks_in("deepcell", tmp_path)


def test_deepcell_tells_negative_labels(tmp_path):
    np.savez(tmp_path / "train.npz", X=np.ones((1, 8, 8, 1), np.float32), y=np.full((1, 8, 8, 1), -1, np.int32))
    with pytest.raises(UnreadablePicture, match="negative labels"):
        masks_in("deepcell", tmp_path)


def test_touching_nuclei_stay_apart(tmp_path):
    drawing = touching_discs(radius=5)
    save(tmp_path / "a/images/a.png", drawing.image_HW3)
    for label in (1, 2):
        save(tmp_path / f"a/masks/{label}.png", (drawing.instances_HW == label).astype(np.uint8) * 255)
    mask = masks_in("dsb2018", tmp_path)["a"]
    assert np.bincount(mask.instances_HW.ravel()).tolist()[1:] == [DISC_PIXELS[5], DISC_PIXELS[5]]
    assert mask.overlap_pixels == 0


def test_where_nuclei_overlap_the_first_keeps_the_pixels(tmp_path):
    save(tmp_path / "a/images/a.png", cells(32).image_HW3)
    save(tmp_path / "a/masks/1.png", disc(32, (16, 16), 3).astype(np.uint8) * 255)
    save(tmp_path / "a/masks/2.png", disc(32, (16, 16), 5).astype(np.uint8) * 255)
    mask = masks_in("dsb2018", tmp_path)["a"]
    assert mask.overlap_pixels == DISC_PIXELS[3]
    assert np.bincount(mask.instances_HW.ravel()).tolist()[1:] == [DISC_PIXELS[3], DISC_PIXELS[5] - DISC_PIXELS[3]]
    assert mask.ids_HW.sum() == DISC_PIXELS[5]


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "LA"])
def test_a_nucleus_may_be_of_any_mode(mode, tmp_path):
    save(tmp_path / "a/images/a.png", cells(32).image_HW3)
    save(tmp_path / "a/masks/1.png", disc(32, (10, 20), 4).astype(np.uint8) * 255, mode)
    assert masks_in("dsb2018", tmp_path)["a"].ids_HW.sum() == DISC_PIXELS[4]


def test_nucleus_masks_of_two_sizes_are_told(tmp_path):
    save(tmp_path / "a/images/a.png", cells(32).image_HW3)
    save(tmp_path / "a/masks/1.png", np.ones((32, 32), np.uint8))
    save(tmp_path / "a/masks/2.png", np.ones((16, 32), np.uint8))
    with pytest.raises(UnreadablePicture, match=r"32 x 16 in a/masks/2\.png, but 32 x 32"):
        masks_in("dsb2018", tmp_path)


def test_the_threshold_counts_from_its_value_on(tmp_path):
    save(tmp_path / "images/1.png", cells(4, 0).image_HW3)
    save(tmp_path / "masks/1.png", np.array([[149, 150], [151, 0]], np.uint8))
    mask = masks_in("image_mask", tmp_path, mask_threshold=150)["1"]
    assert mask.ids_HW.tolist() == [[0, 1], [1, 0]]


def test_all_that_the_blur_touches_is_foreground(tmp_path):
    grey = np.zeros((9, 9), np.uint8)
    grey[4, 4] = 200
    save(tmp_path / "images/1.png", cells(9, 0).image_HW3)
    save(tmp_path / "masks/1.png", grey)
    mask = masks_in("image_mask", tmp_path, mask_threshold=150, mask_blur=3)["1"]
    assert np.argwhere(mask.ids_HW).tolist() == [[y, x] for y in (3, 4, 5) for x in (3, 4, 5)]


def test_unknown_colours_are_counted_and_named(tmp_path):
    rgb = np.zeros((10, 10, 3), np.uint8)
    rgb[0, :7], rgb[1, :2], rgb[2, 0] = (1, 2, 3), (250, 0, 250), (0, 255, 0)
    save(tmp_path / "images/1.png", cells(10, 0).image_HW3)
    save(tmp_path / "masks/1.png", rgb)
    mask = masks_in("krd_wbc", tmp_path, color_tolerance=0)["1"]
    assert mask.unknown_pixels == 9
    assert mask.unknown_colors == "#010203 x 7, #fa00fa x 2"
    assert mask.ids_HW.sum() == 1
    mask = masks_in("krd_wbc", tmp_path, color_tolerance=4)["1"]
    assert (mask.unknown_pixels, mask.unknown_colors) == (2, "#fa00fa x 2")


def test_anti_aliased_edges_take_the_nearer_colour(tmp_path):
    ramp = np.linspace(0, 255, 256).astype(np.uint8)
    save(tmp_path / "images/1.png", cells(10, 0).image_HW3)
    save(tmp_path / "masks/1.png", np.stack([0 * ramp, ramp, ramp], -1)[None])  # black to cyan
    mask = masks_in("krd_wbc", tmp_path, color_tolerance=181)["1"]
    assert mask.unknown_pixels == 0
    assert mask.ids_HW.tolist() == [[0] * 128 + [4] * 128]


@pytest.mark.parametrize("mode", ["L", "RGB", "LA"])
def test_values_are_read_from_any_grey_mask(mode, tmp_path):
    save(tmp_path / "1.bmp", cells(10, 0).image_HW3)
    save(tmp_path / "1.png", np.array([[0, 128, 255, 7]], np.uint8), mode)
    mask = masks_in("segmentation_wbc", tmp_path)["1"]
    assert mask.ids_HW.tolist() == [[0, 1, 2, 0]]
    assert (mask.unknown_pixels, mask.unknown_colors) == (1, "7 x 1")


def test_values_beyond_a_byte_are_unknown(tmp_path):
    save(tmp_path / "1.bmp", cells(10, 0).image_HW3)
    save(tmp_path / "1.png", np.array([[0, 128, 255, 300]], np.uint16))
    mask = masks_in("segmentation_wbc", tmp_path)["1"]
    assert mask.ids_HW.tolist() == [[0, 1, 2, 0]]
    assert mask.unknown_colors == "300 x 1"


def test_the_indices_of_a_palette_are_its_values(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="P")
    picture.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    save(tmp_path / "images/1.png", cells(10, 0).image_HW3)
    (tmp_path / "masks").mkdir()
    picture.save(tmp_path / "masks/1.png")
    classes = [{"name": name, "color": (value, 0, 0), "value": value} for value, name in enumerate("abc")]
    assert masks_in("image_mask", tmp_path, classes)["1"].ids_HW.tolist() == [[0, 1, 2]]


CODEC = LabelCodec.from_json(CLASSES["blood_smear"])


@given(arrays(np.uint8, (5, 7), elements=st.integers(0, 9)))
def test_colours_and_back_are_the_same_ids(ids):
    read, unknown = CODEC.ids_from_colors(CODEC.colors(ids))
    assert np.array_equal(read, ids)
    assert not unknown.any()
    assert np.array_equal(read, CODEC.ids_from_colors(colored(ids, "blood_smear"), 255)[0])


@given(arrays(np.uint8, (4, 4, 3)), st.floats(0, 255))
def test_a_colour_takes_the_nearest_class_within_the_tolerance(rgb, tolerance):
    ids, unknown = CODEC.ids_from_colors(rgb, tolerance)
    for y, x in np.ndindex(4, 4):
        distances = np.linalg.norm(CODEC.palette_N3.astype(float) - rgb[y, x], axis=1)
        assert unknown[y, x] == (distances.min() > tolerance)
        assert ids[y, x] == (0 if unknown[y, x] else distances.argmin())


def png(path, pixels, mode=None):
    return save(path, pixels, mode).read_bytes()


def test_every_mode_becomes_rgb(tmp_path):
    rgb = cells().image_HW3
    assert np.array_equal(decode_rgb(png(tmp_path / "rgb.png", rgb)), rgb)
    assert np.array_equal(decode_rgb(png(tmp_path / "rgba.png", rgb, "RGBA")), rgb)
    grey = rgb[..., 0]
    expected = np.repeat(grey[..., None], 3, -1)
    assert np.array_equal(decode_rgb(png(tmp_path / "l.png", grey)), expected)
    assert np.array_equal(decode_rgb(png(tmp_path / "la.png", grey, "LA")), expected)
    assert np.array_equal(decode_rgb(png(tmp_path / "p.png", grey, "P")), expected)
    bits = (grey > 128).astype(np.uint8) * 255
    assert np.array_equal(decode_rgb(png(tmp_path / "1.png", bits, "1"))[..., 0], bits)


def test_transparent_pixels_are_laid_over_white(tmp_path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = 0, 255, 51
    assert decode_rgb(png(tmp_path / "a.png", rgba))[0, :, 0].tolist() == [255, 0, 204]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_are_stretched(suffix, tmp_path):
    wide = np.linspace(1000, 5000, 10_001).astype(np.uint16).reshape(73, 137)
    rgb = decode_rgb(save(tmp_path / f"a{suffix}", wide).read_bytes())
    assert rgb[0, 0].tolist() == [0, 0, 0]
    assert rgb[-1, -1].tolist() == [255, 255, 255]
    assert abs(int(rgb[36, 68, 0]) - 128) <= 1


def test_a_flat_wide_picture_is_black_and_infinite_ones_are_refused():
    assert grey_to_rgb(np.full((3, 3), 700.0)).max() == 0
    with pytest.raises(UnreadablePicture, match="not finite"):
        grey_to_rgb(np.array([[1.0, np.nan]]))


@pytest.mark.parametrize(
    "data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a", b"II*\0", b"\xff\xd8\xff", b"%PDF-1.4"]
)
def test_what_is_no_picture_is_unreadable(data):
    with pytest.raises(UnreadablePicture):
        open_picture(data, 10**6)


def test_a_truncated_picture_is_unreadable(tmp_path):
    for suffix in (".png", ".jpg", ".bmp", ".tif", ".gif"):
        data = save(tmp_path / f"a{suffix}", cells().image_HW3).read_bytes()
        with pytest.raises(UnreadablePicture, match="is damaged"):
            open_picture(data[: len(data) // 2], 10**6)
