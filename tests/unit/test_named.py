"""The loss and metrics by name: what keras itself says of the same network and pictures."""

import keras
import numpy as np
import pytest

from cytoloop.model.losses import keras_loss, metric
from cytoloop.model.named import NamedScores
from cytoloop.model.preprocess import mask_views, views
from cytoloop.params import ModelParams

CHANCE = np.random.default_rng(5)
SIZE = {"image_width": 32, "image_height": 32, "num_layers": 2}


def network(outputs: int) -> keras.Model:
    """One convolution with weights by chance."""
    keras.utils.set_random_seed(1)
    activation = "softmax" if outputs > 1 else "sigmoid"
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Conv2D(outputs, 3, padding="same", activation=activation)]
    return keras.Sequential([keras.layers.Input((32, 32, 3)), *layers])


@pytest.mark.parametrize(
    ("outputs", "loss", "metrics"),
    [
        (3, "categorical_crossentropy", ["accuracy", "dice_coef_multiclass"]),
        (1, "bce_dice", ["accuracy", "dice_coef"]),
        (3, "cce_dice", []),
    ],
)
def test_scores_are_those_that_keras_evaluates(outputs: int, loss: str, metrics: list[str]) -> None:
    pictures = CHANCE.integers(0, 256, (6, 32, 32, 3)).astype(np.float32)
    truth = CHANCE.integers(0, max(outputs, 2), (6, 32, 32)).astype(np.uint8)
    net = network(outputs)
    net.compile(loss=keras_loss(loss), metrics=[metric(name) for name in metrics])
    expected = net.evaluate(pictures, truth, batch_size=3, verbose=0, return_dict=True)
    expected[loss] = expected.pop("loss")
    named = NamedScores([loss, *metrics], ModelParams(num_classes=outputs, **SIZE), batch_size=3)
    for ids_HW, said_hwC in zip(truth, net.predict(pictures, verbose=0), strict=True):
        named.add(ids_HW, [said_hwC])
    found, background = named.means()
    assert found == pytest.approx(expected, abs=1e-5)
    assert list(background) == metrics
    for name, share in background.items():
        assert share == pytest.approx(0 if name == "dice_coef" else (truth == 0).mean(), abs=1e-3)


def test_a_tile_is_scored_against_its_own_part_of_the_truth() -> None:
    model = ModelParams(num_classes=3, fit="tile", tile_overlap=0.5, **SIZE)
    ids_HW = CHANCE.integers(0, 3, (50, 71)).astype(np.uint8)
    tiles = mask_views(ids_HW, model)
    seen = views(np.repeat(ids_HW[..., None], 3, -1), model)
    assert len(tiles) == 3 * 4
    for tile_hw, seen_hw3 in zip(tiles, seen, strict=True):
        np.testing.assert_array_equal(tile_hw, seen_hw3[..., 0])
    named = NamedScores(["accuracy"], model, batch_size=5)
    named.add(ids_HW, [np.eye(3, dtype=np.float32)[tile_hw] for tile_hw in tiles])
    assert named.means()[0] == {"accuracy": 1.0}


def test_without_names_nothing_is_kept() -> None:
    named = NamedScores([], ModelParams(num_classes=3, **SIZE), batch_size=4)
    named.add(np.zeros((32, 32), np.uint8), [np.zeros((32, 32, 3), np.float32)])
    assert named.means() == ({}, {})
