"""The montage of an epoch: which pictures, what is on it, and that it stays small."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cytoloop import tracking
from cytoloop.images.decode import encode_rgb_png
from cytoloop.params import ModelParams
from cytoloop.report import epochs
from mlflow_store import store
from tables import CODEC, COLORS_N3, mask_of, row, write_table

__all__ = ["store"]

MODEL = ModelParams(num_classes=3, image_width=32, image_height=32, num_layers=2)


def write_splits(folder: Path, assignment: dict[str, str]) -> Path:
    folder.mkdir()
    lines = [f"{name},{name},{split}," for name, split in assignment.items()]
    (folder / "splits.csv").write_text("\n".join(["id,group,split,reason", *lines]) + "\n")
    return folder


def perfect(view_BHWC: np.ndarray) -> np.ndarray:
    """An answer that knows the drawn colours, as one-hot probabilities (B, H, W, 3)."""
    distance_BHWN = np.abs(view_BHWC[..., None, :].astype(int) - COLORS_N3).sum(-1)
    return np.eye(3, dtype=np.float32)[distance_BHWN.argmin(-1)]


def tile(page_HW3: np.ndarray, column: int, line: int) -> np.ndarray:
    """The thumbnail in a column and a row of a montage, (SIDE, SIDE, 3)."""
    left, top = epochs.LABELS + epochs.STEP * column, epochs.LINE + epochs.STEP * line
    return page_HW3[top : top + epochs.SIDE, left : left + epochs.SIDE]


def opened(png: Path | bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png) if isinstance(png, bytes) else png).convert("RGB"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A table whose val pictures lie between the others, and its splits."""
    folder = tmp_path_factory.mktemp("data")
    names = [f"p{i:02d}" for i in range(36)]
    masks = [np.roll(mask_of(32, 32, 12), i % 12, 0) for i in range(36)]
    write_table(folder / "raw", [row(name, mask_HW=mask) for name, mask in zip(names, masks, strict=True)])
    splits = {name: ("train", "val", "test")[i % 3] for i, name in enumerate(names)}
    return folder / "raw", write_splits(folder / "splits", dict(reversed(splits.items())))


def test_val_pictures_are_chosen_evenly_in_the_tables_order(folders: tuple[Path, Path]) -> None:
    shown = epochs.choose(*folders, MODEL, 3)
    chosen = [7, 19, 31]  # of val 1, 4, ..., 34 the middle of each third
    for picture, i in zip(shown, chosen, strict=True):
        expected_HW = np.roll(mask_of(32, 32, 12), i % 12, 0)
        np.testing.assert_array_equal(picture.view_HWC, COLORS_N3[expected_HW])
    assert len(epochs.choose(*folders, MODEL, 64)) == 12
    assert epochs.choose(*folders, MODEL, 0) == []


def test_pictures_truth_and_prediction_stand_below_each_other(folders: tuple[Path, Path], tmp_path: Path) -> None:
    shown = epochs.choose(*folders, MODEL, 2)
    page = epochs.Album(tmp_path, shown, CODEC).add(3, "epoch 3", perfect)
    assert page == tmp_path / "epoch-0003.png"
    page_HW3 = opened(page)
    for column, picture in enumerate(shown):
        np.testing.assert_array_equal(tile(page_HW3, column, 0), picture.rgb_hw3)
        np.testing.assert_array_equal(tile(page_HW3, column, 1), CODEC.colors(picture.truth_hw))
        np.testing.assert_array_equal(tile(page_HW3, column, 2), tile(page_HW3, column, 1))
    assert {tuple(color) for color in tile(page_HW3, 0, 1).reshape(-1, 3)} == {(0, 0, 0), (255, 0, 0), (0, 0, 255)}
    wrong = epochs.Album(tmp_path, shown, CODEC).add(4, "epoch 4", lambda view: np.roll(perfect(view), 1, -1))
    assert (tile(opened(wrong), 0, 2) != tile(opened(wrong), 0, 1)).any(-1).all()


def test_titles_are_written_and_the_rest_is_the_same(folders: tuple[Path, Path]) -> None:
    shown = epochs.choose(*folders, MODEL, 2)
    answers = [picture.truth_hw for picture in shown]
    one, other = (opened(epochs.montage(title, shown, answers, CODEC)) for title in ("epoch 1", "epoch 2"))
    changed = np.flatnonzero((one != other).any((1, 2)))
    assert 0 <= changed.min() <= changed.max() < epochs.LINE


