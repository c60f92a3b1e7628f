"""The search: what it writes, what it sees, and that an interrupted one ends as an undisturbed one."""

from pathlib import Path

import numpy as np
import pytest

from cytoloop.artifacts import read_json
from cytoloop.model.data import PictureStream
from cytoloop.params import AugmentParams, ModelParams, TrainParams, TuneParams
from cytoloop.steps import tune as step
from tables import row, write_table

MODEL = ModelParams(
    architecture="leanunet", num_classes=3, image_width=32, image_height=32, num_layers=2, base_filters=4
)
SPACE = {"base_filters": (2, 4), "base_kernels": (3, 5), "num_layers": (2, 3)}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CYTOLOOP_WORK", str(tmp_path / "work"))
    rows = [row(f"p{i:02d}", mask_HW=np.full((32, 32), i % 3, np.uint8)) for i in range(12)]
    write_table(tmp_path / "raw", rows)
    write_table(tmp_path / "augmented", [])
    (tmp_path / "splits").mkdir()
    splits = ["train", "train", "val", "test"] * 3
    lines = [f"{r.id},{r.id},{split}," for r, split in zip(rows, splits, strict=True)]
    (tmp_path / "splits/splits.csv").write_text("\n".join(["id,group,split,reason", *lines]) + "\n")
    return tmp_path


def search(data: Path, trials: int, **train: object) -> dict:
    output = data / "best_params"
    output.mkdir(exist_ok=True)
    inputs = [data / "raw", data / "splits", data / "augmented"]
    params = TuneParams(trials=trials, epochs=1, pictures=6, **SPACE)
    step.tune(*inputs, output, params, AugmentParams(), MODEL, TrainParams(batch_size=2, **train))
    return {"best": read_json(output / "best_params.json"), "trials": (output / "trials.csv").read_text()}


def test_a_real_search_ends_with_a_choice_of_the_space(data: Path) -> None:
    found = search(data, 2)
    assert set(found["best"]["model"]) == set(SPACE)
    assert all(found["best"]["model"][name] in choices for name, choices in SPACE.items())
    lines = found["trials"].splitlines()
    assert lines[0] == "trial,state,val_macro_dice,base_filters,base_kernels,num_layers"
    assert lines[1].endswith(",4,3,2")  # the model section as it is comes first
    assert len(lines) == 3
    assert not list((data / "work").iterdir())


def test_an_interrupted_search_goes_on_and_ends_alike(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[dict] = []
    stop_at = [99]

    def known(model: ModelParams, params: TrainParams, stream: PictureStream, val: PictureStream) -> float:
        tried.append({"base_filters": model.base_filters, "num_layers": model.num_layers})
        if len(tried) == stop_at[0]:
            raise KeyboardInterrupt
        return 1 / (model.base_filters + model.num_layers + model.base_kernels)

    monkeypatch.setattr(step, "_train_briefly", known)
    undisturbed = search(data, 5)
    tried.clear()
    stop_at[0] = 2
    with pytest.raises(KeyboardInterrupt):
        search(data, 5)
    first_part = len(tried)
    resumed = search(data, 5)
    assert resumed["best"] == undisturbed["best"]
    assert first_part == 2
    finished = [line for line in resumed["trials"].splitlines() if ",complete," in line]
    assert len(finished) == 5


def test_only_train_and_val_are_seen(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def look(model: ModelParams, params: TrainParams, stream: PictureStream, val: PictureStream) -> float:
        seen.append(stream.pictures + val.pictures)
        return 0.5

    monkeypatch.setattr(step, "_train_briefly", look)
    search(data, 1)
    assert seen == [9]  # 6 train + 3 val of 12


def test_no_trials_keep_the_model_section(data: Path) -> None:
    assert search(data, 0)["best"] == {"model": {}, "val_macro_dice": None}


def test_trials_start_fresh_wherever_the_training_will_start_from(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[str | None] = []

    def look(model: ModelParams, params: TrainParams, stream: PictureStream, val: PictureStream) -> float:
        starts.append(params.start_from)
        return 0.5

    monkeypatch.setattr(step, "_train_briefly", look)
    search(data, 1, start_from="models/segmenter")
    assert starts == [None]
