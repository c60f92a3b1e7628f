"""The piecewise learning rate: as declared, in every epoch, and drawn."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from cytoloop.model import training as trainer
from cytoloop.model.architectures import build
from cytoloop.model.data import PictureStream
from cytoloop.model.optimizers import piecewise
from cytoloop.params import ModelParams, TrainParams
from cytoloop.report.curves import write_curves
from tables import mask_of, row, write_table

MODEL = ModelParams(
    architecture="leanunet", num_classes=3, image_width=32, image_height=32, num_layers=2, base_filters=2
)
CLASSIFIER = {11: 0.0003, 12: 0.00013, 14: 0.00003}  # the rates of the blood smear seed's classifier


def test_the_rates_of_a_seed_by_hand() -> None:
    params = TrainParams(schedule="piecewise", learning_rate=0.001, rates=CLASSIFIER)
    rates = [piecewise(params, epoch) for epoch in range(1, 16)]
    assert rates == [0.001] * 10 + [0.0003] + [0.00013] * 2 + [0.00003] * 2


@given(st.dictionaries(st.integers(1, 60), st.floats(1e-6, 1), min_size=1), st.integers(1, 60))
def test_the_rate_is_the_last_that_has_begun_whatever_the_order(rates: dict[int, float], epoch: int) -> None:
    params = TrainParams(schedule="piecewise", learning_rate=7.0, rates=rates)
    backwards = TrainParams(schedule="piecewise", learning_rate=7.0, rates=dict(reversed(rates.items())))
    rate = 7.0
    for step in range(1, epoch + 1):
        rate = rates.get(step, rate)
    assert piecewise(params, epoch) == piecewise(backwards, epoch) == rate


@pytest.mark.parametrize(
    "wrong",
    [
        {"rates": {2: 0.1}},
        {"schedule": "piecewise"},
        {"schedule": "piecewise", "rates": {0: 0.1}},
        {"schedule": "piecewise", "rates": {2: 0.0}},
        {"schedule": "piecewise", "rates": {"soon": 0.1}},
    ],
)
def test_impossible_rates_are_refused(wrong: dict) -> None:
    with pytest.raises(ValidationError, match="rates"):
        TrainParams(**wrong)


def test_the_optimizer_has_the_declared_rate_in_each_epoch(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table", [row(f"p{i}", mask_HW=mask_of(32, 32, 8 + i)) for i in range(4)])
    stream = PictureStream([(table, None)], MODEL, 2)
    params = TrainParams(epochs=4, schedule="piecewise", learning_rate=0.01, rates={2: 0.5, 4: 0.125})
    training = trainer.start(build, MODEL, params, stream)
    seen: list[float] = []
    trainer.run(training, stream, stream, lambda t: seen.append(float(np.asarray(t.network.optimizer.learning_rate))))
    assert seen == pytest.approx([0.01, 0.5, 0.5, 0.125])
    assert [line["learning_rate"] for line in training.progress.history] == seen


def test_the_rates_are_drawn_beside_losses_and_metrics(tmp_path: Path) -> None:
    history = [
        {
            "epoch": float(i + 1),
            "loss": 1.0 / (i + 1),
            "val_loss": 1.2,
            "val_macro_dice": 0.1 * i,
            "val_dice/rod": 0.2 * i,
            "learning_rate": rate,
        }
        for i, rate in enumerate((1e-3, 3e-4, 3e-4))
    ]
    write_curves(tmp_path, history)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["learning_rate.png", "losses.png", "metrics.png"]
    several = (tmp_path / "metrics.png").read_bytes()
    write_curves(tmp_path, [{**line, "val_dice/rod": 0.9} for line in history])
    assert (tmp_path / "metrics.png").read_bytes() == several
    drawn = (tmp_path / "learning_rate.png").read_bytes()
    assert np.asarray(Image.open(tmp_path / "learning_rate.png").convert("L")).min() < 128
    write_curves(tmp_path, [{**line, "learning_rate": 1e-3} for line in history])
    assert (tmp_path / "learning_rate.png").read_bytes() != drawn
