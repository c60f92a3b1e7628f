"""The networks: one battery that every architecture of the registry passes, and what is known of single ones.

`architecture_summaries/` holds the layers of each architecture's tiny network. After a change that is meant,
CYTOLOOP_REGENERATE=1 pytest tests/unit/test_architectures.py -k summary
writes them anew; read the difference before it is committed.
"""

import functools
import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from cytoloop.model.architectures import NAMES, build, describe
from cytoloop.model.architectures.layers import kernel_of, normalized
from cytoloop.model.architectures.swinunet import Windows, unwindowed, window_attention, windowed
from cytoloop.model.bundle import arrays_of, fill_network, read_arrays, write_arrays
from cytoloop.model.losses import categorical_crossentropy
from cytoloop.model.predict import compiled
from cytoloop.params import ANATOMIES, NOT_COMMON, ModelParams

Array = np.ndarray[Any, Any]

SUMMARIES = Path(__file__).parent / "architecture_summaries"

every_architecture = pytest.mark.parametrize("name", NAMES)


def tiny(name: str, strides: tuple[int, int] = (1, 2), **changes: Any) -> ModelParams:
    """A small network with all parts of a large one; an architecture is given only what it reads.

    Args:
        strides: height and width of the picture, in strides of the network (of 16 pixels at least).
        changes: settings that are not the usual ones.
    """
    settings = {"num_classes": 5, "base_filters": 4, "num_layers": 3, "window": 3, "normalization": "batch"} | changes
    unread = NOT_COMMON - ANATOMIES[name].reads
    settings = {key: value for key, value in settings.items() if key not in unread}
    stride = max(ModelParams(architecture=name, **settings).stride(), 16)
    height, width = (side * stride for side in strides)
    return ModelParams(architecture=name, image_height=height, image_width=width, **settings)


