"""The bundle: what is written is what is loaded, and damage is refused."""

import json
from pathlib import Path

import numpy as np
import pytest

from cytoloop.errors import ModelError
from cytoloop.model.architectures import build
from cytoloop.model.bundle import Description, arrays_of, read_arrays, read_bundle, write_arrays, write_bundle
from cytoloop.model.predict import Predictor
from cytoloop.params import ModelParams
from tables import CODEC, mask_of, picture_of

MODEL = ModelParams(
    architecture="leanunet", num_classes=3, image_width=32, image_height=32, num_layers=2, base_filters=4,
    normalization="batch",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import keras

    keras.utils.set_random_seed(3)
    path = tmp_path_factory.mktemp("bundle")
    write_bundle(path, build(MODEL), Description(MODEL, CODEC, 0.5, 0, {"git_commit": "none"}))
    Predictor.load(path).write_sample(path, picture_of(mask_of()))
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_the_arrays_are_those_of_the_network(folder: Path) -> None:
    import keras

    keras.utils.set_random_seed(3)
    expected = arrays_of(build(MODEL))
    loaded = read_bundle(folder).arrays
    assert list(loaded) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(loaded[name], array)


def test_the_golden_sample_is_answered_again(folder: Path) -> None:
    Predictor.load(folder).check_sample(folder)


def test_a_sample_that_is_answered_otherwise_is_noticed(copy: Path) -> None:
    np.savez(copy / "sample_probability.npz", probability=np.zeros((40, 40), np.float32))
    with pytest.raises(ModelError, match="answered differently"):
        Predictor.load(copy).check_sample(copy)


def test_predictions_have_the_pictures_own_size(folder: Path) -> None:
    pictures = [picture_of(mask_of(w, h)) for w, h in [(40, 40), (97, 33), (32, 32)]]
    answers = Predictor.load(folder).predict(pictures)
    assert [a.ids_HW.shape for a in answers] == [(40, 40), (33, 97), (32, 32)]
    assert all(a.ids_HW.dtype == np.uint8 and a.ids_HW.max() < 3 for a in answers)
    assert all(((a.probability_HW > 1 / 3 - 1e-3) & (a.probability_HW <= 1 + 1e-5)).all() for a in answers)


def test_changed_arrays_are_refused(copy: Path) -> None:
    arrays = read_arrays(copy / "arrays.npz")
    next(iter(arrays.values()))[...] += 1
    write_arrays(copy / "arrays.npz", arrays)
    with pytest.raises(ModelError, match="SHA-256"):
        read_bundle(copy)


@pytest.mark.parametrize("missing", ["bundle.json", "arrays.npz"])
def test_missing_files_are_named(copy: Path, missing: str) -> None:
    (copy / missing).unlink()
    with pytest.raises(ModelError, match=missing.split(".")[0]):
        read_bundle(copy)


def test_another_format_is_refused(copy: Path) -> None:
    told = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps(told | {"format": 99}))
    with pytest.raises(ModelError, match="format 99"):
        read_bundle(copy)


def test_arrays_of_another_network_are_refused(copy: Path) -> None:
    told = json.loads((copy / "bundle.json").read_text())
    told["model"]["base_filters"] = 8
    (copy / "bundle.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match="shape"):
        Predictor.load(copy)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", evil=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        read_arrays(tmp_path / "bad.npz")


def test_the_same_arrays_have_the_same_bytes(tmp_path: Path) -> None:
    arrays = {"a/kernel": np.arange(6.0).reshape(2, 3), "b/bias": np.ones(4, np.float32)}
    write_arrays(tmp_path / "1.npz", arrays)
    write_arrays(tmp_path / "2.npz", arrays)
    assert (tmp_path / "1.npz").read_bytes() == (tmp_path / "2.npz").read_bytes()


def test_the_threshold_decides_a_sigmoid_head() -> None:
    from cytoloop.model.predict import choose_classes

    probability = np.array([[0.2, 0.6, 0.9]], np.float32)[..., None]
    answer = choose_classes(probability, 0.7, 0)
    assert answer.ids_HW.tolist() == [[0, 0, 1]]
    np.testing.assert_allclose(answer.probability_HW, [[0.8, 0.4, 0.9]], rtol=1e-6)
