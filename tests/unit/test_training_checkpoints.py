"""Checkpoints: what is kept, what stands beside them, and that a training goes on from one exactly."""

import dataclasses
from pathlib import Path

import pytest

from cytoloop.artifacts import read_json
from cytoloop.errors import ModelError
from cytoloop.model import checkpoints
from cytoloop.model import training as trainer
from cytoloop.model.architectures import build
from cytoloop.model.bundle import Description, arrays_of, write_bundle
from cytoloop.model.data import PictureStream
from cytoloop.params import ModelParams, TrainParams
from tables import CODEC, mask_of, row, write_table

MODEL = ModelParams(
    architecture="leanunet", num_classes=3, image_width=32, image_height=32, num_layers=2, base_filters=4,
    normalization="batch", dropout_rate=0.2,
)  # fmt: skip
PARAMS = TrainParams(epochs=4, batch_size=4, schedule="piecewise", learning_rate=0.01, rates={3: 0.002}, checkpoints=4)
ROWS = [row(f"p{i}", mask_HW=mask_of(32, 32, 8 + i)) for i in range(12)]

Streams = tuple[PictureStream, PictureStream]


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Streams:
    table = write_table(tmp_path_factory.mktemp("table"), ROWS)
    train, val = {r.id for r in ROWS[:8]}, {r.id for r in ROWS[8:]}
    return PictureStream([(table, train)], MODEL, 4), PictureStream([(table, val)], MODEL, 4)


def begin(streams: Streams, folder: Path, model: ModelParams = MODEL, **changes: object) -> trainer.Training:
    training = trainer.start(build, model, PARAMS.model_copy(update=changes), streams[0])
    checkpoints.begin(training, folder)
    return training


def run(training: trainer.Training, streams: Streams, folder: Path) -> trainer.Training:
    trainer.score_start(training, streams[1])
    trainer.run(training, *streams, lambda state: checkpoints.save(state, folder))
    return training


