"""What the search is worth: best val macro Dice after N minutes, and what pruning saves.

    python tests/benchmarks/tuning.py run RESULTS.jsonl [--data default dsb2018] [--arms tpe random none unpruned]
        [--seeds 0 1 2] [--minutes 5] [--epochs 8] [--pictures 192] [--val-pictures 192] [--side 256]
    python tests/benchmarks/tuning.py show RESULTS.jsonl

A cell is one data set, one arm and one seed; `run` does those that RESULTS lacks, each in a process of its
own, and appends a line for each, so that it can be interrupted, and single cells can be asked for.

The arms, each given the same minutes of processor time from the first network's building on (so that other
load on the machine costs a cell time, but no trials; for the same reason give each `run` a processor of its
own, by `taskset -c 0`):

* `tpe`: the search as recipes have it, TPE with pruning;
* `unpruned`: the same TPE without pruning;
* `random`: the same space and budget, every trial drawn at random and trained to its end;
* `none`: no search. The sections as they are, trained again and again with another seed of the training, and
  the best of them kept: whoever does not search can spend the time on that, and it takes the best of as many
  looks at val. (One long training would be judged after more epochs than a trial has, which says nothing of
  the settings.)

Every trial of every arm has the same epochs, the same schedule over them, and the same train and val pictures,
at most --pictures and --val-pictures, shown to networks of --side pixels (the recipe's where it is not given);
the first trial of the three searches is the sections as they are. The score of an arm after N minutes is the
best epoch's val macro Dice of a trial that had *ended* by then, and 0 where none had. It is the searches' own
measure: val chooses, so that the winner's figure is optimistic, more so for arms with more trials.

What pruning saves: the time at which `unpruned` had its best score, over the time at which `tpe` had at least
that; both with the same seed. Where `tpe` never had it in its minutes, the ratio is below the one printed
with `<`, and counts as 0 in the median. The medians are over seeds.

`default` is the embedded smear. `dsb2018` needs $CYTOLOOP_DATA, the folder that holds
dsb2018/stage1_train.zip; it is left out where there is none.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"
ARMS = ("tpe", "random", "none", "unpruned")
SETTINGS = ("minutes", "epochs", "pictures", "val_pictures", "side")
SPACE: dict[str, Any] = {
    "model.base_filters": {"choices": [8, 12, 16, 24]},
    "model.base_kernels": {"choices": [3, 5]},
    "model.num_layers": {"low": 3, "high": 5},
    "model.dropout_rate": {"low": 0, "high": 0.2, "step": 0.05},
    "train.learning_rate": {"low": 0.0005, "high": 0.03, "log": True},
}
LOSSES = {
    "cce_dice": ["cce_dice", "categorical_crossentropy"],
    "bce_picture_dice": ["bce_picture_dice", "bce_dice", "binary_crossentropy"],
}
PRUNING = {"keep": 0.5}
WITHOUT_END = 10_000


def main() -> None:
    told = _arguments()
    if told.command == "show":
        show(told.results)
    elif told.command == "cell":
        print(json.dumps(run_cell(told)))
    else:
        run(told)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmarks of the search.")
    parser.add_argument("command", choices=["run", "cell", "show"])
    parser.add_argument("results", type=Path)
    parser.add_argument("--data", nargs="+", default=["default", "dsb2018"], choices=["default", "dsb2018"])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=192)
    parser.add_argument("--val-pictures", type=int, default=192)
    parser.add_argument("--side", type=int, default=0)
    parser.add_argument("--tables", type=Path, help="of a cell: where its raw, splits and augmented lie")
    return parser.parse_args()


def run(told: argparse.Namespace) -> None:
    """All cells that are asked for and that the results lack."""
    done = {_cell_of(line) for line in _lines(told.results)}
    for data in told.data:
        source = _source(data)
        if source is None:
            print(f"{data}: left out, $CYTOLOOP_DATA has none", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as place:
            _make_tables(data, source, Path(place))
            for seed in told.seeds:
                for arm in told.arms:
                    cell = {"data": data, "arm": arm, "seed": seed, **_settings(told)}
                    if _cell_of(cell) not in done:
                        _append(told.results, _in_a_process(cell, Path(place)))
    show(told.results)


def _settings(told: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(told, name) for name in SETTINGS}


def _cell_of(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line[name] for name in ("data", "arm", "seed", *SETTINGS))


def _lines(results: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in results.read_text("utf-8").splitlines()] if results.is_file() else []


def _append(results: Path, line: dict[str, Any]) -> None:
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(
        f"{line['data']:8} {line['arm']:8} seed {line['seed']}: {len(line['trials'])} trials, best {line['best']:.4f}"
    )


def _source(data: str) -> str | None:
    """Where the pictures are; None where they are not."""
    if data == "default":
        return ""
    source = Path(os.environ.get("CYTOLOOP_DATA", ROOT.parent / "shared/data")) / "dsb2018" / "stage1_train.zip"
    return str(source) if source.is_file() else None


def _params(data: str, source: str) -> Any:
    from cytoloop.params import check_params, read_yaml

    tree = read_yaml(RECIPES / f"{data}.yaml", "recipe")
    if source:
        tree["ingest"]["source"] = source
    return check_params(tree, data)


def _make_tables(data: str, source: str, place: Path) -> None:
    """The recipe's steps before the search, once for all cells."""
    from cytoloop.door import interface, run_step

    params = _params(data, source)
    for step in ("ingest", "validate", "split", "augment"):
        face = interface(step)
        run_step(step, {name: place / name for name in (*face.inputs, *face.outputs)}, params)


