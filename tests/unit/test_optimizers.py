"""Muon turns kernels as matrices; all else is stepped by AdamW."""

from pathlib import Path

import numpy as np
import pytest

from cytoloop.model import training as trainer
from cytoloop.model.architectures import build
from cytoloop.model.data import PictureStream
from cytoloop.model.optimizers import optimizer
from cytoloop.params import ModelParams, TrainParams
from tables import mask_of, row, write_table

MODEL = ModelParams(
    architecture="leanunet", num_classes=3, image_width=32, image_height=32, num_layers=3, base_filters=8
)
MUON = TrainParams(optimizer="muon", schedule="constant", learning_rate=0.01, weight_decay=0, ema_momentum=None)


@pytest.mark.parametrize("shape", [(3, 3, 4, 8), (2, 2, 16, 4), (5, 5, 3, 8), (6, 8)])
def test_a_step_has_the_same_length_in_all_directions(shape: tuple[int, ...]) -> None:
    import keras

    kernel = keras.Variable(np.zeros(shape, np.float32))
    steps = optimizer(MUON, 1)
    steps.build([kernel])
    gradient = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    steps.apply([keras.ops.convert_to_tensor(gradient)], [kernel])

    matrix = -np.asarray(kernel).reshape(-1, shape[-1])
    lengths = np.linalg.svd(matrix, compute_uv=False) / (0.01 * 0.2 * max(matrix.shape) ** 0.5)
    assert 0.6 < lengths.min() <= lengths.max() < 1.25  # Newton and Schulz's five iterations end near 1
    assert (matrix * gradient.reshape(matrix.shape)).sum() > 0


def test_vectors_the_head_and_kernels_of_one_column_are_stepped_by_adamw(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table", [row(f"p{i}", mask_HW=mask_of(32, 32, 8 + i)) for i in range(4)])
    training = trainer.start(build, MODEL, MUON, PictureStream([(table, None)], MODEL, 2))
    steps, variables = training.network.optimizer, training.network.trainable_variables
    by_adamw = {v.path for v, velocity in zip(variables, steps.adam_velocities, strict=True) if velocity is not None}
    assert by_adamw == {v.path for v in variables if len(v.shape) == 1 or "probabilities" in v.path}
