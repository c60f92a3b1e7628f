from pathlib import Path

import numpy as np
import pytest

import cytoloop.smear
from cytoloop.artifacts import Card, Row, TableWriter
from cytoloop.errors import ArtifactError
from cytoloop.images.codec import LabelClass, LabelCodec
from cytoloop.images.decode import encode_instances_png, encode_rgb_png
from cytoloop.params import SmearParams
from cytoloop.smear import cell_facts, make_bank, make_cells, read_protocol
from cytoloop.smear.bank import Cells
from cytoloop.smear.compose import compose_picture
from cytoloop.smear.crops import absorbance_of, crops_of, divide_groups
from drawn import disc

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


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table")
    card = Card("drawn", CODEC.to_json(), "CC0-1.0", "drawn for tests")
    with TableWriter(folder, card) as writer:
        for number in range(24):
            writer.write(row(number, smear_of(number)))
        writer.write(Row(id="bad", group="g0", source_file="bad.png", problem="unreadable"))
    return folder


@pytest.fixture(scope="module")
def params(table: Path) -> SmearParams:
    return SmearParams(cells_per_class=10, cells_from=str(table), size=96, train=1, valid=1, test=1)


@pytest.fixture(scope="module")
def cells(params: SmearParams) -> Cells:
    return make_cells(PROTOCOL, params)


def test_cells_that_the_table_has_are_cropped_and_the_others_drawn(cells: Cells) -> None:
    facts = cell_facts(cells)
    assert facts["cropped_lymphocyte"] == 10
    assert facts["drawn_lymphocyte"] == 0
    assert facts["cropped_healthy_rbc"] == 10
    assert facts["drawn_monocyte"] == 10
    assert facts["cropped_monocyte"] == 0


def test_splits_share_no_group(cells: Cells) -> None:
    groups = {
        split: {int(str(cell.source)[1:]) % 12 for cell in (*of["lymphocyte"], *of["healthy_rbc"])}
        for split, of in cells.items()
    }
    assert all(groups.values())
    assert not groups["train"] & groups["val"]
    assert not groups["train"] & groups["test"]
    assert not groups["val"] & groups["test"]


def test_a_cropped_cell_has_the_protocol_size_and_its_own_colour(cells: Cells) -> None:
    for cell in cells["train"]["lymphocyte"]:
        low, high = PROTOCOL.diameters_um["lymphocyte"]
        assert low <= cell.diameter_um <= high
        by_area = 2 * np.sqrt(cell.layers_HW4[..., 3].sum() / np.pi) * PROTOCOL.pixel_um / 2
        assert by_area == pytest.approx(cell.diameter_um, rel=0.04)
        height, width = cell.layers_HW4.shape[:2]
        middle = cell.layers_HW4[height // 2, width // 2, :3]
        expected = -np.log((np.array(LYMPHOCYTE) + 1) / (np.array(LIGHT) + 1))
        np.testing.assert_allclose(middle, expected, atol=0.03)


def test_pictures_are_composed_of_cropped_cells(params: SmearParams, cells: Cells) -> None:
    background = PROTOCOL.background.model_copy(update={"side": 128, "count": {"train": 1, "val": 1, "test": 1}})
    protocol = PROTOCOL.model_copy(update={"background": background})
    bank = make_bank(protocol, params, "val", cells)
    once, again = (compose_picture(protocol, params, bank, 4) for _ in range(2))
    np.testing.assert_array_equal(once.image_HW3, again.image_HW3)


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
    assert [round(crop.diameter) for crop in apart] == [16, 16]  # 197 pixels each


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
    absorbance = absorbance_of(image_HW3, np.arange(64).reshape(8, 8) >= 32)
    np.testing.assert_allclose(absorbance[4:], 0, atol=1e-6)
    np.testing.assert_allclose(absorbance[:4], np.log(201 / 100), rtol=1e-5)


def test_few_groups_all_train() -> None:
    shares = {"train": 8, "val": 1, "test": 1}
    assert divide_groups(["a", "b"], shares, np.random.default_rng(0)) == {"a": "train", "b": "train"}


def test_a_folder_without_a_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"dataset\.json"):
        make_cells(PROTOCOL, SmearParams(cells_per_class=10, cells_from=str(tmp_path)))
