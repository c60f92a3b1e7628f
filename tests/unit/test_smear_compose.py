from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import cytoloop.smear
from cytoloop.images.decode import encode_rgb_png
from cytoloop.params import SmearParams
from cytoloop.smear import (
    Protocol,
    SmearPicture,
    cell_facts,
    compose_picture,
    compose_smears,
    make_bank,
    make_cells,
    read_protocol,
)
from cytoloop.smear.bank import Cells
from cytoloop.smear.compose import combination
from cytoloop.smear.protocol import AFFIXED, CELLS, CLASSES

PARAMS = SmearParams(train=30, valid=3, test=3, size=128, cells_per_class=10, seed=3)


@pytest.fixture(scope="module")
def protocol() -> Protocol:
    """The declared one with fewer and smaller backgrounds."""
    declared = read_protocol(Path(cytoloop.smear.__file__).with_name("protocol.yaml"))
    background = declared.background.model_copy(update={"side": 300, "count": {"train": 1, "val": 1, "test": 1}})
    return declared.model_copy(update={"background": background})


@pytest.fixture(scope="module")
def cells(protocol: Protocol) -> Cells:
    return make_cells(protocol, PARAMS)


@pytest.fixture(scope="module")
def pictures(protocol: Protocol, cells: Cells) -> list[SmearPicture]:
    return list(compose_smears(protocol, PARAMS, cells=cells))


def content(picture: SmearPicture) -> tuple[object, ...]:
    arrays = (picture.image_HW3, picture.ids_HW, picture.instances_HW)
    return (picture.id, picture.split, *(array.tobytes() for array in arrays), tuple(picture.objects))


def test_pictures_come_by_split_in_order(pictures: list[SmearPicture]) -> None:
    assert [picture.split for picture in pictures] == ["train"] * 30 + ["val"] * 3 + ["test"] * 3
    assert len({picture.id for picture in pictures}) == 36
    assert pictures[0].id.startswith("train-00000")
    assert pictures[30].id.startswith("val-00000")


def test_arrays_are_of_the_declared_types(pictures: list[SmearPicture]) -> None:
    for picture in pictures:
        assert (picture.image_HW3.shape, picture.image_HW3.dtype) == ((128, 128, 3), np.uint8)
        assert (picture.ids_HW.shape, picture.ids_HW.dtype) == ((128, 128), np.uint8)
        assert (picture.instances_HW.shape, picture.instances_HW.dtype) == ((128, 128), np.uint16)


def test_the_same_seed_makes_the_same_bytes(protocol: Protocol, pictures: list[SmearPicture]) -> None:
    again = list(compose_smears(protocol, PARAMS, range(0, 36, 7)))
    assert [content(picture) for picture in again] == [content(picture) for picture in pictures[::7]]


def test_another_seed_makes_other_pictures(protocol: Protocol, cells: Cells, pictures: list[SmearPicture]) -> None:
    other = PARAMS.model_copy(update={"seed": 4})
    assert content(next(compose_smears(protocol, other, cells=cells))) != content(pictures[0])


def test_a_picture_does_not_depend_on_how_many_are_made(
    protocol: Protocol, cells: Cells, pictures: list[SmearPicture]
) -> None:
    more = PARAMS.model_copy(update={"train": 500})
    bank = make_bank(protocol, more, "train", cells)
    assert content(compose_picture(protocol, more, bank, 17)) == content(pictures[17])


def test_masks_and_instances_agree(pictures: list[SmearPicture]) -> None:
    for picture in pictures:
        assert picture.ids_HW.max() < len(CLASSES)
        np.testing.assert_array_equal(picture.ids_HW == 0, picture.instances_HW == 0)
        assert set(np.unique(picture.instances_HW)) - {0} == set(range(1, len(picture.objects) + 1))
        for number, (name, (x, y, width, height)) in enumerate(picture.objects, 1):
            rows, columns = np.nonzero(picture.instances_HW == number)
            assert set(picture.ids_HW[rows, columns]) == {CLASSES.index(name)}
            assert (columns.min(), rows.min()) == (x, y)
            assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (width, height)


