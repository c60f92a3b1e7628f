"""The classifier: its tables, its class activation maps, its training, its bundle, and what it says of itself."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cytoloop import classification
from cytoloop.artifacts import read_json
from cytoloop.errors import ArtifactError, CytoloopError, ModelError, SourceError
from cytoloop.images import heatmap
from cytoloop.images.decode import decode_rgb, encode_rgb_png
from cytoloop.model.bundle import read_arrays, write_arrays
from cytoloop.model.classifier import Classifier
from cytoloop.model.classifier_data import LabelledStream, read_cohort, squared, turn
from cytoloop.model.classifier_network import Scaling, build, compiled
from cytoloop.model.optimizers import piecewise
from cytoloop.params import ClassifierParams
from cytoloop.report.classification import Example, Report, cautions, choose, render
from cytoloop.scores import labels
from cytoloop.scores.bootstrap import GroupBootstrap
from labelled import cell_picture, params, write_labelled
from mlflow_store import empty_database
from tables import card, row, write_table

EPOCHS = 6
SETTINGS = ClassifierParams(
    image_size=32, epochs=EPOCHS, batch_size=8, rates={5: 3e-4}, keep=1, checkpoints=2, class_weight_cap=None
)


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory: pytest.TempPathFactory):
    """An own folder with an own MLflow store."""
    folder = tmp_path_factory.mktemp("classifier")
    (folder / "mlflow.db").write_bytes(empty_database())
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        yield folder


@pytest.fixture(scope="module")
def data(place: Path) -> tuple[Path, Path]:
    return write_labelled(place, {"train": 8, "val": 4, "test": 4})


@pytest.fixture(scope="module")
def trained(place: Path, data: tuple[Path, Path]) -> Path:
    classification.train(*data, place / "classifier", params(SETTINGS))
    return place / "classifier"


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints")))


# ------------------------------------------------------------------------------------------- network


def test_the_eight_layers_have_the_parameters_of_their_tables() -> None:
    network = build(ClassifierParams(), Scaling((1, 2, 3), (1, 2, 3)), 2)
    convolutions = [(3, 3, 32), (3, 32, 64), (3, 64, 128), (3, 128, 256), (3, 256, 512), (1, 512, 256), (3, 256, 512)]
    weights = sum(kernel * kernel * before * after + after for kernel, before, after in convolutions)
    norms = sum(4 * after for *_, after in convolutions)
    assert network.count_params() == weights + norms + 512 * 2 + 2 == 2_888_130


def test_the_layers_have_the_sizes_of_their_tables() -> None:
    network = build(ClassifierParams(), Scaling((1, 2, 3), (1, 2, 3)), 2)
    sizes = [tuple(network.get_layer(f"layer_{n}_conv").output.shape[1:]) for n in range(1, 8)]
    assert sizes == [
        (224, 224, 32), (112, 112, 64), (56, 56, 128), (28, 28, 256), (14, 14, 512), (14, 14, 256), (14, 14, 512)
    ]  # fmt: skip
    assert network.get_layer("layer_7_pool").output.shape == (None, 512)
    assert network.output.shape == (None, 2)


@pytest.fixture(scope="module")
def hand_set():
    """A network that hands the red channel through all its layers; class 0 weighs it by 2, class 1 by -1."""
    network = build(ClassifierParams(image_size=32), Scaling((0, 0, 0), (1, 1, 1)), 2)
    for number in range(1, 8):
        kernel, bias = network.get_layer(f"layer_{number}_conv").get_weights()
        kernel[:] = 0
        kernel[kernel.shape[0] // 2, kernel.shape[1] // 2, 0, 0] = 1
        network.get_layer(f"layer_{number}_conv").set_weights([kernel, bias * 0])
        norm = network.get_layer(f"layer_{number}_norm")
        gamma, beta, mean, variance = norm.get_weights()
        norm.set_weights([gamma * np.sqrt(1 + norm.epsilon), beta * 0, mean * 0, variance * 0 + 1])
    kernel, bias = network.get_layer("layer_8").get_weights()
    kernel[:] = 0
    kernel[0] = 2, -1
    network.get_layer("layer_8").set_weights([kernel, bias * 0])
    return compiled(network)


@pytest.mark.parametrize(("quarter", "place"), [(np.s_[:16, 16:], (0, 1)), (np.s_[16:, :16], (1, 0))])
def test_the_activation_map_is_the_features_weighed_by_the_classes_weights(hand_set, quarter, place) -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[quarter] = 3, 200, 200
    answer = hand_set(picture[None])
    features = np.zeros((2, 2))
    features[place] = 3
    np.testing.assert_allclose(answer.maps_BhwC[0], np.stack([2 * features, -features], -1), atol=1e-4)
    # the pooled feature is the maximum, 3, wherever it lies: logits 6 and -3
    np.testing.assert_allclose(answer.probability_BC[0], [1 / (1 + np.exp(-9)), 1 / (1 + np.exp(9))], rtol=1e-3)


def test_only_the_largest_value_of_a_feature_map_counts(hand_set) -> None:
    one, many = np.zeros((2, 32, 32, 3), np.uint8)
    one[:16, :16], many[:16, :16], many[16:] = 2, 2, 1
    answer = hand_set(np.stack([one, many]))
    np.testing.assert_array_equal(answer.probability_BC[0], answer.probability_BC[1])
    assert not np.array_equal(answer.maps_BhwC[0], answer.maps_BhwC[1])


# ---------------------------------------------------------------------------------------------- data


def test_the_scaling_is_that_of_all_training_pixels(tmp_path: Path) -> None:
    raw, splits = write_labelled(tmp_path, {"train": 4, "val": 2, "test": 2})
    pixels = np.concatenate([cell_picture(("blue", "red")[n % 2], n)[0].reshape(-1, 3) for n in range(4)])
    found = read_cohort(raw, splits)
    np.testing.assert_allclose(found.scaling.mean, pixels.mean(0), atol=1e-3)
    np.testing.assert_allclose(found.scaling.std, pixels.std(0), atol=1e-3)
    assert (found.names, found.counts("train"), found.counts("test")) == (("blue", "red"), (2, 2), (1, 1))


def test_an_epoch_has_every_picture_once_in_even_batches(data: tuple[Path, Path]) -> None:
    stream = LabelledStream(read_cohort(*data), "train", 40, batch_size=5)
    batches = list(stream.epoch(0, 1, False))
    assert [len(classes) for _, classes in batches] == [4, 4]
    shuffled = np.concatenate([pictures for pictures, _ in batches])
    ordered = np.concatenate([pictures for pictures, _ in stream.in_order()])
    assert sorted(p.tobytes() for p in shuffled) == sorted(p.tobytes() for p in ordered)
    assert shuffled.tobytes() != ordered.tobytes()


def test_an_epoch_is_decided_by_seed_and_number(data: tuple[Path, Path]) -> None:
    stream = LabelledStream(read_cohort(*data), "train", 32, 8)

    def told(seed: int, epoch: int) -> bytes:
        return b"".join(part.tobytes() for batch in stream.epoch(seed, epoch, True) for part in batch)

    assert told(0, 1) == told(0, 1)
    assert len({told(0, 1), told(0, 2), told(1, 1)}) == 3


def test_there_are_eight_ways_to_lay_a_picture() -> None:
    picture = np.arange(4 * 4 * 3).reshape(4, 4, 3)
    laid = [turn(picture, way) for way in range(8)]
    assert len({one.tobytes() for one in laid}) == 8
    assert all(sorted(one.ravel()) == sorted(picture.ravel()) for one in laid)
    np.testing.assert_array_equal(laid[0], picture)


def test_a_picture_of_any_size_becomes_a_square() -> None:
    flat = np.full((97, 33, 3), 7, np.uint8)
    assert squared(flat, 32).shape == (32, 32, 3)
    assert (squared(flat, 128) == 7).all()


@pytest.mark.parametrize("label", [None, "blue"])
def test_fewer_than_two_labels_are_refused(tmp_path: Path, label: str | None) -> None:
    facts = {"mean_rgb": [1.0, 1, 1], "std_rgb": [1.0, 1, 1]}
    raw = write_table(tmp_path / "raw", [row("a", label=label, **facts)])
    with pytest.raises(ArtifactError, match="a classifier needs two or more"):
        read_cohort(raw, tmp_path / "splits")


def test_a_split_without_labelled_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no labelled picture in val"):
        read_cohort(*write_labelled(tmp_path, {"train": 4, "test": 2}))


# ------------------------------------------------------------------------------------------ training


@pytest.mark.parametrize(
    ("epochs", "rate"), [(range(1, 11), 1e-3), ([11], 3e-4), ([12, 13], 1.3e-4), ([14, 15, 99], 3e-5)]
)
def test_the_rate_is_the_seeds_in_each_epoch(epochs, rate: float) -> None:
    assert {piecewise(ClassifierParams(), epoch) for epoch in epochs} == {rate}


def test_eight_pictures_are_learnt_by_heart(data: tuple[Path, Path], trained: Path) -> None:
    classifier, cohort = Classifier.load(trained), read_cohort(*data)
    for split, count in (("train", 8), ("test", 4)):
        batches = LabelledStream(cohort, split, 40, 99).in_order()
        pictures, classes = next(batches)
        assert [cohort.names.index(one.label) for one in classifier.classify(list(pictures))] == classes.tolist()
        assert len(classes) == count
    assert read_json(trained / "metrics.json")["accuracy"] == 1


def test_the_output_is_complete(trained: Path) -> None:
    files = ["arrays.npz", "bundle.json", "checkpoints", "classification.html", "curves.png", "history.csv"]
    assert sorted(path.name for path in trained.iterdir()) == [*files, "metrics.json", "per_picture.csv", "run.json"]
    assert not Path("work").exists() or list(Path("work").iterdir()) == []
    with (trained / "history.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["epoch"]) for line in lines] == list(range(1, EPOCHS + 1))
    assert [float(line["learning_rate"]) for line in lines] == [1e-3] * 4 + [3e-4] * 2
    page = (trained / "classification.html").read_text("utf-8")
    assert "always blue" in page
    assert str(trained.parent) not in page


def test_the_newest_checkpoints_and_the_best_are_kept_with_their_facts(trained: Path) -> None:
    facts = [read_json(path) for path in sorted((trained / "checkpoints").glob("*.json"))]
    best = facts[-1]["best_epoch"]
    assert [one["epoch"] for one in facts] == sorted({best, EPOCHS - 1, EPOCHS})
    assert [len(one["statistics"]) for one in facts] == [one["epoch"] for one in facts]
    last = facts[-1]
    assert last["best_val_accuracy"] == max(line["val_accuracy"] for line in last["statistics"])
    assert (last["batch_size"], last["learning_rate"]) == (8, 3e-4)
    assert (last["mean"], last["std"]) == tuple(read_json(trained / "bundle.json")["scaling"])


@pytest.mark.slow
def test_a_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(
    trained: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    checkpoint = trained / "checkpoints" / f"epoch-{EPOCHS - 1:04d}.npz"
    settings = SETTINGS.model_copy(update={"start_from": str(checkpoint)})
    classification.train(*data, tmp_path / "again", params(settings))
    for name in ("arrays.npz", "history.csv", "curves.png", "per_picture.csv"):
        assert (tmp_path / "again" / name).read_bytes() == (trained / name).read_bytes(), name
    assert str(checkpoint) not in (tmp_path / "again" / "bundle.json").read_text()


def test_a_checkpoint_that_does_not_fit_is_refused(trained: Path, data: tuple[Path, Path], tmp_path: Path) -> None:
    def refusal(checkpoint: Path) -> str:
        settings = SETTINGS.model_copy(update={"start_from": str(checkpoint)})
        with pytest.raises(CytoloopError) as caught:
            classification.train(*data, tmp_path / "again", params(settings))
        return str(caught.value)

    assert "no such checkpoint" in refusal(tmp_path / "nothing.npz")
    folder = Path(shutil.copytree(trained / "checkpoints", tmp_path / "checkpoints"))
    newest = folder / f"epoch-{EPOCHS:04d}.npz"
    facts = read_json(newest.with_suffix(".json"))
    newest.with_suffix(".json").write_text(json.dumps({**facts, "labels": ["cat", "dog"]}))
    assert "trained on ['cat', 'dog']" in refusal(newest)
    newest.with_suffix(".json").write_text(json.dumps(facts))
    (folder / f"epoch-{facts['best_epoch']:04d}.json").rename(tmp_path / "best.json")
    assert f"epoch-{facts['best_epoch']:04d}.npz: no such checkpoint" in refusal(newest)
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    assert "SHA-256" in refusal(newest)
    assert not (tmp_path / "again").exists()


# -------------------------------------------------------------------------------------------- bundle


def test_changed_arrays_are_refused(copy: Path) -> None:
    arrays = read_arrays(copy / "arrays.npz")
    next(iter(arrays.values()))[...] += 1
    write_arrays(copy / "arrays.npz", arrays)
    with pytest.raises(ModelError, match="SHA-256"):
        Classifier.load(copy)


@pytest.mark.parametrize("missing", ["bundle.json", "arrays.npz"])
def test_missing_files_are_named(copy: Path, missing: str) -> None:
    (copy / missing).unlink()
    with pytest.raises(ModelError, match="missing"):
        Classifier.load(copy)


@pytest.mark.parametrize("change", [{"kind": "segmenter"}, {"format": 2}, {"more": 1}, {"labels": 5}])
def test_a_foreign_bundle_is_refused(copy: Path, change: dict) -> None:
    told = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps(told | change))
    with pytest.raises(ModelError, match="not a classifier of this version"):
        Classifier.load(copy)


def test_arrays_of_another_network_are_refused(copy: Path) -> None:
    told = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps(told | {"labels": ["a", "b", "c"]}))
    with pytest.raises(ModelError, match="shape"):
        Classifier.load(copy)


# ---------------------------------------------------------------------------------------- prediction


def test_pictures_get_label_heat_map_and_line(trained: Path, tmp_path: Path) -> None:
    for number, label in enumerate(["red", "blue"]):
        (tmp_path / f"{label} cell.png").write_bytes(encode_rgb_png(cell_picture(label, number)[0]))
    pictures = sorted(tmp_path.glob("*.png"))
    assert classification.predict(trained, pictures, tmp_path / "out") == {"pictures": 2}
    names = [f"{label} cell_{kind}.png" for label in ("blue", "red") for kind in ("classified", "heat")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [*names[:2], "classification.csv", *names[2:]]
    with (tmp_path / "out" / "classification.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["file"], line["label"]) for line in lines] == [("blue cell.png", "blue"), ("red cell.png", "red")]
    for line in lines:
        assert float(line["probability"]) == max(float(line["blue"]), float(line["red"]))
        assert float(line["blue"]) + float(line["red"]) == pytest.approx(1, abs=1e-5)
    assert decode_rgb((tmp_path / "out" / "red cell_heat.png").read_bytes()).shape == (40, 40, 3)
    height, width, _ = decode_rgb((tmp_path / "out" / "red cell_classified.png").read_bytes()).shape
    assert height > width >= 256


def test_an_unreadable_picture_is_named_and_nothing_is_written(trained: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"bad\.png"):
        classification.predict(trained, [bad], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


# -------------------------------------------------------------------------------------------- scores


def answered(truth: int, predicted: int, probability: float = 0.9, hit: float = 1.0) -> labels.Labelled:
    group = f"{truth}{predicted}{probability}"
    return labels.Labelled(group, group, truth, predicted, probability, labels.Pointing(hit, 1.0, 0.25))


def test_the_figures_of_five_pictures() -> None:
    pictures = [answered(0, 0, 0.5), answered(0, 0, 0.6), answered(0, 1), answered(1, 1, hit=0.0), answered(1, 1, 0.8)]
    found = labels.metrics(pictures, ["a", "b", "c"], 0, GroupBootstrap([p.group for p in pictures], 200))
    assert found["accuracy"] == pytest.approx(4 / 5)
    assert found["constant_accuracy"] == pytest.approx(3 / 5)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["constant_balanced_accuracy"] == pytest.approx(1 / 2)
    assert np.isnan(found["per_class"]["c"]["recall"])
    assert [found["per_class"][name]["pictures"] for name in "abc"] == [3, 2, 0]
    assert [found["per_class"][name]["given"] for name in "abc"] == [2, 3, 0]
    assert [found["per_class"][name]["pointing"] for name in "ab"] == [1, pytest.approx(2 / 3)]
    assert found["confusion"] == [[2, 1, 0], [0, 2, 0], [0, 0, 0]]
    assert found["pointing"] == {"hits": pytest.approx(4 / 5), "middle": 1, "area": 0.25, "pictures": 5}
    for name in ("accuracy", "balanced_accuracy"):
        assert found["intervals"][name]["low"] <= found[name] <= found["intervals"][name]["high"]


def test_the_highest_place_is_on_the_cell_or_not() -> None:
    cell_HW = np.zeros((6, 6), bool)
    cell_HW[:2, :3] = True
    map_HW = np.zeros((6, 6))
    map_HW[1, 2] = 1
    assert labels.pointing(map_HW, cell_HW) == labels.Pointing(1.0, 0.0, 1 / 6)
    assert labels.pointing(np.rot90(map_HW, 2), cell_HW).hit == 0.0
    for unknown in (None, cell_HW & False):
        assert np.isnan(labels.pointing(map_HW, unknown).hit)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=20))
def test_shares_are_shares(pairs: list[tuple[int, int]]) -> None:
    counts_CC = labels.confusion([answered(*pair) for pair in pairs], 3).sum(0)
    assert counts_CC.sum() == len(pairs)
    for share in (labels.accuracy(counts_CC), labels.balanced_accuracy(counts_CC)):
        assert 0 <= share <= 1
    assert np.isnan(labels.recall(counts_CC)).tolist() == [label not in {t for t, _ in pairs} for label in range(3)]


# ------------------------------------------------------------------------------------ page and maps


def test_the_surest_wrong_and_the_right_of_each_label_are_shown() -> None:
    pictures = [
        answered(0, 0, 0.7), answered(0, 0, 0.9), answered(1, 1, 0.6), answered(1, 0, 0.8), answered(0, 1, 0.95)
    ]  # fmt: skip
    assert choose(pictures, 1) == {"wrong": [4, 3], "right": [1, 2]}


def test_texts_from_outside_are_escaped(trained: Path) -> None:
    hostile = "<b>cell</b>"
    told = read_json(trained / "metrics.json")
    per_class = {hostile: told["per_class"]["blue"], "red": told["per_class"]["red"]}
    page = render(
        Report(
            metrics={
                **told, "per_class": per_class, "constant_answer": hostile, "trained_on": dict.fromkeys(per_class, 4)
            },
            examples=[Example("right", answered(0, 0), hostile, hostile, {"picture": "", "heat": "", "over": ""})],
            card=card(name=hostile),
            history={"epoch": [1], "loss": [0.5]},
            meta=read_json(trained / "bundle.json"),
            confidence=0.95,
        )
    )  # fmt: skip
    assert hostile not in page
    assert "&lt;b&gt;cell&lt;/b&gt;" in page


def test_what_cannot_be_known_is_said() -> None:
    told = cautions(
        {
            "per_class": {"a": {"pictures": 20}, "b_c": {"pictures": 0}, "d": {"pictures": 3}},
            "trained_on": {"a": 9, "b_c": 1, "d": 0},
            "groups": 4,
        }
    )
    assert [text.rsplit(": ", 1)[-1] for text in told[:3]] == ["b c.", "d.", "d."]
    assert len(told) == 4


def test_a_heat_map_runs_from_lowest_to_highest() -> None:
    map_HW = np.array([[-3.0, -1.0], [1.0, 0.0]])
    assert heatmap.stretched(map_HW).tolist() == [[0.0, 0.5], [1.0, 0.75]]
    assert (heatmap.stretched(np.full((2, 2), 5.0)) == 0).all()
    low, high = heatmap.heat(map_HW)[0, 0].astype(int), heatmap.heat(map_HW)[1, 0].astype(int)
    assert low[2] > low[0]
    assert high[0] > high[2]


def test_a_heat_map_without_opacity_leaves_the_picture() -> None:
    picture_HW3, mask_HW = cell_picture("red", 3)
    map_HW = mask_HW.astype(np.float32)
    np.testing.assert_array_equal(heatmap.superimposed(picture_HW3, map_HW, 0), picture_HW3)
    np.testing.assert_array_equal(heatmap.superimposed(picture_HW3, map_HW, 1), heatmap.heat(map_HW))
    painted = (heatmap.outlined(picture_HW3, mask_HW > 0) == 255).all(-1)
    assert painted.sum() == 4 * 13
    assert (heatmap.pointed(picture_HW3, map_HW) != picture_HW3).any()


@pytest.mark.parametrize("size", [(20, 20), (300, 500)])
def test_a_caption_is_above_the_whole_picture(size: tuple[int, int]) -> None:
    picture = np.full((*size, 3), 100, np.uint8)
    captioned = heatmap.captioned(picture, "lymphocyte 99.8 %")
    assert captioned.shape[1] == max(256, size[1])
    below = captioned[-round(size[0] * captioned.shape[1] / size[1]) :]
    assert (below == 100).all()
    assert (captioned[: -len(below)] < 100).any()