@pytest.fixture(scope="module")
def undisturbed(streams: Streams, tmp_path_factory: pytest.TempPathFactory) -> tuple[trainer.Training, Path]:
    """A finished training, and the folder of all its checkpoints."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return run(begin(streams, folder), streams, folder), folder


def assert_alike(one: trainer.Training, other: trainer.Training) -> None:
    assert one.progress == other.progress
    assert_same_arrays(one, other)


def assert_same_arrays(one: trainer.Training, other: trainer.Training) -> None:
    ours, theirs = arrays_of(one.network), arrays_of(other.network)
    assert [name for name, array in theirs.items() if ours[name].tobytes() != array.tobytes()] == []


@pytest.fixture(scope="module")
def fresh(streams: Streams) -> trainer.Training:
    """A training whose numbers a test may set."""
    return trainer.start(build, MODEL, PARAMS, streams[0])


def cut_short(path: Path, to: int = 1000) -> None:
    path.write_bytes(path.read_bytes()[:to])


@pytest.mark.parametrize(
    ("asked", "best_epoch", "kept"),
    [(0, 1, [5]), (1, 1, [2, 5]), (2, 0, [1, 4, 5]), (2, 3, [4, 5]), (9, 0, [1, 2, 3, 4, 5]), (2, -1, [4, 5])],
)
def test_the_best_and_the_newest_are_kept(
    fresh: trainer.Training, tmp_path: Path, asked: int, best_epoch: int, kept: list[int]
) -> None:
    params = PARAMS.model_copy(update={"checkpoints": asked})
    training = dataclasses.replace(fresh, params=params, progress=trainer.Progress())
    for epoch in range(1, 6):
        line = {"epoch": float(epoch), "learning_rate": 0.01}
        training.progress = trainer.Progress(
            epoch, best_epoch=min(best_epoch, epoch - 1), history=[*training.progress.history, line]
        )
        checkpoints.save(training, tmp_path)
    files = [f"epoch-{epoch:04d}.{kind}" for epoch in kept for kind in ("json", "npz")]
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    checkpoints.copy_kept(training, tmp_path, tmp_path / "model")
    assert (tmp_path / "model").exists() == bool(asked)
    if asked:
        assert sorted(path.name for path in (tmp_path / "model").iterdir()) == files


def test_the_facts_beside_a_checkpoint_are_those_of_its_epoch(undisturbed: tuple[trainer.Training, Path]) -> None:
    training, folder = undisturbed
    history = training.progress.history
    for epoch, rate in ((1, 0.01), (2, 0.01), (3, 0.002), (4, 0.002)):
        facts = read_json(folder / f"epoch-{epoch:04d}.json")
        scores = [line["val_macro_dice"] for line in history[:epoch]]
        assert (facts["epoch"], facts["batch_size"], facts["learning_rate"]) == (epoch, 4, rate)
        assert facts["best_val_macro_dice"] == pytest.approx(max(scores), rel=1e-5)
        assert facts["best_epoch"] == 1 + scores.index(max(scores))
        assert (facts["channel_mean"], facts["channel_std"]) == (None, None)
        assert [line["epoch"] for line in facts["epochs"]] == list(range(1, epoch + 1))
        assert facts["epochs"][-1] == {
            name: pytest.approx(value, rel=1e-5) for name, value in history[epoch - 1].items()
        }


def test_each_epoch_tells_the_dice_of_each_class_that_val_has(undisturbed: tuple[trainer.Training, Path]) -> None:
    for line in undisturbed[0].progress.history:
        of_class = {name: value for name, value in line.items() if name.startswith("val_dice/")}
        assert list(of_class) == [f"val_dice/{name}" for name in CODEC.names[1:]]
        assert sum(of_class.values()) / len(of_class) == pytest.approx(line["val_macro_dice"])


def test_the_statistics_of_a_standardized_training_set_stand_there(fresh: trainer.Training) -> None:
    measured = {"channel_mean": (180.0, 120.5, 190.0), "channel_std": (9.0, 8.0, 7.5)}
    training = dataclasses.replace(
        fresh,
        model=MODEL.model_copy(update=measured),
        progress=trainer.Progress(1, history=[{"epoch": 1.0, "learning_rate": 0.01}]),
    )
    facts = checkpoints.facts(training)
    assert {name: facts[name] for name in measured} == measured


def test_from_a_checkpoint_on_it_is_the_same_training(
    streams: Streams, undisturbed: tuple[trainer.Training, Path], tmp_path: Path
) -> None:
    training = begin(streams, tmp_path, start_from=str(undisturbed[1] / "epoch-0002.npz"))
    assert training.progress.epoch == 2
    assert_alike(run(training, streams, tmp_path), undisturbed[0])
    for name in ("epoch-0003.json", "epoch-0003.npz", "epoch-0004.json", "epoch-0004.npz"):
        assert (tmp_path / name).read_bytes() == (undisturbed[1] / name).read_bytes()


def test_from_the_last_checkpoint_nothing_is_trained(
    streams: Streams, undisturbed: tuple[trainer.Training, Path], tmp_path: Path
) -> None:
    start_from = str(undisturbed[1] / "epoch-0004.npz")
    assert_alike(run(begin(streams, tmp_path, start_from=start_from), streams, tmp_path), undisturbed[0])
    checkpoints.copy_kept(undisturbed[0], tmp_path / "nowhere", tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_what_was_killed_goes_before_where_it_started_from(
    streams: Streams, undisturbed: tuple[trainer.Training, Path], tmp_path: Path
) -> None:
    (tmp_path / "epoch-0003.npz").write_bytes((undisturbed[1] / "epoch-0003.npz").read_bytes())
    start_from = str(undisturbed[1] / "epoch-0001.npz")
    assert begin(streams, tmp_path, start_from=start_from).progress.epoch == 3


def test_a_damaged_state_is_named_and_the_one_before_it_taken(
    streams: Streams, undisturbed: tuple[trainer.Training, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for epoch in (1, 2, 3):
        name = f"epoch-{epoch:04d}.npz"
        (tmp_path / name).write_bytes((undisturbed[1] / name).read_bytes())
    cut_short(tmp_path / "epoch-0003.npz")
    training = begin(streams, tmp_path)
    said = capfd.readouterr().err
    assert training.progress.epoch == 2
    assert f"{tmp_path / 'epoch-0003.npz'}: damaged" in said
    assert "epoch-0002" not in said
    assert training.progress.history == undisturbed[0].progress.history[:2]


def test_with_nothing_but_damage_it_begins_anew(
    streams: Streams, undisturbed: tuple[trainer.Training, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = (undisturbed[1] / "epoch-0002.npz").read_bytes()
    middle = len(whole) // 2
    (tmp_path / "epoch-0001.npz").write_bytes(b"")
    (tmp_path / "epoch-0002.npz").write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    (tmp_path / "epoch-0003.npz").write_bytes(whole[:-30])
    training = begin(streams, tmp_path)
    assert capfd.readouterr().err.count("damaged") == 3
    assert_alike(training, begin(streams, tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("model", "train", "difference"),
    [
        ({"base_filters": 8}, {}, r"stem/kernel \(3, 3, 3, 4\) there, stem/kernel \(3, 3, 3, 8\) by the params"),
        ({"normalization": "none"}, {}, r"stem_norm/gamma \(4,\) there, stem/bias \(4,\) by"),
        ({}, {"ema_momentum": None}, "_average"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused_at_the_first_difference(
    streams: Streams, undisturbed: tuple[trainer.Training, Path], model: dict, train: dict, difference: str
) -> None:
    training = trainer.start(build, MODEL.model_copy(update=model), PARAMS.model_copy(update=train), streams[0])
    before = {name: array.copy() for name, array in arrays_of(training.network).items()}
    path = undisturbed[1] / "epoch-0004.npz"
    with pytest.raises(ModelError, match=difference):
        checkpoints.load(training, path)
    assert training.progress == trainer.Progress()
    assert all((array == before[name]).all() for name, array in arrays_of(training.network).items())


def test_a_damaged_start_is_refused(
    streams: Streams, undisturbed: tuple[trainer.Training, Path], tmp_path: Path
) -> None:
    path = tmp_path / "epoch-0001.npz"
    path.write_bytes((undisturbed[1] / path.name).read_bytes())
    cut_short(path)
    with pytest.raises(ModelError, match=r"train\.start_from: .*epoch-0001\.npz: damaged"):
        begin(streams, tmp_path / "nowhere", start_from=str(path))


@pytest.fixture(scope="module")
def bundle(undisturbed: tuple[trainer.Training, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    write_bundle(folder, undisturbed[0].network, Description(MODEL, CODEC, 0.5, 0, {}))
    return folder


def test_from_a_bundle_it_starts_at_the_bundles_score(
    streams: Streams, undisturbed: tuple[trainer.Training, Path], bundle: Path, tmp_path: Path
) -> None:
    training = begin(streams, tmp_path, start_from=str(bundle))
    trainer.score_start(training, streams[1])
    assert training.progress.best_score == undisturbed[0].progress.best_score
    assert training.progress.epoch == 0
    assert int(training.network.optimizer.iterations) == 0
    with trainer.averaged(training):  # before the first step there is no average
        assert_same_arrays(training, undisturbed[0])


def test_training_from_a_bundle_never_ends_below_it(
    streams: Streams, undisturbed: tuple[trainer.Training, Path], bundle: Path, tmp_path: Path
) -> None:
    training = run(
        begin(streams, tmp_path, start_from=str(bundle), epochs=1, learning_rate=10.0, rates={1: 10.0}),
        streams,
        tmp_path,
    )
    assert training.progress.history[0]["val_macro_dice"] < undisturbed[0].progress.best_score
    assert training.progress.best_epoch == -1
    assert_same_arrays(training, undisturbed[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 5}, r"a model with 3 outputs, where model\.num_classes = 5"),
        ({"base_filters": 8}, r"of another network: array 'stem/kernel' has shape"),
    ],
)
def test_a_bundle_of_another_network_is_refused(
    streams: Streams, bundle: Path, tmp_path: Path, changes: dict, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        begin(streams, tmp_path, MODEL.model_copy(update=changes), start_from=str(bundle))


def test_the_digest_is_of_the_weights_that_it_starts_from(
    undisturbed: tuple[trainer.Training, Path], bundle: Path, tmp_path: Path
) -> None:
    digests = [
        checkpoints.start_digest(PARAMS.model_copy(update={"start_from": str(path)}))["start_from"]
        for path in (undisturbed[1] / "epoch-0001.npz", undisturbed[1] / "epoch-0002.npz", bundle)
    ]
    assert len(set(digests)) == 3
    assert digests[2] == read_json(bundle / "bundle.json")["arrays_sha256"]
    assert checkpoints.start_digest(PARAMS) == {}
    for missing in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(ModelError, match=r"train\.start_from: .* not found"):
            checkpoints.start_digest(PARAMS.model_copy(update={"start_from": str(missing)}))
