"""The networks: the seeds' U-Net layer by layer, and what every architecture must do."""

from pathlib import Path

import numpy as np
import pytest

from cytoloop.model.architectures import NAMES, build, describe
from cytoloop.model.architectures.flexunet import kernel_of
from cytoloop.model.bundle import arrays_of
from cytoloop.params import ModelParams

# parameters of the leukemia seed's printed summary, in its order: convolutions and transposed ones
SEED_LAYERS = [
    448, 2320, 4640, 9248, 18496, 36928, 73856, 147584, 295168, 590080, 1180160, 2359808, 4719616, 9438208,
    2097664, 4719104, 2359808, 524544, 1179904, 590080, 131200, 295040, 147584, 32832, 73792, 36928,
    8224, 18464, 9248, 2064, 4624, 2320, 17,
]  # fmt: skip


def test_flexunet_is_the_leukemia_seeds_layer_by_layer() -> None:
    network = build(ModelParams(architecture="flexunet", num_classes=1, base_filters=16, num_layers=7))
    assert network.count_params() == 31_110_001
    assert [layer.count_params() for layer in network.layers if layer.weights] == SEED_LAYERS
    assert network.output_shape == (None, 256, 256, 1)


def test_flexunet_of_the_krd_wbc_seed() -> None:
    model = ModelParams(num_classes=6, image_width=512, image_height=512, base_filters=16, base_kernels=9, num_layers=8)
    assert [kernel_of(model, level) for level in range(8)] == [9, 7, 5, 3, 3, 3, 3, 3]
    assert build(model).count_params() == 124_996_934  # measured on the seed's code


def test_dropout_and_dilation_change_with_the_level() -> None:
    network = build(ModelParams(num_classes=2, num_layers=4, dropout_rate=0.1, dilation=3, base_filters=2))
    assert [network.get_layer(f"encoder{i}_dropout").rate for i in range(4)] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [network.get_layer(f"encoder{i}_conv1").dilation_rate for i in range(4)] == [(3, 3), (2, 2), (1, 1), (1, 1)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("classes", "width", "height"), [(1, 64, 32), (4, 32, 64)])
@pytest.mark.parametrize("normalization", ["none", "batch", "group"])
def test_probabilities_of_every_architecture(
    name: str, classes: int, width: int, height: int, normalization: str
) -> None:
    model = ModelParams(
        architecture=name, num_classes=classes, image_width=width, image_height=height,
        num_layers=3, base_filters=4, normalization=normalization,
    )  # fmt: skip
    probability = np.asarray(build(model)(np.full((2, height, width, 3), 90, np.float32)))
    assert probability.shape == (2, height, width, classes)
    assert probability.min() >= 0
    if classes > 1:
        np.testing.assert_allclose(probability.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_receives_a_gradient_and_names_are_stable(name: str) -> None:
    import keras
    import tensorflow as tf

    model = ModelParams(
        architecture=name, num_classes=3, image_width=32, image_height=32, num_layers=3, base_filters=4,
        normalization="group",
    )  # fmt: skip
    keras.utils.set_random_seed(1)
    network = build(model)
    pictures = tf.random.uniform((2, 32, 32, 3), 0, 255)
    with tf.GradientTape() as tape:
        # an uneven sum: the plain sum of a softmax is constant
        answer = tf.reduce_sum(network(pictures, training=True) * tf.random.uniform((2, 32, 32, 3)))
    gradients = tape.gradient(answer, [v.value for v in network.trainable_variables])
    silent = [
        v.path
        for v, g in zip(network.trainable_variables, gradients, strict=True)
        if g is None or not np.any(np.asarray(g))
    ]
    assert silent == []
    assert list(arrays_of(network)) == list(arrays_of(build(model)))


def test_the_drawing_is_a_picture(tmp_path: Path) -> None:
    from PIL import Image

    from cytoloop.model.drawing import draw_network

    draw_network(build(ModelParams(num_classes=2, num_layers=3, base_filters=2)), tmp_path / "network.png")
    with Image.open(tmp_path / "network.png") as picture:
        assert picture.width > 500


def test_every_architecture_describes_itself() -> None:
    assert all(len(describe(name)) > 20 for name in NAMES)
