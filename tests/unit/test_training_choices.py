"""Threshold and speck size are chosen on whole val pictures, as `Predictor` joins and judges them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from cytoloop.images.decode import encode_rgb_png
from cytoloop.model import training as trainer
from cytoloop.model.data import PictureStream
from cytoloop.params import ModelParams
from tables import row, write_table

Array = np.ndarray[Any, Any]


def _training(**model: Any) -> Any:
    """A network that says what is written in the red channel."""
    params = ModelParams(num_classes=1, image_width=32, image_height=32, num_layers=2, **model)
    return SimpleNamespace(model=params, ask=lambda pictures: pictures[..., :1].astype(np.float32) / 255)


def _val(folder: Path, training: Any, pictures: dict[str, tuple[Array, Array]]) -> PictureStream:
    rows = [
        row(name, mask_HW=mask_HW, image=encode_rgb_png(np.repeat(said_HW[..., None], 3, -1)))
        for name, (mask_HW, said_HW) in pictures.items()
    ]
    return PictureStream([(write_table(folder, rows), None)], training.model, 4)


def _field(height: int, width: int, border: bool) -> tuple[Array, Array]:
    """Cells that are seen at 0.9, within a border that is seen at 0.5 and belongs to them or not."""
    mask_HW, said_HW = np.zeros((height, width), np.uint8), np.zeros((height, width), np.uint8)
    for left in range(4, width - 20, 32):
        said_HW[4:24, left : left + 20] = 128
        said_HW[8:20, left + 4 : left + 16] = 230
        mask_HW[4:24, left : left + 20] = 1 if border else 0
        mask_HW[8:20, left + 4 : left + 16] = 1
    return mask_HW, said_HW


def test_a_picture_of_many_tiles_has_one_voice_in_the_threshold(tmp_path: Path) -> None:
    training = _training(fit="tile", tile_overlap=0)
    pictures = {"large": _field(32, 320, True), "a": _field(32, 32, False), "b": _field(32, 32, False)}
    val = _val(tmp_path / "table", training, pictures)
    assert val.pictures == 12
    assert trainer.choose_threshold(training, val) == 0.55


def test_a_speck_is_as_large_as_the_predictor_takes_it_for(tmp_path: Path) -> None:
    """Specks of 16 x 3 pixels; a resized picture of 64 x 64 has four pixels for each that the network sees."""
    mask_HW, said_HW = _field(64, 64, False)
    said_HW[said_HW == 128] = 0
    said_HW[40:43, 40:56] = 230
    said_HW[50:53, 40:56] = 230
    for fit, expected in (("tile", 64), ("resize", 16)):
        training = _training(fit=fit)
        val = _val(tmp_path / fit, training, {"one": (mask_HW, said_HW), "other": (mask_HW, said_HW)})
        assert trainer.choose_min_object(training, val, 0.5) == expected
