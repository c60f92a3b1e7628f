from pathlib import Path

import numpy as np
import pytest

import cytoloop.smear
from cytoloop.artifacts import Card, Row, TableWriter
from cytoloop.errors import SourceError
from cytoloop.images.codec import LabelClass, LabelCodec
from cytoloop.images.decode import encode_instances_png, encode_rgb_png
from cytoloop.params import SmearParams
from cytoloop.smear import Smears, read_protocol
from cytoloop.smear.backgrounds import stained_alike
from cytoloop.smear.bank import SPLITS, Cells
from cytoloop.smear.crops import absorbance_of, crop_cells, crops_of, divide_groups, light_of
from cytoloop.smear.protocol import CELLS
from cytoloop.smear.threshold import cell_mask
from drawn import disc, save

PROTOCOL = read_protocol(Path(cytoloop.smear.__file__).with_name("protocol.yaml"))
CODEC = LabelCodec(
    (
        LabelClass("background", (0, 0, 0)),
        LabelClass("lymphocyte", (128, 128, 0)),
        LabelClass("healthy_rbc", (0, 255, 0)),
        LabelClass("artefact", (9, 9, 9)),
    )
)
LIGHT, LYMPHOCYTE, RED = (240, 235, 200), (90, 40, 130), (220, 160, 150)


def row(number: int, ids_HW: np.ndarray, **changes: object) -> Row:
    image_HW3 = np.array([LIGHT, LYMPHOCYTE, RED, (0, 0, 0)], np.uint8)[ids_HW]
    facts = {
        "id": f"p{number}",
        "group": f"g{number % 12}",
        "source_file": f"p{number}.png",
        "image": encode_rgb_png(image_HW3),
        "mask": CODEC.encode_png(ids_HW),
    }
    return Row(**{**facts, **changes})  # type: ignore[arg-type]


def smear_of(number: int) -> np.ndarray:
    """A lymphocyte and a red cell that are whole, a red cell that the border cuts, and an artefact."""
    ids_HW = np.zeros((96, 96), np.uint8)
    ids_HW[disc(96, (30, 30), 12 + number % 3)] = 1
    ids_HW[disc(96, (66, 64), 9)] = 2
    ids_HW[disc(96, (95, 20), 9)] = 2
    ids_HW[disc(96, (20, 80), 7)] = 3
    return ids_HW


def write_table(folder: Path, rows: list[Row]) -> Path:
    with TableWriter(folder, Card("drawn", CODEC.to_json(), "CC0-1.0", "drawn for tests")) as writer:
        for one in rows:
            writer.write(one)
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bad = Row(id="bad", group="g0", source_file="bad.png", problem="unreadable")
    rows = [*(row(number, smear_of(number)) for number in range(24)), bad]
    return write_table(tmp_path_factory.mktemp("table"), rows)


@pytest.fixture(scope="module")
def smears(table: Path) -> Smears:
    background = PROTOCOL.background.model_copy(update={"side": 128})
    params = SmearParams(cells_per_class=10, cells_from=(str(table),), size=96, train=1, valid=1, test=1, backgrounds=3)
    return Smears(PROTOCOL.model_copy(update={"background": background}), params)


def cropped(folders: list[Path], seed: int = 0) -> dict[str, Cells]:
    return crop_cells(folders, PROTOCOL, {"train": 8, "val": 1, "test": 1}, np.random.default_rng(seed))


def sources(cells: dict[str, Cells], name: str) -> dict[str, list[str | None]]:
    return {split: [cell.source for cell in cells[split][name]] for split in SPLITS}


def test_cells_that_the_table_has_are_cropped_and_the_others_drawn(smears: Smears) -> None:
    for name in ("lymphocyte", "healthy_rbc"):
        assert {split: len(of[name]) for split, of in smears.cropped.items()} == {"train": 8, "val": 1, "test": 1}
    assert set(smears.drawn()) == set(CELLS) - {"lymphocyte", "healthy_rbc"}
    bank = smears._bank_of("train")
    assert {cell.source is None for cell in bank.cells["monocyte"]} == {True}
    assert {cell.source is None for cell in bank.cells["lymphocyte"]} == {False}


def test_splits_share_no_group(smears: Smears) -> None:
    groups = {
        split: {int(str(cell.source)[1:]) % 12 for cell in (*of["lymphocyte"], *of["healthy_rbc"])}
        for split, of in smears.cropped.items()
    }
    assert all(groups.values())
    assert not groups["train"] & groups["val"]
    assert not groups["train"] & groups["test"]
    assert not groups["val"] & groups["test"]