def test_what_a_picture_is_named_for_is_in_it(pictures: list[SmearPicture]) -> None:
    for picture in pictures:
        named = set(picture.id.split("-")[2:])
        assert {name for name, _ in picture.objects} & set(AFFIXED) <= named
        assert len(picture.id.split("-")[2:]) <= 3


def test_every_class_occurs(pictures: list[SmearPicture]) -> None:
    assert {name for picture in pictures for name, _ in picture.objects} == set(CELLS)


def test_every_combination_comes_once_before_any_comes_again(protocol: Protocol) -> None:
    drawn = Counter(combination(protocol, 3, "train", k) for k in range(2 * 360))
    assert len(drawn) == 3 * (1 + 7 + 28 + 84)
    assert set(drawn.values()) == {2}
    assert [combination(protocol, 3, "train", k) for k in range(20)] != [
        combination(protocol, 3, "test", k) for k in range(20)
    ]


def test_backgrounds_hold_the_red_cells_of_their_kind(protocol: Protocol, cells: Cells) -> None:
    backgrounds = make_bank(protocol, PARAMS, "val", cells).backgrounds
    healthy, infected = CLASSES.index("healthy_rbc"), CLASSES.index("infected_rbc")
    assert set(backgrounds["healthy"][0].classes[1:]) == {healthy}
    assert set(backgrounds["infected"][0].classes[1:]) == {infected}
    assert set(backgrounds["mixed"][0].classes[1:]) == {healthy, infected}
    for (background,) in backgrounds.values():
        assert 0.15 < (background.owners_HW > 0).mean() < 0.5


def test_splits_share_no_cell(cells: Cells) -> None:
    for name in CELLS:
        drawn = {split: {cell.layers_HW4.tobytes() for cell in cells[split][name]} for split in cells}
        assert {split: len(found) for split, found in drawn.items()} == {"train": 8, "val": 1, "test": 1}
        assert len(set.union(*drawn.values())) == 10


def test_cells_are_counted_by_origin(cells: Cells) -> None:
    facts = cell_facts(cells)
    assert facts["drawn_basophil"] == 10
    assert facts["cropped_basophil"] == 0


def test_a_bank_is_the_same_for_more_cells(protocol: Protocol, cells: Cells) -> None:
    more = make_cells(protocol, PARAMS.model_copy(update={"cells_per_class": 12}))
    for mine, theirs in zip(cells["train"]["monocyte"], more["train"]["monocyte"], strict=False):
        np.testing.assert_array_equal(mine.layers_HW4, theirs.layers_HW4)


def test_white_cells_lie_over_red_ones(protocol: Protocol, cells: Cells) -> None:
    """The largest affixed cell, placed last, keeps nearly its whole area."""
    bank = make_bank(protocol, PARAMS, "train", cells)
    alone = [k for k in range(360) if combination(protocol, PARAMS.seed, "train", k)[1] == ("monocyte",)]
    pixels = [(compose_picture(protocol, PARAMS, bank, k).ids_HW == CLASSES.index("monocyte")).sum() for k in alone]
    whole = [np.pi / 4 * (cell.diameter_um / protocol.pixel_um) ** 2 for cell in cells["train"]["monocyte"]]
    assert len(alone) == 3
    assert min(pixels) > 0.5 * min(whole)
    assert max(pixels) < 1.05 * max(whole)


def test_a_picture_looks_like_light_through_plasma(pictures: list[SmearPicture]) -> None:
    for picture in pictures:
        plasma = picture.image_HW3[picture.ids_HW == 0]
        assert plasma.mean() > 215
        assert picture.image_HW3[picture.ids_HW > 0].mean() < plasma.mean() - 15
        assert len(encode_rgb_png(picture.image_HW3)) > 5000


def test_pictures_larger_than_a_background_are_made(protocol: Protocol, cells: Cells) -> None:
    large = PARAMS.model_copy(update={"size": 320})
    picture = next(compose_smears(protocol, large, range(1), cells))
    assert picture.image_HW3.shape == (320, 320, 3)


def test_pictures_smaller_than_a_cell_are_made(protocol: Protocol, cells: Cells) -> None:
    small = PARAMS.model_copy(update={"size": 64, "train": 5})
    for picture in compose_smears(protocol, small, range(5), cells):
        assert picture.ids_HW.shape == (64, 64)
