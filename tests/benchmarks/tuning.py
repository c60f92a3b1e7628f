"""What the search is worth: best val macro Dice after N minutes, and what pruning saves.

    python tests/benchmarks/tuning.py train TABLE.jsonl --data default|dsb2018 [--reverse]
    python tests/benchmarks/tuning.py show TABLE.jsonl [--minutes 10] [--seeds 30] [--longer 1] [--keep-one-in 2]

`train` trains the network of every cell of a grid once, alone on its processor, and notes each epoch's val macro
Dice and seconds of processor time: a table, as tabular benchmarks of searches have it (Ying et al. 2019,
arXiv:1902.09635). It takes some 40 minutes on one processor, can be interrupted, and goes on where it was; a second
process with `--reverse` begins at the other end. `show` then lets the real search, `cytoloop.tuning.search`, ask
the table instead of training, on a clock that advances by the table's seconds. So a search of minutes takes a
second, and there are seeds enough to tell the arms apart:

* `tpe`: the search as recipes have it, TPE with pruning;
* `unpruned`: the same TPE without pruning;
* `random`: the same space and budget, every trial drawn at random and trained to its end;
* `none`: no search. The recipe's settings, trained again and again with another seed of the training, and the
  best of them kept: whoever does not search can spend the time on that, and it takes the best of as many looks
  at val. (One long training would be judged after more epochs than a trial has, which says nothing of the
  settings.) A guess is trained once.

The learning rate is searched as a number, and the table's nearest answers. Each arm is begun at the recipe's
settings, which somebody tuned by hand, and at a guess: a cell of the grid drawn at random, another for each seed.
Every trial has the same epochs, pictures and schedule. The score of an arm is the best val macro Dice of a trial
that had *ended* within the minutes. It is the searches' own measure: val chooses, so that the winner's figure is
optimistic, more so for arms with more trials.

What pruning saves: the time at which `unpruned` had its best score, over the time at which `tpe` had at least
that, with the same seed; where it had not after four times the minutes, 0.

A search can save epochs, and not the seconds in which TensorFlow builds a network, of which these small trials
have more than their share. `--longer 5` shows what comes of epochs that take five times as long (as with five
times the pictures), with the same scores.

`dsb2018` needs $CYTOLOOP_DATA, the folder that holds dsb2018/stage1_train.zip.
"""

import argparse
import dataclasses
import itertools
import json
import math
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

from cytoloop.params import PruningParams, TuneParams, check_params, read_yaml

os.environ["TQDM_DISABLE"] = "1"
ROOT = Path(__file__).parents[2]
ARMS = ("tpe", "unpruned", "random", "none")
STARTS = ("recipe", "guess")
RATE = "train.learning_rate"
RATES = (0.0005, 0.0015, 0.004, 0.011, 0.03)
REPEATS = 8
"""Trainings of the recipe's settings, each with another seed, for the arm that does not search."""
WITHOUT_END = 100_000
LONGER = 4

Choice = dict[str, Any]
Line = dict[str, Any]


class Setting(NamedTuple):
    """A recipe, made small: the network's side in pixels, and what each trial has."""

    side: int
    epochs: int
    pictures: int
    val_pictures: int
    grid: dict[str, tuple[Any, ...]]


SETTINGS = {
    "default": Setting(
        side=96,
        epochs=16,
        pictures=48,
        val_pictures=48,
        grid={
            "model.base_filters": (8, 16),
            "model.base_kernels": (3, 5),
            "model.num_layers": (3, 4),
            "train.loss": ("cce_dice", "categorical_crossentropy"),
            RATE: RATES,
        },
    ),
    "dsb2018": Setting(
        side=128,
        epochs=10,
        pictures=64,
        val_pictures=12,
        grid={
            "model.base_filters": (8, 16),
            "model.base_kernels": (3, 5),
            "model.num_layers": (3, 4, 5),
            RATE: RATES,
        },
    ),
}


def main() -> None:
    told = _arguments()
    if told.command == "train":
        train(told.table, told.data, told.reverse)
    elif told.command == "show":
        show(told)
    else:
        print(__doc__)  # `make bench` has minutes, this takes an hour


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Benchmarks of the search.")
    commands = parser.add_subparsers(dest="command")
    training = commands.add_parser("train")
    training.add_argument("table", type=Path)
    training.add_argument("--data", required=True, choices=SETTINGS)
    training.add_argument("--reverse", action="store_true")
    showing = commands.add_parser("show")
    showing.add_argument("table", type=Path)
    showing.add_argument("--minutes", type=float, default=10)
    showing.add_argument("--seeds", type=int, default=30)
    showing.add_argument("--longer", type=float, default=1)
    for name, setting in PruningParams.model_fields.items():
        showing.add_argument(f"--{name.replace('_', '-')}", type=int, default=setting.default)
    return parser.parse_args()


# ------------------------------------------------------------------------------------------ the table