def mosaics(model: ModelParams, seed: int) -> tuple[Array, Array]:
    """Four pictures of squares of 8x8 pixels, in a noisy colour for each class; and the classes' ids."""
    random = np.random.default_rng(seed)
    colors_CN = np.random.default_rng(0).uniform(20, 235, (model.num_classes, model.image_channels))
    squares = random.integers(0, model.num_classes, (4, model.image_height // 8, model.image_width // 8))
    ids_BHW = squares.repeat(8, axis=1).repeat(8, axis=2)
    noisy = colors_CN[ids_BHW] + random.normal(0, 10, (*ids_BHW.shape, model.image_channels))
    return noisy.clip(0, 255).astype(np.uint8), ids_BHW


class Lesson(NamedTuple):
    """What became of a tiny network in a few steps of training."""

    model: ModelParams
    network: Any
    losses: list[float]
    """On the same batch, before each step."""
    silent: list[str]
    """Trained variables without a gradient on this batch and on another one."""


@functools.cache
def lesson(name: str) -> Lesson:
    """Built and taught once a session."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    model = tiny(name)
    network = build(model)
    optimizer = keras.optimizers.Adam(1e-2)

    losses, silent = [], {variable.path for variable in network.trainable_variables}
    for seed in (2, 1, 1, 1, 1, 1, 1):
        pictures, truth = mosaics(model, seed)
        with tf.GradientTape() as tape:
            loss = categorical_crossentropy(truth, network(np.float32(pictures), training=True))
        gradients = tape.gradient(loss, [variable.value for variable in network.trainable_variables])
        for variable, gradient in zip(network.trainable_variables, gradients, strict=True):
            if gradient is not None and np.any(gradient):
                silent.discard(variable.path)
        optimizer.apply(gradients, network.trainable_variables)
        losses.append(float(loss))
    return Lesson(model, network, losses[1:], sorted(silent))


def answer(network: Any, pictures: Array) -> Array:
    return np.asarray(network(np.float32(pictures), training=False))


@every_architecture
@pytest.mark.filterwarnings("ignore:You are using a softmax over axis -1")  # a window of one token
@pytest.mark.parametrize(
    ("strides", "changes"),
    [
        ((1, 1), {"num_classes": 1, "image_channels": 1, "normalization": "none"}),
        ((2, 1), {"num_classes": 2, "normalization": "group"}),
    ],
)
def test_probabilities_of_every_size(name: str, strides: tuple[int, int], changes: dict[str, Any]) -> None:
    model = tiny(name, strides, **changes)
    pictures = np.full((2, model.image_height, model.image_width, model.image_channels), 90, np.uint8)
    probability = answer(build(model), pictures)
    assert probability.shape == (2, model.image_height, model.image_width, model.num_classes)
    assert probability.min() >= 0
    assert probability.max() <= 1
    if model.num_classes > 1:
        np.testing.assert_allclose(probability.sum(-1), 1, rtol=1e-5)


@every_architecture
def test_every_variable_receives_a_gradient(name: str) -> None:
    assert lesson(name).silent == []


@every_architecture
def test_the_loss_falls_on_one_batch(name: str) -> None:
    losses = lesson(name).losses
    assert losses[-1] < 0.9 * losses[0]


@every_architecture
def test_a_picture_is_judged_alone_and_in_a_graph_as_without(name: str) -> None:
    model, network, *_ = lesson(name)
    pictures, _ = mosaics(model, 3)
    ask = compiled(network, model)
    together = ask(pictures)
    assert together.shape == (4, model.image_height, model.image_width, 5)
    np.testing.assert_allclose(together.sum(-1), 1, rtol=1e-5)
    assert np.ptp(together, axis=(1, 2)).max() > 1e-3
    np.testing.assert_allclose(ask(pictures[2:3]), together[2:3], atol=1e-5)
    np.testing.assert_allclose(answer(network, pictures), together, atol=1e-5)


@every_architecture
def test_saved_and_loaded_it_answers_the_same(name: str, tmp_path: Path) -> None:
    model, network, *_ = lesson(name)
    write_arrays(tmp_path / "arrays.npz", arrays_of(network))
    again = build(model)
    assert list(arrays_of(again)) == list(arrays_of(network))
    assert [layer.name for layer in again.layers] == [layer.name for layer in network.layers]
    pictures, _ = mosaics(model, 3)
    assert not np.allclose(answer(again, pictures), answer(network, pictures), atol=1e-3)
    fill_network(again, read_arrays(tmp_path / "arrays.npz"))
    np.testing.assert_allclose(answer(again, pictures), answer(network, pictures), atol=1e-6)


@pytest.fixture
def float16() -> Iterator[None]:
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


@every_architecture
def test_float16_answers_nearly_the_same(name: str, float16: None) -> None:
    model, network, *_ = lesson(name)
    half = build(model)
    fill_network(half, arrays_of(network))
    pictures, _ = mosaics(model, 3)
    probability = half(np.float32(pictures), training=False)
    assert {layer.compute_dtype for layer in half.layers} >= {"float16", "float32"}
    assert probability.dtype == "float32"
    np.testing.assert_allclose(probability, answer(network, pictures), atol=0.05)


@every_architecture
def test_dropout_is_that_of_the_params(name: str) -> None:
    rates = [layer.rate for layer in lesson(name).network.layers if layer.name.endswith("_dropout")]
    levels = np.array(rates) / lesson(name).model.dropout_rate
    assert levels.max() >= 1
    np.testing.assert_allclose(levels, levels.round(), atol=1e-9)


@every_architecture
def test_summary(name: str) -> None:
    path = SUMMARIES / f"{name}.txt"
    if os.environ.get("CYTOLOOP_REGENERATE") == "1":
        path.write_text(summary(lesson(name).network), "utf-8")
    assert path.read_text("utf-8") == summary(lesson(name).network)


def summary(network: Any) -> str:
    """A line for each layer: name, kind, output, parameters."""
    lines = [f"{network.name}: {network.count_params():,} parameters"]
    for layer in network.layers:
        shape = "x".join(map(str, layer.output.shape[1:]))
        lines.append(f"{layer.name:<30} {type(layer).__name__:<24} {shape:<10} {layer.count_params():>7}")
    return "\n".join(lines) + "\n"


@every_architecture
def test_it_describes_itself_and_names_its_paper(name: str) -> None:
    text = importlib.import_module(f"cytoloop.model.architectures.{name}").__doc__
    assert len(describe(name)) > 20
    assert re.search(r"\d{4},\s+arXiv:\d{4}\.\d{5}", text)


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


def test_flexunet_is_the_half_width_unet_of_the_blood_smear_seed() -> None:
    model = ModelParams(
        num_classes=10, image_width=224, image_height=224, base_filters=32, base_kernels=3, num_layers=5, dropout_rate=0
    )
    assert build(model).count_params() == 7_760_394  # half the filters of Ronneberger, Fischer and Brox 2015


def test_dropout_and_dilation_change_with_the_level() -> None:
    network = build(ModelParams(num_classes=2, num_layers=4, dropout_rate=0.1, dilation=3, base_filters=2))
    assert [network.get_layer(f"encoder{i}_dropout").rate for i in range(4)] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [network.get_layer(f"encoder{i}_conv1").dilation_rate for i in range(4)] == [(3, 3), (2, 2), (1, 1), (1, 1)]


def test_multiresunet_has_the_papers_parameters() -> None:
    network = build(tiny("multiresunet", num_classes=1, base_filters=32, num_layers=5))
    # theirs normalize after a convolution without a factor, and after the last one too (a shift, a mean, a variance,
    # in place of a bias)
    factors = [layer.gamma.shape[0] for layer in network.layers if re.search(r"(conv\d?|shortcut)_norm$", layer.name)]
    assert network.count_params() - sum(factors) + 2 == 7_262_750


def test_unet3plus_has_the_papers_parameters() -> None:
    network = build(tiny("unet3plus", num_classes=1, base_filters=64, num_layers=5))
    assert round(network.count_params() / 1e6, 1) == 27.0  # 26.97 million


def test_swinunet_has_the_published_parameters() -> None:
    model = tiny("swinunet", num_classes=9, base_filters=96, num_layers=4, window=7).model_copy(
        update={"image_height": 224, "image_width": 224}
    )
    assert round(build(model).count_params() / 1e6, 2) == 27.17


def test_running_statistics_are_the_pictures_after_fifty_steps() -> None:
    import keras

    picture = keras.Input((8, 8, 1))
    network = keras.Model(picture, normalized(picture, "batch", "x"))
    pictures = np.random.default_rng(0).normal(200, 10, (4, 8, 8, 1)).astype(np.float32)
    for _ in range(50):
        network(pictures, training=True)
    np.testing.assert_allclose([answer(network, pictures).mean(), answer(network, pictures).std()], [0, 1], atol=0.2)


@pytest.mark.parametrize("size", [(2, 2), (3, 5)])
def test_windows_are_put_together_again(size: tuple[int, int]) -> None:
    x = np.random.default_rng(0).normal(size=(2, 3 * size[0], 2 * size[1], 4)).astype(np.float32)
    windows = np.asarray(windowed(x, size))
    assert windows.shape == (2, 6, size[0] * size[1], 4)
    np.testing.assert_array_equal(windows[1, 3, -1], x[1, 2 * size[0] - 1, 2 * size[1] - 1])
    np.testing.assert_array_equal(unwindowed(windows, size, x.shape[1:3]), x)


@pytest.mark.parametrize("sides", [(5, 7), (6, 9), (3, 7), (2, 3)])
@pytest.mark.parametrize("shifted", [False, True])
def test_window_attention_token_by_token(sides: tuple[int, int], shifted: bool) -> None:
    windows = Windows.of(sides, 3, shifted)
    layer = window_attention()(windows, heads=2)
    random = np.random.default_rng(0)
    qkv = random.normal(size=(1, *sides, 12)).astype(np.float32)
    layer.build(qkv.shape)
    layer.bias.assign(random.normal(size=layer.bias.shape))
    bias = np.asarray(layer.bias).reshape(2, 2 * windows.size[0] - 1, 2 * windows.size[1] - 1)
    np.testing.assert_allclose(layer(qkv)[0], gathered(qkv[0], bias, windows), atol=1e-5)


def gathered(qkv: Array, bias: Array, windows: Windows) -> Array:
    """Attention by its definition: a token looks at those whose row and column lie in its row's and column's window."""
    sides, heads, depth = qkv.shape[:2], bias.shape[0], qkv.shape[2] // (3 * bias.shape[0])
    tokens = [(y, x) for y in range(sides[0]) for x in range(sides[1])]
    query, key, value = (part.reshape(*sides, heads, depth) for part in np.split(qkv, 3, axis=-1))

    def window(token: tuple[int, int]) -> list[int]:
        return [(place - shift) // size for place, shift, size in zip(token, windows.shift, windows.size, strict=True)]

    answer = np.zeros((*sides, heads, depth))
    for one in tokens:
        seen = [other for other in tokens if window(other) == window(one)]
        for head in range(heads):
            logits = [
                query[one][head] @ key[other][head] / depth**0.5
                + bias[head, one[0] - other[0] + windows.size[0] - 1, one[1] - other[1] + windows.size[1] - 1]
                for other in seen
            ]
            weights = np.exp(logits) / np.exp(logits).sum()
            answer[one][head] = sum(weight * value[other][head] for weight, other in zip(weights, seen, strict=True))
    return answer.reshape(*sides, -1)


@pytest.mark.parametrize("name", ["flexunet", "efficientunet"])  # the latter has layers without height and width
def test_the_drawing_is_a_picture(name: str, tmp_path: Path) -> None:
    from PIL import Image

    from cytoloop.model.drawing import draw_network

    draw_network(lesson(name).network, tmp_path / "network.png")
    with Image.open(tmp_path / "network.png") as picture:
        assert picture.width > 500
