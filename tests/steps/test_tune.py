"""The search: what it writes, what it sees, and that an interrupted one ends as an undisturbed one."""

import csv
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from cytoloop.artifacts import read_json
from cytoloop.errors import CytoloopError, ModelError
from cytoloop.model.data import TrainingFolders
from cytoloop.params import AugmentParams, ModelParams, TrainParams, TuneParams
from cytoloop.steps import tune as step
from cytoloop.tuning import search as search_module
from cytoloop.tuning.candidate import AfterEpoch, Data, Unbuildable, share_of, shortened
from cytoloop.tuning.limits import Cost
from cytoloop.tuning.space import Sections
from cytoloop.tuning.study import do_again
from mlflow_store import store
from tables import row, write_table

__all__ = ["store"]

MODEL = ModelParams(
    architecture="leanunet", num_classes=3, image_width=32, image_height=32, num_layers=2, base_filters=4
)
SPACE = {
    "model.base_filters": {"choices": [2, 4]},
    "model.base_kernels": {"choices": [3, 5]},
    "model.num_layers": {"low": 2, "high": 3},
    "train.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
}
SMALL = {name: SPACE[name] for name in list(SPACE)[:3]}


@pytest.fixture
def data(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CYTOLOOP_WORK", str(tmp_path / "work"))
    rows = [row(f"p{i:02d}", mask_HW=np.full((32, 32), i % 3, np.uint8)) for i in range(12)]
    write_table(tmp_path / "raw", rows)
    write_table(tmp_path / "augmented", [])
    (tmp_path / "splits").mkdir()
    splits = ["train", "train", "val", "test"] * 3
    lines = [f"{r.id},{r.id},{split}," for r, split in zip(rows, splits, strict=True)]
    (tmp_path / "splits/splits.csv").write_text("\n".join(["id,group,split,reason", *lines]) + "\n")
    return tmp_path


def search(data: Path, trials: int, augment: dict | None = None, train: dict | None = None, **tune: object) -> dict:
    """Run the step; what it wrote and returned."""
    output = data / "best_params"
    output.mkdir(exist_ok=True)
    inputs = [data / "raw", data / "splits", data / "augmented"]
    params = TuneParams.model_validate({"trials": trials, "epochs": 1, "pictures": 6, "space": SPACE, **tune})
    sections = AugmentParams(**(augment or {})), MODEL, TrainParams(batch_size=2, **(train or {}))
    numbers = step.tune(*inputs, output, params, *sections)
    with (output / "trials.csv").open() as file:
        return {**numbers, "best": read_json(output / "best_params.json"), "trials": list(csv.DictReader(file))}


class Known:
    """A candidate whose scores are a formula of its settings, and that nothing is trained for."""

    tried: list[Sections]

    def __init__(self, score: Callable[[Sections], float], epochs: int = 1) -> None:
        self.score, self.epochs = score, epochs
        self.tried, self.epochs_trained = [], 0
        self.cost: Callable[[Sections], Cost] = lambda s: Cost(100 * s.model.base_filters, 10.0)
        self.before: Callable[[int], None] = lambda number: None

    def prepare(self, sections: Sections, data: Data, timed: bool) -> "Known._One":
        return self._One(self, sections, self.cost(sections))

    class _One:
        def __init__(self, known: "Known", sections: Sections, cost: Cost) -> None:
            self.known, self.sections, self.cost = known, sections, cost

        def train(self, after_epoch: AfterEpoch) -> float:
            self.known.tried.append(self.sections)
            self.known.before(len(self.known.tried))
            score = self.known.score(self.sections)
            for epoch in range(1, self.known.epochs + 1):
                self.known.epochs_trained += 1
                after_epoch(epoch, score * epoch / self.known.epochs)
            return score


def small_is_good(sections: Sections) -> float:
    model, train = sections.model, sections.train
    return 1 / (model.base_filters + model.num_layers + model.base_kernels + abs(np.log10(train.learning_rate) + 2))


def known(
    monkeypatch: pytest.MonkeyPatch,
    score: Callable[[Sections], float] = small_is_good,
    epochs: int = 1,
    stored: bool = False,
) -> Known:
    """Searches train nothing from here on, and keep their study in memory unless it is to be `stored`."""
    made = Known(score, epochs)
    monkeypatch.setattr(step, "prepare", made.prepare)
    if not stored:
        monkeypatch.setattr(step, "open_study", in_memory)
    return made


@contextmanager
def in_memory(_: object, directions: list[str], first: dict[str, object]) -> Iterator[object]:
    with warnings.catch_warnings(action="ignore"):
        study = optuna.create_study(directions=directions)
        study.enqueue_trial(first)
        yield study


def test_a_real_search_ends_with_a_choice_of_the_space_and_again_byte_for_byte(data: Path) -> None:
    found = search(data, 2)
    assert set(found["best"]["model"]) == {"base_filters", "base_kernels", "num_layers"}
    assert set(found["best"]["train"]) == {"learning_rate"}
    assert found["best"]["augment"] == {}
    assert found["best"]["model"]["base_filters"] in (2, 4)
    assert 1e-4 <= found["best"]["train"]["learning_rate"] <= 1e-1
    first = found["trials"][0]  # the sections as they are come first
    assert (first["model.base_filters"], first["model.base_kernels"], first["model.num_layers"]) == ("4", "3", "2")
    assert float(first["train.learning_rate"]) == 3e-3
    assert all(line["epochs"] == "1" and int(line["parameters"]) > 0 for line in found["trials"])
    assert found["best"]["val_macro_dice"] == max(float(line["val_macro_dice"]) for line in found["trials"])
    assert not list((data / "work").iterdir())
    before = {path.name: path.read_bytes() for path in (data / "best_params").iterdir()}
    search(data, 2)
    assert {path.name: path.read_bytes() for path in (data / "best_params").iterdir()} == before


def test_all_three_sections_can_be_searched_with_conditional_settings(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = {
        "model.architecture": {"choices": ["leanunet", "flexunet", "swinunet"]},
        "model.base_kernels": {"choices": [3, 5]},
        "model.dilation": {"choices": [1, 2]},
        "model.dropout_rate": {"low": 0, "high": 0.2, "step": 0.05},
        "train.loss": {"choices": ["cce_dice", "dice"]},
        "train.clip_norm": {"choices": [None, 1.0]},
        "augment.strength": {"low": 0.0, "high": 2.0},
    }
    made = known(monkeypatch, lambda s: s.model.dilation + s.augment.strength + (s.model.architecture == "flexunet"))
    found = search(data, 30, augment={"online": True}, space=space, train={"loss": "dice"})
    names = {s.model.architecture for s in made.tried}
    assert names == {"leanunet", "flexunet", "swinunet"}
    assert all(s.model.dilation == 1 for s in made.tried if s.model.architecture != "flexunet")
    assert all(s.model.base_kernels == 3 for s in made.tried if s.model.architecture == "swinunet")
    assert {s.train.loss for s in made.tried} == {"cce_dice", "dice"}
    assert {s.train.clip_norm for s in made.tried} == {None, 1.0}
    assert found["best"]["model"]["architecture"] == "flexunet"
    assert found["best"]["augment"]["strength"] > 1.5
    assert all(line["model.dilation"] == "" for line in found["trials"] if line["model.architecture"] == "leanunet")


@pytest.mark.parametrize("interrupted_at", [1, 3])
def test_an_interrupted_search_goes_on_and_ends_alike(
    data: Path, monkeypatch: pytest.MonkeyPatch, interrupted_at: int
) -> None:
    def stop(number: int) -> None:
        if number == interrupted_at:
            raise KeyboardInterrupt

    undisturbed_tries = known(monkeypatch, stored=True)
    undisturbed = search(data, 8)
    made = known(monkeypatch, stored=True)
    made.before = stop
    with pytest.raises(KeyboardInterrupt):
        search(data, 8)
    assert len(made.tried) == interrupted_at
    made.before = lambda number: None
    resumed = search(data, 8)
    assert resumed["best"]["model"] == undisturbed["best"]["model"]
    assert resumed["best"]["train"] == undisturbed["best"]["train"]
    made.tried.pop(interrupted_at - 1)
    assert made.tried == undisturbed_tries.tried
    assert [line["state"] for line in resumed["trials"]].count("complete") == 8
    assert [line["retry_of"] for line in resumed["trials"] if line["retry_of"]] == [str(interrupted_at - 1)]


def test_only_train_and_val_are_seen(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cytoloop.tuning import candidate

    seen: list[int] = []
    real = candidate.training_streams

    def look(*given: object) -> object:
        streams = real(*given)
        seen.append(sum(stream.pictures for stream in streams))
        return streams

    monkeypatch.setattr(candidate, "training_streams", look)
    search(data, 1)
    assert set(seen) == {9}  # 6 train + 3 val of 12


def test_no_trials_keep_the_sections(data: Path) -> None:
    nothing = {"model": {}, "train": {}, "augment": {}, "val_macro_dice": None}
    assert search(data, 0)["best"] == nothing


def test_trials_start_fresh_for_the_searchs_epochs(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = known(monkeypatch)
    search(data, 1, train={"start_from": "models/segmenter", "epochs": 40})
    assert (made.tried[0].train.start_from, made.tried[0].train.epochs) == (None, 1)


@pytest.mark.parametrize(
    ("momentum", "share", "expected"),
    [(0.99, 0.1, 0.9), (0.99, 1, 0.99), (0.99, 2, 0.99), (0.97, 0.02, None), (None, 0.1, None)],
)
def test_a_trial_averages_over_the_same_share_of_its_steps(
    momentum: float | None, share: float, expected: float | None
) -> None:
    average = shortened(TrainParams(ema_momentum=momentum), share).ema_momentum
    assert average == (expected and pytest.approx(expected))


def test_how_much_of_the_training_a_trial_is(data: Path) -> None:
    folders = TrainingFolders(data / "raw", data / "splits", data / "augmented")
    declared = Sections(MODEL, TrainParams(batch_size=2, epochs=10), AugmentParams())
    assert share_of(folders, declared, epochs=2, pictures=100) == pytest.approx(2 / 10)  # 6 pictures are all
    assert share_of(folders, declared, epochs=2, pictures=3) == pytest.approx(2 / 10 * 1 / 3)  # of 3, a whole batch


def test_a_small_space_is_trained_once_a_choice(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = known(monkeypatch)
    found = search(data, 14, space={"model.num_layers": {"low": 2, "high": 3}})
    assert len(made.tried) == 2
    assert found["trials"][-1]["state"] == "complete"
    assert found["best"]["model"] == {"num_layers": 2}


def test_what_is_beyond_a_limit_is_skipped_untrained_and_told(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = known(monkeypatch)
    found = search(data, 8, space=SMALL, limits={"parameters": 300})
    skipped = [line for line in found["trials"] if line["state"] == "skipped"]
    assert skipped
    assert found["skipped"] == len(skipped)
    assert all(line["reason"] == "parameters 400 is beyond 300" and line["epochs"] == "0" for line in skipped)
    assert all(sections.model.base_filters == 2 for sections in made.tried)
    assert found["best"]["model"]["base_filters"] == 2  # although the sections as they are have 4
    assert made.tried


def test_real_costs_are_limited_before_any_training(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr("cytoloop.tuning.candidate.trainer.run", never)
    for limits, said in (({"parameters": 10}, "parameters"), ({"memory_mib": 0.01}, "memory_mib"),
                         ({"latency_ms": 1e-6}, "latency_ms")):  # fmt: skip
        with pytest.raises(
            CytoloopError, match=rf"none of 1 trials was trained.*{said} [0-9.]+ is beyond .*tune\.limits"
        ):
            search(data, 1, limits=limits)


def test_too_many_levels_for_the_picture_are_skipped(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known(monkeypatch)
    found = search(data, 12, space={"model.num_layers": {"low": 2, "high": 7}})
    skipped = [line for line in found["trials"] if line["state"] == "skipped"]
    assert any("not divisible by 64" in line["reason"] for line in skipped)
    assert found["trials"][0]["state"] == "complete"


def test_what_the_framework_refuses_is_skipped(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = known(monkeypatch)

    def prepare(sections: Sections, data: Data, timed: bool) -> object:
        if sections.model.base_filters == 2:
            raise Unbuildable("it cannot be built: there is not enough memory for it")
        return made.prepare(sections, data, timed)

    monkeypatch.setattr(step, "prepare", prepare)
    found = search(data, 8, space=SMALL)
    assert {line["reason"] for line in found["trials"] if line["model.base_filters"] == "2"} == {
        "it cannot be built: there is not enough memory for it"
    }
    assert found["best"]["model"]["base_filters"] == 4


def test_hopeless_trials_are_ended_early(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = known(monkeypatch, epochs=8)
    whole = search(data, 30, epochs=8)
    unpruned = made.epochs_trained
    made = known(monkeypatch, epochs=8)
    found = search(data, 30, epochs=8, pruning={"warmup_epochs": 3})
    pruned = [line for line in found["trials"] if line["state"] == "pruned"]
    assert len(pruned) == found["pruned"] > 8
    assert {line["epochs"] for line in pruned} <= {"3", "6"}
    assert made.epochs_trained < 0.75 * unpruned
    assert found["val_macro_dice"] >= 0.95 * whole["val_macro_dice"]
    assert found["trials"][0]["state"] == "complete"


def test_a_loss_that_is_no_number_ends_the_trial_and_not_the_search(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverges(sections: Sections) -> float:
        if sections.train.learning_rate > 0.01:
            raise ModelError("epoch 1: the loss is not a number")
        return 0.5

    known(monkeypatch, diverges)
    found = search(data, 10)
    ended = [line for line in found["trials"] if float(line["train.learning_rate"]) > 0.01]
    assert ended
    assert {(line["state"], line["val_macro_dice"]) for line in ended} == {("pruned", "0.0")}


def test_the_budget_in_minutes_counts_what_was_spent_before(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(search_module, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=time.sleep))

    def take_12_seconds(number: int) -> None:
        clock[0] += 12

    def stop_in_the_second(number: int) -> None:
        take_12_seconds(number)
        if number == 2:
            raise KeyboardInterrupt

    made = known(monkeypatch, stored=True)
    made.before = stop_in_the_second
    with pytest.raises(KeyboardInterrupt):
        search(data, 50, minutes=0.5)
    made.before = take_12_seconds
    resumed = search(data, 50, minutes=0.5)
    assert [line["state"] for line in resumed["trials"]].count("complete") == 3
    assert clock[0] == 4 * 12  # the trial that was interrupted in its first epoch is not counted


def test_a_trial_done_again_says_so_also_where_another_had_tried_its_choice_meanwhile() -> None:
    params = TuneParams.model_validate({"trials": 2, "space": {"model.base_filters": {"choices": [4]}}})
    tried = {
        "params": {"model.base_filters": 4},
        "distributions": {"model.base_filters": optuna.distributions.CategoricalDistribution([4])},
    }
    with warnings.catch_warnings(action="ignore"):
        study = optuna.create_study(direction="maximize")
        study.add_trial(optuna.create_trial(state=TrialState.FAIL, user_attrs={"seconds": 12.0}, **tried))
        do_again(study, study.get_trials()[0])
        study.add_trial(optuna.create_trial(value=0.5, **tried))
        declared = Sections(MODEL, TrainParams(), AugmentParams())
        search_module.Search(study, params, declared, lambda sections: pytest.fail("trained twice")).run()
    again = study.get_trials()[1]
    assert (again.state, again.user_attrs) == (TrialState.COMPLETE, {"retry_of": 0, "copy_of": 2, "seconds": 0.0})


def test_a_search_can_be_lengthened(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYTOLOOP_STUDY_STORAGE", f"sqlite:///{data / 'study.db'}")
    made = known(monkeypatch, stored=True)
    search(data, 3)
    longer = search(data, 8)
    assert len(made.tried) == len(longer["trials"]) == 8
    monkeypatch.delenv("CYTOLOOP_STUDY_STORAGE")
    at_once = search(data, 8)
    assert at_once["best"] == longer["best"]


def test_latency_as_a_second_objective_keeps_the_best_dice(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = known(monkeypatch, lambda s: 0.1 * s.model.base_filters)
    made.cost = lambda s: Cost(100, 10.0, latency_ms=float(s.model.base_filters + s.model.num_layers))
    found = search(data, 10, space=SMALL, latency=True)
    assert found["best"]["model"]["base_filters"] == 4
    assert found["best"]["latency_ms"] == 4 + int(found["best"]["model"]["num_layers"])
    assert {float(line["latency_ms"]) for line in found["trials"]} == {4.0, 5.0, 6.0, 7.0}
    assert (data / "best_params" / "pareto.png").is_file()
    assert "latency_ms" not in search(data, 1, limits={"latency_ms": 100})["best"]  # measured, and no objective