def train(table: Path, data: str, reverse: bool) -> None:
    """Train what the table lacks."""
    with tempfile.TemporaryDirectory() as place:
        _make_tables(data, Path(place))
        _train_one(data, _cells(data)[0][0], 0, Path(place), epochs=1)  # what the first training of all costs more
        for choice, seed in _cells(data)[:: -1 if reverse else 1]:
            known = _read(table)
            if (_key(choice), seed) not in {(_key(line["choice"]), line["seed"]) for line in known}:
                line = _train_one(data, choice, seed, Path(place), SETTINGS[data].epochs)
                with table.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                total = sum(line["seconds"])
                print(f"{len(known) + 1} of {len(_cells(data))}: {choice} {max(line['scores']):.4f} in {total:.0f} s")


def _cells(data: str) -> list[tuple[Choice, int]]:
    """Every choice of the grid, and the recipe's with other seeds."""
    grid = SETTINGS[data].grid
    choices = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    recipes = _nearest(_start(data, "recipe", 0), grid)
    return [(choice, 0) for choice in choices] + [(recipes, seed) for seed in range(1, REPEATS)]


def _read(table: Path) -> list[Line]:
    return [json.loads(line) for line in table.read_text("utf-8").splitlines()] if table.is_file() else []


def _key(choice: Choice) -> str:
    return json.dumps(choice, sort_keys=True)


def _params(data: str) -> Any:
    tree = read_yaml(ROOT / "recipes" / f"{data}.yaml", "recipe")
    if data != "default":
        source = Path(os.environ.get("CYTOLOOP_DATA", ROOT.parent / "shared/data")) / data / "stage1_train.zip"
        tree["ingest"]["source"] = str(source)
    return check_params(tree, data)


def _start(data: str, start: str, seed: int) -> Choice:
    """The declared values of the searched settings."""
    grid = SETTINGS[data].grid
    if start == "guess":
        drawn = random.Random(seed)
        return {key: drawn.choice(values) for key, values in grid.items()}
    params = _params(data)
    return {key: _value(params, key) for key in grid}


def _value(params: Any, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(params, section), name)


def _nearest(choice: Choice, grid: dict[str, tuple[Any, ...]]) -> Choice:
    """The grid's cell for a choice: of numbers that are not in it, the nearest by their ratio."""

    def near(key: str) -> Any:
        if choice[key] in grid[key]:
            return choice[key]
        return min(grid[key], key=lambda value: abs(math.log(value / choice[key])))

    return {key: near(key) for key in grid}


def _make_tables(data: str, place: Path) -> None:
    """The recipe's steps before the search."""
    from cytoloop.door import interface, run_step

    params = _params(data)
    for step in ("ingest", "validate", "split", "augment"):
        face = interface(step)
        run_step(step, {name: place / name for name in (*face.inputs, *face.outputs)}, params)


def _train_one(data: str, choice: Choice, seed: int, place: Path, epochs: int) -> Line:
    from cytoloop.model.data import TrainingFolders, training_streams
    from cytoloop.tuning.candidate import Data, prepare, share_of

    setting, sections = SETTINGS[data], _sections(data, choice, seed, epochs)
    folders = TrainingFolders(*(place / name for name in ("raw", "splits", "augmented")))
    scores, seconds, begun = [], [], time.process_time()

    def note(epoch: int, score: float) -> None:
        nonlocal begun
        now = time.process_time()
        scores.append(score)
        seconds.append(round(now - begun, 3))
        begun = now

    whole = _sections(data, choice, seed, _params(data).train.epochs)
    share = share_of(folders, whole, epochs, setting.pictures)
    candidate = prepare(sections, Data(folders, setting.pictures, share), timed=False)
    batch = sections.train.batch_size
    _, val = training_streams(folders, sections.model, batch, sections.augment, setting.val_pictures)
    dataclasses.replace(candidate, val=val).train(note)
    return {"data": data, "choice": choice, "seed": seed, "scores": scores, "seconds": seconds}


def _sections(data: str, choice: Choice, seed: int, epochs: int) -> Any:
    from cytoloop.tuning.space import Sections, settled

    params, side = _params(data), SETTINGS[data].side
    model = params.model.model_copy(update={"image_width": side, "image_height": side})
    train = params.train.model_copy(update={"epochs": epochs, "seed": seed})
    return settled(Sections(model, train, params.augment), choice)


# ----------------------------------------------------------------------------------------- the replay


class _TimeIsUp(Exception):
    pass


@dataclass
class _Clock:
    """Seconds of the table that have gone by, and the trials that ended: when, and with what score."""

    limit: float
    now: float = 0.0
    ended: list[tuple[float, float]] = field(default_factory=list)
    trials: int = 0

    def advance(self, seconds: float) -> None:
        self.now += seconds
        if self.now > self.limit:
            raise _TimeIsUp

    def best(self, within: float = math.inf) -> float:
        return max((score for when, score in self.ended if when <= within), default=0.0)

    def reached(self, score: float) -> float:
        """When a trial had ended with at least this score."""
        return min((when for when, found in self.ended if found >= score), default=math.inf)