def _in_a_process(cell: dict[str, Any], place: Path) -> dict[str, Any]:
    flags = [text for name, value in cell.items() for text in (f"--{_flag(name)}", str(value))]
    command = [sys.executable, __file__, "cell", "-", *flags, "--tables", str(place)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _flag(name: str) -> str:
    return {"arm": "arms", "seed": "seeds"}.get(name, name.replace("_", "-"))


def run_cell(told: argparse.Namespace) -> dict[str, Any]:
    """One arm on one data set with one seed."""
    import keras  # noqa: F401 - seconds that are no arm's

    (data,), (arm,), (seed,) = told.data, told.arms, told.seeds
    clock = _Clock()
    try:
        for _ in _none(told, data, seed, clock) if arm == "none" else _search(told, data, arm, seed, clock):
            if clock.now() >= 60 * told.minutes:
                break
    except _TimeIsUp:
        pass
    ended = [t for t in clock.trials if t["state"] == "complete" and t["ended"] <= 60 * told.minutes]
    best = max((t["score"] for t in ended), default=0.0)
    return {"data": data, "arm": arm, "seed": seed, **_settings(told), "best": best, "trials": clock.trials}


class _TimeIsUp(Exception):
    pass


class _Clock:
    """The trials of a cell, with the seconds of processor time at which they ended."""

    def __init__(self) -> None:
        self._begun = time.process_time()
        self.trials: list[dict[str, Any]] = []

    def now(self) -> float:
        return time.process_time() - self._begun

    def note(self, state: str, score: float, epochs: int) -> None:
        self.trials.append({"ended": round(self.now(), 2), "state": state, "score": score, "epochs": epochs})


class _Timed:
    """A candidate that notes how it ended, and that stops when the cell's time is up."""

    def __init__(self, candidate: Any, clock: _Clock, seconds: float) -> None:
        self._candidate, self._clock, self._seconds = candidate, clock, seconds
        self.cost = candidate.cost

    def train(self, after_epoch: Any) -> float:
        scores: list[float] = []

        def follow(epoch: int, score: float) -> None:
            scores.append(score)
            if self._clock.now() >= self._seconds and epoch < self._candidate.training.params.epochs:
                self._clock.note("cut off", max(scores), epoch)
                raise _TimeIsUp
            after_epoch(epoch, score)

        try:
            best = float(self._candidate.train(follow))
        except _TimeIsUp:
            raise
        except Exception as ended:
            self._clock.note(type(ended).__name__, max(scores, default=0.0), len(scores))
            raise
        self._clock.note("complete", best, len(scores))
        return best


def _declared(told: argparse.Namespace, data: str) -> Any:
    from cytoloop.tuning.space import Sections

    params = _params(data, "")
    sides = {"image_width": told.side, "image_height": told.side} if told.side else {}
    model = params.model.model_copy(update=sides)
    return Sections(model, params.train.model_copy(update={"epochs": told.epochs}), params.augment)


def _prepared(told: argparse.Namespace, sections: Any) -> Any:
    from cytoloop.model.data import TrainingFolders, training_streams
    from cytoloop.tuning.candidate import Data, prepare

    folders = TrainingFolders(*(told.tables / name for name in ("raw", "splits", "augmented")))
    candidate = prepare(sections, Data(folders, told.pictures), timed=False)
    batch = sections.train.batch_size
    _, val = training_streams(folders, sections.model, batch, sections.augment, told.val_pictures)
    return dataclasses.replace(candidate, val=val)


def _search(told: argparse.Namespace, data: str, arm: str, seed: int, clock: _Clock) -> Iterator[None]:
    """The search of an arm; its one step ends when the time is up."""
    from cytoloop.params import TuneParams
    from cytoloop.tuning.search import Search
    from cytoloop.tuning.space import as_declared
    from cytoloop.tuning.study import open_study

    declared = _declared(told, data)
    space = SPACE | {"train.loss": {"choices": LOSSES[declared.train.loss]}}
    space |= {"augment.strength": {"low": 0, "high": 2}} if declared.augment.online else {}
    asked = {"trials": WITHOUT_END, "minutes": told.minutes, "epochs": told.epochs, "space": space, "seed": seed}
    asked |= {"pruning": PRUNING} if arm == "tpe" else {}
    asked |= {"startup_trials": WITHOUT_END} if arm == "random" else {}
    with tempfile.TemporaryDirectory() as work:
        os.environ["CYTOLOOP_WORK"] = work
        params = TuneParams.model_validate(asked)
        with open_study([arm, seed], ["maximize"], as_declared(params.space, declared)) as study:
            Search(
                study,
                params,
                declared,
                lambda sections: _Timed(_prepared(told, sections), clock, 60 * told.minutes),
            ).run()
    yield


def _none(told: argparse.Namespace, data: str, seed: int, clock: _Clock) -> Iterator[None]:
    """The sections as they are, again and again."""
    declared = _declared(told, data)
    for number in range(WITHOUT_END):
        train = declared.train.model_copy(update={"seed": 1000 * seed + number})
        candidate = _prepared(told, declared._replace(train=train))
        _Timed(candidate, clock, 60 * told.minutes).train(lambda epoch, score: None)
        yield


def show(results: Path) -> None:
    """The medians over seeds, and their ratios."""
    lines = _lines(results)
    for setting in sorted({_setting_of(line) for line in lines}):
        mine = [line for line in lines if _setting_of(line) == setting]
        print("\n" + ", ".join(map(str, (setting[0], *map("{} {:g}".format, SETTINGS, setting[1:])))))
        for arm in ARMS:
            cells = [line for line in mine if line["arm"] == arm]
            if cells:
                counts = [len(line["trials"]) for line in cells]
                print(
                    f"  {arm:8} best val macro Dice {median(line['best'] for line in cells):.4f} "
                    f"({', '.join(format(line['best'], '.4f') for line in cells)}), trials {median(counts):g}"
                )
        _show_ratios(mine)


def _setting_of(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line[name] for name in ("data", *SETTINGS))


def _show_ratios(lines: list[dict[str, Any]]) -> None:
    by_cell = {(line["arm"], line["seed"]): line for line in lines}
    seeds = sorted(seed for arm, seed in by_cell if arm == "tpe" and ("unpruned", seed) in by_cell)
    pairs = [_ratio(by_cell["unpruned", seed], by_cell["tpe", seed]) for seed in seeds]
    if pairs:
        shown = ", ".join(f"{'' if reached else '<'}{ratio:.2f}" for ratio, reached in pairs)
        middle = median(ratio if reached else 0 for ratio, reached in pairs)
        print(f"  time to the unpruned best, without pruning over with: median {middle:.2f} ({shown})")


def _ratio(unpruned: dict[str, Any], pruned: dict[str, Any]) -> tuple[float, bool]:
    """Seconds without pruning to those with, and whether pruning came as far at all."""
    first = next((t["ended"] for t in _complete(unpruned) if t["score"] >= unpruned["best"]), float("nan"))
    reached = [t["ended"] for t in _complete(pruned) if t["score"] >= unpruned["best"]]
    return first / min(reached, default=60 * pruned["minutes"]), bool(reached)


def _complete(line: dict[str, Any]) -> list[dict[str, Any]]:
    return [t for t in line["trials"] if t["state"] == "complete"]


if __name__ == "__main__":
    main()