def test_a_cropped_cell_has_the_protocol_size_and_its_own_colour(smears: Smears) -> None:
    for cell in smears.cropped["train"]["lymphocyte"]:
        low, high = PROTOCOL.diameters_um["lymphocyte"]
        assert low <= cell.diameter_um <= high
        by_area = 2 * np.sqrt(cell.layers_HW4[..., 3].sum() / np.pi) * PROTOCOL.pixel_um / 2
        assert by_area == pytest.approx(cell.diameter_um, rel=0.04)
        height, width = cell.layers_HW4.shape[:2]
        middle = cell.layers_HW4[height // 2, width // 2, :3]
        expected = -np.log((np.array(LYMPHOCYTE) + 1) / (np.array(LIGHT) + 1))
        np.testing.assert_allclose(middle, expected, atol=0.03)


def test_the_edge_of_a_crop_takes_none_of_the_plasma_around_it(smears: Smears) -> None:
    """Where a cell covers anything, it absorbs as its inside does: on dark cells it has no bright rim."""
    for cell in smears.cropped["train"]["lymphocyte"]:
        *absorbance, covered = np.moveaxis(cell.layers_HW4, -1, 0)
        edge = (covered > 0.3) & (covered < 0.7)
        inside = -np.log((LYMPHOCYTE[1] + 1) / (LIGHT[1] + 1))
        assert (absorbance[1][edge] / covered[edge]).min() > 0.95 * inside


def test_pictures_are_composed_of_cropped_cells(smears: Smears) -> None:
    again = Smears(smears.protocol, smears.params)
    np.testing.assert_array_equal(smears[1].image_HW3, again[1].image_HW3)


def test_several_tables_make_one_bank(table: Path, tmp_path: Path) -> None:
    other = write_table(tmp_path / "other", [row(n, smear_of(n), id=f"q{n}", group=f"h{n}") for n in range(30)])
    joined = sources(cropped([table, other]), "lymphocyte")
    assert [str(name)[0] for name in joined["train"]] == ["p", "q"] * 4
    assert {split: len(found) for split, found in joined.items()} == {"train": 8, "val": 1, "test": 1}
    assert sources(cropped([table, other]), "lymphocyte") == joined


def test_cells_of_a_table_of_other_magnification_are_as_large(table: Path, tmp_path: Path) -> None:
    small = np.zeros((96, 96), np.uint8)
    small[disc(96, (30, 30), 6)] = 1
    other = write_table(tmp_path / "small", [row(n, small, group=f"h{n}") for n in range(12)])
    cells = cropped([table, other])["train"]["lymphocyte"]
    low, high = PROTOCOL.diameters_um["lymphocyte"]
    assert [cell.diameter_um for cell in cells[1::2]] == [pytest.approx((low + high) / 2)] * 4


def test_each_label_is_divided_by_itself(tmp_path: Path) -> None:
    """Three basophils among 40 pictures: one for each split."""
    ids_HW = np.zeros((64, 64), np.uint8)
    ids_HW[disc(64, (32, 32), 14)] = 1
    labels = ["basophil"] * 3 + ["monocyte"] * 37
    rows = [row(n, ids_HW, label=label, group=f"g{n}") for n, label in enumerate(labels)]
    cells = cropped([write_table(tmp_path / "labelled", rows)])
    assert {split: len(of["basophil"]) for split, of in cells.items()} == {"train": 1, "val": 1, "test": 1}
    assert {split: len(of["monocyte"]) for split, of in cells.items()} == {"train": 8, "val": 1, "test": 1}
    assert not cells["train"]["lymphocyte"]


def single(folder: Path, name: str, number: int, light: tuple[int, ...] = LIGHT) -> Path:
    """A picture of one cell with a pale middle, 8 + number / 10 pixels in radius."""
    image_HW3 = np.full((40, 44, 3), light, np.uint8)
    image_HW3[disc(44, (20, 22), 9 + number % 3)[:40]] = RED
    image_HW3[disc(44, (20, 22), 3)[:40]] = LIGHT
    return save(folder / name / f"{number:02d}.png", image_HW3)


def test_single_cells_without_masks_are_found_by_threshold(tmp_path: Path) -> None:
    for number in range(20):
        single(tmp_path, "healthy_rbc", number)
        single(tmp_path, "infected_rbc", number, light=(0, 0, 0))
    cells = cropped([tmp_path])
    for name in ("healthy_rbc", "infected_rbc"):
        found = sources(cells, name)
        assert {split: len(files) for split, files in found.items()} == {"train": 8, "val": 1, "test": 1}
        assert len({file for files in found.values() for file in files}) == 10
        assert all(str(file).startswith(f"{name}/") for file in found["train"])
        low, high = PROTOCOL.diameters_um[name]
        assert all(low <= cell.diameter_um <= high for cell in cells["train"][name])


def test_cells_cut_out_on_black_have_the_protocols_light(tmp_path: Path) -> None:
    for number in range(4):
        single(tmp_path, "infected_rbc", number, light=(0, 0, 0))
    (cell, *_) = cropped([tmp_path])["train"]["infected_rbc"]
    middle = cell.layers_HW4[cell.layers_HW4.shape[0] // 2, cell.layers_HW4.shape[1] // 5, :3]
    expected = -np.log((np.array(RED) + 1) / (255 * np.array(PROTOCOL.picture.plasma_light) + 1))
    np.testing.assert_allclose(middle, expected, atol=0.03)


def test_a_pale_middle_belongs_to_its_cell_and_junk_does_not(tmp_path: Path) -> None:
    image_HW3 = np.full((60, 60, 3), LIGHT, np.uint8)
    image_HW3[disc(60, (30, 30), 14)] = RED
    image_HW3[disc(60, (30, 30), 5)] = LIGHT
    image_HW3[disc(60, (5, 5), 3)] = LYMPHOCYTE
    assert abs(int(cell_mask(image_HW3).sum()) - int(disc(60, (30, 30), 14).sum())) < 20


def test_an_empty_picture_has_no_cell(tmp_path: Path) -> None:
    grain = np.random.default_rng(0).integers(-3, 4, (40, 40, 3))
    assert not cell_mask(np.clip(np.array(LIGHT) + grain, 0, 255).astype(np.uint8)).any()
    assert not cell_mask(np.zeros((40, 40, 3), np.uint8)).any()
    save(tmp_path / "monocyte/empty.png", np.full((40, 40, 3), LIGHT, np.uint8))
    assert not cropped([tmp_path])["train"]["monocyte"]


def test_red_cells_of_one_background_are_stained_alike(table: Path, tmp_path: Path) -> None:
    """Whichever picture they come from, so that the stain does not tell the class."""
    rows = []
    for number in range(24):
        image_HW3 = np.array([LIGHT, LYMPHOCYTE, (170, 180, 150), (0, 0, 0)], np.uint8)[smear_of(number)]
        rows.append(row(number, smear_of(number), image=encode_rgb_png(image_HW3), id=f"q{number}"))
    cells = cropped([table, write_table(tmp_path / "blue", rows)])["train"]["healthy_rbc"]
    assert np.ptp([cell.stain_3 for cell in cells], axis=0).max() > 0.2
    alike = stained_alike(list(cells), np.random.default_rng(0))
    assert np.ptp([cell.stain_3 for cell in alike], axis=0).max() < 0.02


def test_objects_at_the_border_are_left_out() -> None:
    names = [crop.name for crop in crops_of(row(0, smear_of(0)), CODEC.names)]
    assert sorted(names) == ["healthy_rbc", "lymphocyte"]


def test_instances_part_cells_that_touch() -> None:
    ids_HW, instances_HW = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint16)
    for number, x in enumerate((20, 37), 1):
        where = disc(64, (32, x), 8)
        ids_HW[where], instances_HW[where] = 1, number
    together = list(crops_of(row(0, ids_HW), CODEC.names))
    apart = list(crops_of(row(0, ids_HW, instances=encode_instances_png(instances_HW)), CODEC.names))
    assert len(together) == 1
    assert [round(crop.diameter) for crop in apart] == [14, 14]  # of 16 pixels, less the edges


def test_red_cells_under_others_are_left_out() -> None:
    ids_HW = np.zeros((64, 64), np.uint8)
    ids_HW[disc(64, (32, 22), 8)] = 2
    ids_HW[disc(64, (32, 36), 10)] = 1
    assert [crop.name for crop in crops_of(row(0, ids_HW), CODEC.names)] == ["lymphocyte"]


def test_a_labelled_picture_is_one_cell_of_its_label() -> None:
    ids_HW = np.zeros((64, 64), np.uint8)
    ids_HW[disc(64, (32, 32), 14)] = 3
    (crop,) = crops_of(row(0, ids_HW, label="basophil"), CODEC.names)
    assert crop.name == "basophil"


def test_light_is_divided_away() -> None:
    image_HW3 = np.full((8, 8, 3), 200, np.uint8)
    image_HW3[:4] = 99
    light = light_of(image_HW3, np.arange(64).reshape(8, 8) >= 32)
    absorbance = absorbance_of(image_HW3, light)
    np.testing.assert_allclose(absorbance[4:], 0, atol=1e-6)
    np.testing.assert_allclose(absorbance[:4], np.log(201 / 100), rtol=1e-5)


def test_few_groups_all_train() -> None:
    shares = {"train": 8, "val": 1, "test": 1}
    assert divide_groups(["a", "b"], shares, np.random.default_rng(0)) == {"a": "train", "b": "train"}


@pytest.mark.parametrize("folder", ["", "Parasitized"])
def test_a_folder_that_is_neither_is_refused(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    with pytest.raises(SourceError, match=r"neither an ingested table \(dataset\.json\) nor .*allowed: eosinophil"):
        cropped([tmp_path])


def test_a_damaged_picture_of_a_cell_is_named(tmp_path: Path) -> None:
    path = tmp_path / "monocyte/broken.png"
    path.parent.mkdir()
    path.write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(SourceError, match=r"monocyte/broken\.png: the picture is damaged"):
        cropped([tmp_path])
