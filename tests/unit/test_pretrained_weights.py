"""The encoders from keras.applications: they are the applications' own, and take weights from a declared file alone."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from cytoloop.artifacts import sha256_file
from cytoloop.errors import ModelError
from cytoloop.model.architectures import build
from cytoloop.model.architectures.encoders import ENCODERS, IMAGENET_MEAN, IMAGENET_STD, NOTICE, load_pretrained
from cytoloop.model.bundle import Description, arrays_of, fill_network, write_arrays, write_bundle
from cytoloop.model.predict import Predictor
from cytoloop.params import ModelParams
from tables import CODEC, mask_of, picture_of

Array = np.ndarray[Any, Any]


@functools.cache
def application(name: str) -> Any:
    """With weights and running statistics that a fresh one cannot have; its own normalization is ImageNet's."""
    import keras

    network = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(64, 64, 3))
    random = np.random.default_rng(0)
    arrays = {path: spread(path, array.shape, random) for path, array in arrays_of(network).items()}
    for path in arrays:
        if path.startswith("normalization") and not path.endswith("count"):
            arrays[path] = np.array(IMAGENET_MEAN if path.endswith("mean") else np.square(IMAGENET_STD), np.float32)
    fill_network(network, arrays)
    for layer in network.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()
    return network


def spread(path: str, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    if path.endswith("kernel"):
        fan_in = np.prod(shape[:2]) if "depthwise" in path or "dwconv" in path else np.prod(shape[:-1])
        return random.normal(0, (2 / fan_in) ** 0.5, shape).astype(np.float32)
    return random.uniform(0.8, 1.2, shape).astype(np.float32)


def keras_file(path: Path, network: Any) -> Path:
    network.save_weights(path)
    return path


def applications_file(path: Path, network: Any) -> Path:
    """As keras.applications' own files are laid out: a group a layer, its arrays in order."""
    layers = [layer for layer in network.layers if layer.weights]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in layers]
        for layer in layers:
            group = file.create_group(layer.name)
            group.attrs["weight_names"] = [variable.path.encode() for variable in layer.weights]
            for variable in layer.weights:
                group[variable.path] = np.asarray(variable)
    return path


def arrays_file(path: Path, network: Any) -> Path:
    write_arrays(path, arrays_of(network))
    return path


def declared(architecture: str, path: Path, **settings: Any) -> ModelParams:
    return ModelParams(
        architecture=architecture, num_classes=3, image_width=64, image_height=64,
        weights=str(path), weights_sha256=sha256_file(path), **settings,
    )  # fmt: skip


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return keras_file(tmp_path_factory.mktemp("weights") / "mobilenet.weights.h5", application("MobileNetV2"))


@pytest.mark.parametrize(
    ("architecture", "name", "write"),
    [
        ("efficientunet", "a.weights.h5", keras_file),
        ("efficientunet", "a.h5", applications_file),
        ("mobilenetunet", "a.h5", applications_file),
        ("mobilenetunet", "a.npz", arrays_file),
        ("deeplabv3plus", "a.weights.h5", keras_file),
    ],
)
def test_the_encoder_is_the_files_and_the_decoder_is_left(
    architecture: str, name: str, write: Callable[[Path, Any], Path], tmp_path: Path
) -> None:
    source = application(ENCODERS[architecture].application)
    model = declared(architecture, write(tmp_path / name, source))
    network = build(model)
    before, file = arrays_of(network), arrays_of(source)
    load_pretrained(network, model)
    after = arrays_of(network)
    assert len(before.keys() & file.keys()) > 200
    for path, array in after.items():
        np.testing.assert_array_equal(array, file.get(path, before[path]), err_msg=path)


