import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import cytoloop.smear
from cytoloop.images.decode import encode_rgb_png
from cytoloop.params import SmearParams
from cytoloop.smear import Protocol, SmearPicture, Smears, read_protocol
from cytoloop.smear.bank import Bank, backgrounds, located, make_bank
from cytoloop.smear.compose import combination, compose_picture
from cytoloop.smear.protocol import AFFIXED, CELLS, CLASSES

PARAMS = SmearParams(train=30, valid=3, test=3, size=128, cells_per_class=10, backgrounds=3, seed=3)
PUBLISHED = SmearParams(train=65_350, valid=6_560, test=6_560)


@pytest.fixture(scope="module")
def protocol() -> Protocol:
    """The declared one with smaller backgrounds."""
    declared = read_protocol(Path(cytoloop.smear.__file__).with_name("protocol.yaml"))
    return declared.model_copy(update={"background": declared.background.model_copy(update={"side": 300})})


@pytest.fixture(scope="module")
def banks(protocol: Protocol) -> dict[str, Bank]:
    return {split: make_bank(protocol, PARAMS, split, {}) for split in ("train", "val", "test")}


@pytest.fixture(scope="module")
def pictures(protocol: Protocol) -> list[SmearPicture]:
    return list(Smears(protocol, PARAMS))


def content(picture: SmearPicture) -> tuple[object, ...]:
    arrays = (picture.image_HW3, picture.ids_HW, picture.instances_HW)
    return (picture.id, picture.split, *(array.tobytes() for array in arrays), tuple(picture.names))


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


def test_any_order_makes_the_same_bytes(protocol: Protocol, pictures: list[SmearPicture]) -> None:
    smears = Smears(protocol, PARAMS)
    places = [35, 7, 0, 31, 28]
    assert [content(smears[k]) for k in places] == [content(pictures[k]) for k in places]
    assert [content(picture) for picture in smears[33:]] == [content(picture) for picture in pictures[33:]]


def test_another_process_makes_the_same_bytes(protocol: Protocol, pictures: list[SmearPicture]) -> None:
    smears = Smears(protocol, PARAMS)
    assert content(smears[5]) == content(pictures[5])  # it has a bank now, which is not sent
    sent = pickle.dumps(smears)
    assert len(sent) < 10_000
    assert content(pickle.loads(sent)[30]) == content(pictures[30])


def test_processes_share_the_drawing(protocol: Protocol, pictures: list[SmearPicture], tmp_path: Path) -> None:
    """The first leaves its cells; the next, which could be killed in mid-writing, takes them and draws what lacks."""
    first = Smears(protocol, PARAMS, tmp_path)
    assert content(first[31]) == content(pictures[31])
    left = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert set(left) == {f"val-{name}.npz" for name in CELLS}
    (tmp_path / "val-monocyte.npz").rename(tmp_path / "val-monocyte.npz.1.part")
    again = Smears(protocol, PARAMS, tmp_path)
    assert [content(again[k]) for k in (30, 31, 32)] == [content(pictures[k]) for k in (30, 31, 32)]
    assert left.keys() < {path.name for path in tmp_path.iterdir()}
    assert all((tmp_path / name).stat().st_mtime_ns == left[name] for name in left if "monocyte" not in name)


def test_another_seed_makes_other_pictures(protocol: Protocol, pictures: list[SmearPicture]) -> None:
    other = Smears(protocol, PARAMS.model_copy(update={"seed": 4}))
    assert content(other[30]) != content(pictures[30])


def test_a_place_beyond_the_last_is_refused(protocol: Protocol) -> None:
    with pytest.raises(IndexError):
        Smears(protocol, PARAMS)[36]
    with pytest.raises(IndexError):
        located(PARAMS, 36)


def test_masks_and_instances_agree(pictures: list[SmearPicture]) -> None:
    for picture in pictures:
        assert picture.ids_HW.max() < len(CLASSES)
        assert [name for name, _ in picture.objects] == picture.names
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
        assert set(picture.names) & set(AFFIXED) <= named
        assert len(picture.id.split("-")[2:]) <= 3


def test_every_class_occurs(pictures: list[SmearPicture]) -> None:
    assert {name for picture in pictures for name in picture.names} == set(CELLS)


def test_every_combination_comes_once_before_any_comes_again(protocol: Protocol) -> None:
    drawn = Counter(combination(protocol, 3, "train", k) for k in range(2 * 360))
    assert len(drawn) == 3 * (1 + 7 + 28 + 84)
    assert set(drawn.values()) == {2}
    assert [combination(protocol, 3, "train", k) for k in range(20)] != [
        combination(protocol, 3, "test", k) for k in range(20)
    ]