def test_the_same_answers_make_the_same_bytes(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pages = []
    for name in ("first", "second"):
        album = epochs.Album(tmp_path / name, epochs.choose(*folders, MODEL, 4), CODEC)
        pages.append([album.add(epoch, f"epoch {epoch}", perfect).read_bytes() for epoch in (0, 1, 1)])
    assert pages[0] == pages[1]
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == ["epoch-0000.png", "epoch-0001.png"]


def test_no_picture_no_montage(tmp_path: Path) -> None:
    assert epochs.Album(tmp_path / "none", [], CODEC).add(0, "before", perfect) is None
    assert not (tmp_path / "none").exists()


def test_many_pictures_go_on_in_the_next_rows(folders: tuple[Path, Path]) -> None:
    shown = epochs.choose(*folders, MODEL, 12)
    page_HW3 = opened(epochs.montage("x", shown, [picture.truth_hw for picture in shown], CODEC))
    np.testing.assert_array_equal(tile(page_HW3, 0, 3), shown[6].rgb_hw3)
    np.testing.assert_array_equal(tile(page_HW3, 5, 5), CODEC.colors(shown[11].truth_hw))
    assert page_HW3.shape[1] == epochs.LABELS + 6 * epochs.STEP


def test_pictures_keep_their_shape_and_a_tile_is_cut_from_the_middle(tmp_path: Path) -> None:
    mask_HW = np.zeros((80, 160), np.uint8)
    mask_HW[24:56, 64:80] = 1  # the left half of the tile in the middle
    raw = write_table(tmp_path / "raw", [row("wide", mask_HW=mask_HW), row("tiny", mask_HW=mask_of(20, 10, 4))])
    splits = write_splits(tmp_path / "splits", {"wide": "val", "tiny": "val"})
    resized = epochs.choose(raw, splits, MODEL, 2)
    assert [picture.rgb_hw3.shape for picture in resized] == [(60, 120, 3), (60, 120, 3)]
    tiles = epochs.choose(raw, splits, MODEL.model_copy(update={"fit": "tile"}), 2)
    assert [picture.rgb_hw3.shape for picture in tiles] == [(120, 120, 3), (60, 120, 3)]
    assert [picture.view_HWC.shape for picture in tiles] == [(32, 32, 3)] * 2
    assert [picture.used for picture in tiles] == [(32, 32), (10, 20)]
    assert (tiles[0].truth_hw[:, :60] == 1).all()
    assert (tiles[0].truth_hw[:, 60:] == 0).all()
    page = epochs.Album(tmp_path, tiles, CODEC).add(1, "x", perfect)
    for column in (0, 1):
        np.testing.assert_array_equal(tile(opened(page), column, 2), tile(opened(page), column, 1))


def test_grey_networks_and_single_outputs_are_shown_in_colour(folders: tuple[Path, Path], tmp_path: Path) -> None:
    shown = epochs.choose(*folders, MODEL.model_copy(update={"image_channels": 1, "num_classes": 1}), 1)
    page_HW3 = opened(epochs.Album(tmp_path, shown, CODEC).add(0, "x", lambda view: (view < 128).astype(np.float32)))
    assert shown[0].view_HWC.shape == (32, 32, 1)
    assert np.ptp(tile(page_HW3, 0, 0).astype(int), axis=-1).max() > 20
    assert {tuple(color) for color in tile(page_HW3, 0, 2).reshape(-1, 3)} == {(0, 0, 0), (255, 0, 0)}


def test_a_hundred_epochs_of_noise_weigh_a_few_megabytes(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    noise = [chance.integers(0, 256, (160, 160, 3), np.uint8) for _ in range(6)]
    rows = [row(f"p{i}", mask_HW=mask_of(160, 160, 40), image=encode_rgb_png(noise[i])) for i in range(6)]
    raw = write_table(tmp_path / "raw", rows)
    shown = epochs.choose(raw, write_splits(tmp_path / "splits", {r.id: "val" for r in rows}), MODEL, 6)
    answers = [chance.integers(0, 3, picture.truth_hw.shape, np.uint8) for picture in shown]
    assert len(epochs.montage("worst", shown, answers, CODEC)) < 120_000


def test_pictures_are_a_series_in_mlflow(store: Path, tmp_path: Path) -> None:
    Image.new("P", (40, 30), 1).save(tmp_path / "page.png")
    with tracking.start_run("cells", "a run", {}) as run:
        for epoch in (0, 1):
            run.log_picture(tmp_path / "page.png", "epochs", epoch)
    found = sorted(path.name for path in (tmp_path / "mlartifacts" / run.id / "artifacts/images").glob("*.png"))
    assert [name.split("+timestamp")[0] for name in found] == ["epochs+step+0", "epochs+step+1"]


def test_a_picture_that_mlflow_does_not_take_ends_nothing(
    store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tracking.Run("no such run").log_picture(tmp_path / "missing.png", "epochs", 0)
    Image.new("P", (40, 30), 1).save(tmp_path / "page.png")
    tracking.Run("no such run").log_picture(tmp_path / "page.png", "epochs", 0)
    said = capfd.readouterr().err
    assert "missing.png is not in MLflow" in said
    assert "page.png is not in MLflow" in said