@pytest.mark.parametrize("architecture", ["efficientunet", "mobilenetunet"])
def test_the_features_are_those_of_the_application(architecture: str, tmp_path: Path) -> None:
    import keras

    encoder = ENCODERS[architecture]
    source = application(encoder.application)
    model = declared(architecture, arrays_file(tmp_path / "a.npz", source))
    network = build(model)
    load_pretrained(network, model)
    pictures = np.random.default_rng(1).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    scaled = keras.applications.mobilenet_v2.preprocess_input(pictures.copy()) if "mobile" in architecture else pictures
    there = features(source, encoder.features, scaled)
    for ours, theirs in zip(features(network, encoder.features, pictures), there, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def features(network: Any, names: tuple[str, ...], pictures: Array) -> list[Array]:
    import keras

    outputs = [network.get_layer(name).output for name in names]
    return [np.asarray(feature) for feature in keras.Model(network.input, outputs)(pictures, training=False)]


def test_deeplabs_coarse_feature_is_the_applications_between_its_pixels(mobilenet: Path) -> None:
    """The dilated convolutions see, from every second pixel, exactly what the strided ones see."""
    import keras

    encoder = ENCODERS["deeplabv3plus"]
    model = declared("deeplabv3plus", mobilenet)
    network = build(model)
    load_pretrained(network, model)
    pictures = np.random.default_rng(1).uniform(0, 255, (1, 64, 64, 3)).astype(np.float32)
    scaled = keras.applications.mobilenet_v2.preprocess_input(pictures.copy())
    fine, coarse = features(network, encoder.features, pictures)
    fine_there, coarse_there = features(application("MobileNetV2"), encoder.features, scaled)
    np.testing.assert_allclose(fine, fine_there, atol=1e-4 * fine_there.max())
    assert coarse.shape == (1, 4, 4, 320)
    # the application pads its strided convolution on one side: its pixels are the odd ones
    np.testing.assert_allclose(coarse[:, 1::2, 1::2], coarse_there, atol=1e-4 * np.abs(coarse_there).max())


def test_a_grey_picture_is_seen_as_three_equal_channels(mobilenet: Path) -> None:
    model = declared("mobilenetunet", mobilenet)
    colour, grey = build(model), build(model.model_copy(update={"image_channels": 1}))
    load_pretrained(colour, model)
    fill_network(grey, arrays_of(colour))
    pictures = np.random.default_rng(1).uniform(0, 255, (2, 64, 64, 1)).astype(np.float32)
    np.testing.assert_allclose(grey(pictures), colour(pictures.repeat(3, axis=-1)), atol=1e-6)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_encoder_stays_as_it_is(frozen: bool, mobilenet: Path) -> None:
    model = declared("mobilenetunet", mobilenet, freeze_encoder=frozen)
    network = build(model)
    load_pretrained(network, model)
    before = arrays_of(network)
    network.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    pictures = np.random.default_rng(1).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    network.fit(pictures, (pictures[..., 0] > 128).astype(np.uint8), verbose=0)
    changed = {
        path.split("/")[0] for path, array in arrays_of(network).items() if not np.array_equal(array, before[path])
    }
    encoder = {path.split("/")[0] for path in arrays_of(application("MobileNetV2"))}
    assert {"decoder4_up", "decoder1_norm", "classes"} <= changed
    assert ({"Conv1", "bn_Conv1", "block_16_project"} <= changed) != frozen
    assert (changed & encoder == set()) == frozen


def test_without_a_file_there_is_one_notice_and_nothing_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    model = ModelParams(architecture="mobilenetunet", num_classes=3, image_width=64, image_height=64)
    network = build(model)
    before = arrays_of(network)
    assert capsys.readouterr().err == ""
    load_pretrained(network, model)
    assert capsys.readouterr().err == f"cytoloop: {NOTICE}\n"
    assert all(np.array_equal(array, before[path]) for path, array in arrays_of(network).items())


def test_a_network_without_an_encoder_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    model = ModelParams(architecture="leanunet", num_classes=3, image_width=32, image_height=32, num_layers=2)
    load_pretrained(build(model), model)
    assert capsys.readouterr().err == ""


def test_a_bundle_needs_no_file(mobilenet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = Path(shutil.copy(mobilenet, tmp_path / "gone.weights.h5"))
    model = declared("mobilenetunet", weights, freeze_encoder=True)
    network = build(model)
    load_pretrained(network, model)
    write_bundle(tmp_path, network, Description(model, CODEC, 0.5, 0, {}))
    weights.unlink()
    picture = picture_of(mask_of(64, 64))
    answer = Predictor.load(tmp_path).predict([picture])[0]
    assert NOTICE not in capsys.readouterr().err
    probability_HWC = np.asarray(network(picture[None].astype(np.float32)))[0]
    np.testing.assert_allclose(answer.probability_HW, probability_HWC.max(-1), atol=1e-5)


@functools.cache
def mobilenetunet() -> Any:
    return build(ModelParams(architecture="mobilenetunet", num_classes=3, image_width=64, image_height=64))


def refusal(model: ModelParams) -> str:
    """The message; the network must be as it was before."""
    before = arrays_of(mobilenetunet())
    with pytest.raises(ModelError) as caught:
        load_pretrained(mobilenetunet(), model)
    assert all(np.array_equal(array, before[path]) for path, array in arrays_of(mobilenetunet()).items())
    return str(caught.value)


def test_a_missing_file_is_refused(mobilenet: Path) -> None:
    model = declared("mobilenetunet", mobilenet).model_copy(update={"weights": "nowhere.weights.h5"})
    message = refusal(model)
    assert "nowhere.weights.h5: no such file" in message
    assert "null for random weights" in message


def test_a_file_with_another_digest_is_refused_and_both_are_named(mobilenet: Path) -> None:
    model = declared("mobilenetunet", mobilenet).model_copy(update={"weights_sha256": "0" * 64})
    message = refusal(model)
    assert sha256_file(mobilenet) in message
    assert "0" * 64 in message


def test_another_kind_of_file_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "weights.pkl").write_bytes(b"cos\nsystem\n")
    assert "allowed: *.weights.h5, *.h5, *.npz" in refusal(declared("mobilenetunet", tmp_path / "weights.pkl"))


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".npz"])
@pytest.mark.parametrize("content", [b"", b"not a file of weights", b"half"])
def test_a_damaged_file_is_refused(suffix: str, content: bytes, mobilenet: Path, tmp_path: Path) -> None:
    path = tmp_path / f"damaged{suffix}"
    if content == b"half":
        whole = mobilenet if suffix != ".npz" else arrays_file(tmp_path / "a.npz", application("MobileNetV2"))
        content = whole.read_bytes()[: whole.stat().st_size // 2]
    path.write_bytes(content)
    message = refusal(declared("mobilenetunet", path))
    assert f"damaged{suffix}: cannot fill the encoder of mobilenetunet" in message
    assert "keras.applications.MobileNetV2(include_top=False)" in message


@pytest.mark.parametrize(
    ("name", "write"), [("a.weights.h5", keras_file), ("a.h5", applications_file), ("a.npz", arrays_file)]
)
def test_weights_of_another_network_are_refused(name: str, write: Callable[[Path, Any], Path], tmp_path: Path) -> None:
    message = refusal(declared("mobilenetunet", write(tmp_path / name, application("EfficientNetB0"))))
    assert "cannot fill the encoder of mobilenetunet" in message


def test_an_array_of_another_shape_is_refused(tmp_path: Path) -> None:
    arrays = arrays_of(application("MobileNetV2"))
    write_arrays(tmp_path / "a.npz", arrays | {"Conv1/kernel": arrays["Conv1/kernel"][:1]})
    assert "array 'Conv1/kernel' has shape (1, 3, 3, 32)" in refusal(declared("mobilenetunet", tmp_path / "a.npz"))


def test_the_dsb2018_seeds_network_has_its_parameters() -> None:
    model = ModelParams(architecture="mobilenetunet", num_classes=3, image_width=128, image_height=128)
    assert build(model).count_params() == 6_504_227  # measured on the seed's code


def test_deeplab_at_its_default_has_the_papers_widths() -> None:
    model = ModelParams(architecture="deeplabv3plus", num_classes=3, image_width=64, image_height=64)
    network = build(model)
    widths = {name: network.get_layer(name).output.shape[1:] for name in ("pyramid", "pyramid_merge", "decoder_fine")}
    assert widths == {"pyramid": (4, 4, 5 * 256), "pyramid_merge": (4, 4, 256), "decoder_fine": (16, 16, 48)}