def test_the_published_plan_is_balanced(protocol: Protocol) -> None:
    """Counted on all 65,350 training pictures, which takes no pixels."""
    plan = Counter(combination(protocol, PUBLISHED.seed, "train", k) for k in range(PUBLISHED.train))
    assert len(plan) == 360
    assert set(plan.values()) == {181, 182}  # 65,350 = 181 x 360 + 190
    kinds: Counter[str] = Counter()
    affixed: Counter[str] = Counter()
    numbers: Counter[int] = Counter()
    for (kind, names), times in plan.items():
        kinds[kind] += times
        numbers[len(names)] += times
        affixed.update({name: names.count(name) * times for name in set(names)})
    assert set(kinds) == {"infected", "healthy", "mixed"}
    assert max(kinds.values()) - min(kinds.values()) <= 120  # the part of the last round
    assert set(affixed) == set(AFFIXED)
    assert max(affixed.values()) / min(affixed.values()) < 1.005
    assert numbers[3] > numbers[2] > numbers[1] > numbers[0] >= 3 * 181
    pairs = {frozenset(names) for _, names in plan if len(set(names)) == 2}
    assert len(pairs) == 7 * 6 / 2  # every two classes meet, on each background


def test_the_published_number_of_backgrounds_is_used_evenly() -> None:
    assert backgrounds(PUBLISHED) == {"train": 400, "val": 50, "test": 50}
    assert backgrounds(SmearParams()) == {"train": 6, "val": 2, "test": 2}
    assert backgrounds(SmearParams(backgrounds=50)) == {"train": 40, "val": 5, "test": 5}
    assert backgrounds(SmearParams(backgrounds=3)) == {"train": 1, "val": 1, "test": 1}


def test_pictures_take_the_backgrounds_one_after_another(protocol: Protocol, banks: dict[str, Bank]) -> None:
    params = PARAMS.model_copy(update={"backgrounds": 12})  # 8 of them for 30 training pictures
    bank = Bank(protocol, params, "train", banks["train"].cells, banks["train"].grain_HW3)
    taken = [bank.background("mixed", k).absorbance_HW3.tobytes() for k in range(30)]
    changes = [k for k in range(1, 30) if taken[k] != taken[k - 1]]
    assert changes == [4, 8, 12, 15, 19, 23, 27]  # where 8 k / 30 reaches the next whole number
    assert len(set(taken)) == 8


def test_backgrounds_hold_the_red_cells_of_their_kind(banks: dict[str, Bank]) -> None:
    healthy, infected = CLASSES.index("healthy_rbc"), CLASSES.index("infected_rbc")
    made = {kind: banks["val"].background(kind, 0) for kind in ("healthy", "infected", "mixed")}
    assert set(made["healthy"].classes[1:]) == {healthy}
    assert set(made["infected"].classes[1:]) == {infected}
    assert set(made["mixed"].classes[1:]) == {healthy, infected}
    for background in made.values():
        assert 0.15 < (background.owners_HW > 0).mean() < 0.5


def test_splits_share_no_cell(banks: dict[str, Bank]) -> None:
    for name in CELLS:
        drawn = {split: {cell.layers_HW4.tobytes() for cell in bank.cells[name]} for split, bank in banks.items()}
        assert {split: len(found) for split, found in drawn.items()} == {"train": 8, "val": 1, "test": 1}
        assert len(set.union(*drawn.values())) == 10


def test_what_is_not_cropped_is_drawn(protocol: Protocol) -> None:
    assert Smears(protocol, PARAMS).drawn() == {name: ["train", "val", "test"] for name in CELLS}


def test_a_bank_is_the_same_for_more_cells(protocol: Protocol, banks: dict[str, Bank]) -> None:
    more = make_bank(protocol, PARAMS.model_copy(update={"cells_per_class": 12}), "train", {})
    for mine, theirs in zip(banks["train"].cells["monocyte"], more.cells["monocyte"], strict=False):
        np.testing.assert_array_equal(mine.layers_HW4, theirs.layers_HW4)


def test_white_cells_lie_over_red_ones(protocol: Protocol, banks: dict[str, Bank]) -> None:
    """The largest affixed cell, placed last, keeps nearly its whole area."""
    alone = [k for k in range(360) if combination(protocol, PARAMS.seed, "train", k)[1] == ("monocyte",)]
    made = [compose_picture(banks["train"], k) for k in alone]
    pixels = [(picture.ids_HW == CLASSES.index("monocyte")).sum() for picture in made]
    whole = [np.pi / 4 * (cell.diameter_um / protocol.pixel_um) ** 2 for cell in banks["train"].cells["monocyte"]]
    assert len(alone) == 3
    assert min(pixels) > 0.5 * min(whole)
    assert max(pixels) < 1.05 * max(whole)


def test_a_picture_looks_like_light_through_plasma(pictures: list[SmearPicture]) -> None:
    for picture in pictures:
        plasma = picture.image_HW3[picture.ids_HW == 0]
        assert plasma.mean() > 215
        assert picture.image_HW3[picture.ids_HW > 0].mean() < plasma.mean() - 15
        assert len(encode_rgb_png(picture.image_HW3)) > 5000


def test_pictures_larger_than_a_background_are_made(protocol: Protocol) -> None:
    large = PARAMS.model_copy(update={"size": 320})
    assert Smears(protocol, large)[35].image_HW3.shape == (320, 320, 3)


def test_pictures_smaller_than_a_cell_are_made(protocol: Protocol) -> None:
    small = PARAMS.model_copy(update={"size": 64})
    for picture in Smears(protocol, small)[30:]:
        assert picture.ids_HW.shape == (64, 64)
