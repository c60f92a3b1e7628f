"""`cytoloop predict`: what it writes for pictures of all kinds, and what it refuses."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cytoloop.cli import run
from cytoloop.model.architectures import build
from cytoloop.model.bundle import Description, write_bundle
from cytoloop.params import ModelParams
from tables import CODEC

MODEL = ModelParams(
    architecture="leanunet", num_classes=3, image_width=32, image_height=32, num_layers=2, base_filters=4
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import keras

    keras.utils.set_random_seed(1)
    folder = tmp_path_factory.mktemp("bundle")
    write_bundle(folder, build(MODEL), Description(MODEL, CODEC, 0.5, 0, {}))
    return folder


def save(path: Path, size: tuple[int, int], mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise_HW3 = np.random.default_rng(5).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise_HW3).convert(mode).save(path)
    return path


def predict(bundle: Path, output: Path, *images: Path) -> int:
    return run(["predict", "--model", str(bundle), "--images", *map(str, images), "--output", str(output)])


def test_masks_have_the_pictures_size_and_class_ids(bundle: Path, tmp_path: Path) -> None:
    save(tmp_path / "in/Zelle 7 ü.jpg", (50, 41))
    save(tmp_path / "in/grey.png", (64, 32), "L")
    save(tmp_path / "in/clear.png", (20, 20), "RGBA")
    Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30) * 40).save(tmp_path / "in/deep.tif")
    (tmp_path / "in/notes.txt").write_text("no picture")
    assert predict(bundle, tmp_path / "out", tmp_path / "in") == 0
    sizes = {"Zelle 7 ü": (50, 41), "grey": (64, 32), "clear": (20, 20), "deep": (30, 30)}
    for stem, size in sizes.items():
        with Image.open(tmp_path / "out" / f"{stem}.png") as mask:
            assert (mask.mode, mask.size) == ("P", size)
            assert np.asarray(mask).max() < 3
            assert mask.getpalette()[:9] == CODEC.palette_N3.ravel().tolist()
        with Image.open(tmp_path / "out" / f"{stem}_overlay.png") as overlay:
            assert (overlay.mode, overlay.size) == ("RGB", size)
    assert len(list((tmp_path / "out").iterdir())) == 2 * len(sizes) + 1


def test_the_table_counts_the_masks_pixels(bundle: Path, tmp_path: Path) -> None:
    assert predict(bundle, tmp_path / "out", save(tmp_path / "a.png", (40, 30))) == 0
    with (tmp_path / "out/predictions.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["class"] for line in lines] == list(CODEC.names)
    ids = np.asarray(Image.open(tmp_path / "out/a.png"))
    assert [int(line["pixels"]) for line in lines] == np.bincount(ids.ravel(), minlength=3).tolist()
    assert sum(float(line["fraction"]) for line in lines) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("name", ["damaged.png", "=cmd.png"])
def test_a_damaged_picture_is_named_and_nothing_is_written(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    save(tmp_path / "in/good.png", (20, 20))
    (tmp_path / "in" / name).write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert predict(bundle, tmp_path / "out", tmp_path / "in") == 1
    assert name in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_formula_in_a_file_name_is_quoted(bundle: Path, tmp_path: Path) -> None:
    assert predict(bundle, tmp_path / "out", save(tmp_path / "=1+1.png", (20, 20))) == 0
    assert "'=1+1.png" in (tmp_path / "out/predictions.csv").read_text()


def test_what_cannot_be_predicted_is_refused(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = save(tmp_path / "a.png", (20, 20))
    assert predict(bundle, tmp_path / "out", tmp_path / "nowhere") == 1
    assert "no such file" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert predict(bundle, tmp_path / "out", tmp_path / "empty") == 1
    assert "no picture there" in capsys.readouterr().err
    assert predict(bundle, tmp_path / "out", picture, save(tmp_path / "other/a.bmp", (20, 20))) == 1
    assert "rename one" in capsys.readouterr().err
    assert predict(tmp_path / "empty", tmp_path / "out", picture) == 1
    assert "not a model bundle" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