@dataclass
class _Told:
    """A candidate that the table answers for."""

    line: Line
    clock: _Clock
    cost: Any

    def train(self, after_epoch: Callable[[int, float], None]) -> float:
        self.clock.trials += 1
        for epoch, (score, seconds) in enumerate(zip(self.line["scores"], self.line["seconds"], strict=True), 1):
            self.clock.advance(seconds)
            after_epoch(epoch, score)
        best = float(max(self.line["scores"]))
        self.clock.ended.append((self.clock.now, best))
        return best


def show(told: argparse.Namespace) -> None:
    """What each arm came to, by start; quartiles over seeds."""
    lines = _read(told.table)
    (data,) = {line["data"] for line in lines}
    missing = len(_cells(data)) - len(lines)
    if missing:
        sys.exit(f"{told.table}: {missing} of {len(_cells(data))} trainings are missing; run `train` again")
    lines = [line | {"seconds": _longer(line["seconds"], told.longer)} for line in lines]
    whole = [sum(line["seconds"]) for line in lines]
    print(f"{data}: {len(lines)} trainings of {min(whole):.0f} to {max(whole):.0f} s (median {median(whole):.0f})")
    print(f"the grid's best val macro Dice {max(max(line['scores']) for line in lines):.4f}")
    for start in STARTS:
        print(f"begun at the {start}")
        clocks = {arm: [_run(lines, data, start, arm, seed, told) for seed in range(told.seeds)] for arm in ARMS}
        for arm, mine in clocks.items():
            low, middle, high = quantiles([clock.best(60 * told.minutes) for clock in mine], n=4)
            print(f"  {arm:8} after {told.minutes:g} minutes {middle:.4f} ({low:.4f} to {high:.4f})")
        _show_ratios(clocks["unpruned"], clocks["tpe"], 60 * told.minutes)


def _longer(seconds: list[float], times: float) -> list[float]:
    """Seconds of epochs that take longer; the network is built, in the first of them, as fast as ever."""
    epoch = median(seconds[1:])
    return [seconds[0] + (times - 1) * epoch, *(times * each for each in seconds[1:])]


def _show_ratios(unpruned: list[_Clock], pruned: list[_Clock], seconds: float) -> None:
    ratios = []
    for without, with_it in zip(unpruned, pruned, strict=True):
        best = without.best(seconds)
        ratios.append(without.reached(best) / with_it.reached(best))
    low, middle, high = quantiles(ratios, n=4)
    half = sum(ratio >= 2 for ratio in ratios)
    print(f"  time to the unpruned best, without pruning over with: {middle:.2f} ({low:.2f} to {high:.2f})")
    print(f"    at least halved {half} of {len(ratios)} times, longer {sum(ratio < 1 for ratio in ratios)} times")


def _run(lines: list[Line], data: str, start: str, arm: str, seed: int, told: argparse.Namespace) -> _Clock:
    clock = _Clock(60 * told.minutes * LONGER)
    try:
        if arm == "none":
            _without_search(lines, data, start, seed, clock)
        else:
            _search(lines, data, start, arm, seed, clock, told)
    except _TimeIsUp:
        pass
    return clock


def _without_search(lines: list[Line], data: str, start: str, seed: int, clock: _Clock) -> None:
    """The start's trainings one after another, in another order for each seed; no more than there are."""
    cell = _key(_nearest(_start(data, start, seed), SETTINGS[data].grid))
    mine = [line for line in lines if _key(line["choice"]) == cell]
    for line in random.Random(seed).sample(mine, len(mine)):
        _Told(line, clock, None).train(lambda epoch, score: None)


def _search(
    lines: list[Line], data: str, start: str, arm: str, seed: int, clock: _Clock, told: argparse.Namespace
) -> None:
    import optuna

    from cytoloop.tuning.limits import Cost
    from cytoloop.tuning.search import Search
    from cytoloop.tuning.space import as_declared

    setting = SETTINGS[data]
    table = {_key(line["choice"]): line for line in lines if line["seed"] == 0}
    space: dict[str, Any] = {key: {"choices": list(values)} for key, values in setting.grid.items()}
    space[RATE] = {"low": min(RATES), "high": max(RATES), "log": True}
    asked = {"trials": WITHOUT_END, "epochs": setting.epochs, "space": space, "seed": seed}
    if arm == "tpe":
        asked["pruning"] = {name: getattr(told, name) for name in PruningParams.model_fields}
    if arm == "random":
        asked["startup_trials"] = WITHOUT_END
    params = TuneParams.model_validate(asked)
    declared = _sections(data, _start(data, start, seed), 0, setting.epochs)

    def prepare(sections: Any) -> _Told:
        choice = {key: _value(sections, key) for key in setting.grid}
        return _Told(table[_key(_nearest(choice, setting.grid))], clock, Cost(1, 1.0))

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        study = optuna.create_study(direction="maximize")
        study.enqueue_trial(as_declared(params.space, declared))
        Search(study, params, declared, prepare).run()


if __name__ == "__main__":
    main()
