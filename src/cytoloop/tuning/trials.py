"""A search as plain facts: what each trial tried, how far it came, and what became of it.

The tables, charts, pages and runs are made from these, so that they all say the same. Times of the clock
are left out of them: the same search on the same data leaves the same bytes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cytoloop.artifacts import write_csv

DICE, LATENCY = "val_macro_dice", "latency_ms"
OBJECTIVES = (DICE, LATENCY)
"""What a search can be for, in this order: Dice is to be high, latency (milliseconds a picture) low."""

COMPLETE, PRUNED, SKIPPED, FAILED = "complete", "pruned", "skipped", "failed"
STATES = {
    COMPLETE: "trained to the end",
    PRUNED: "stopped early, being worse than the others were at the same epoch",
    SKIPPED: "not trained: beyond a limit",
    FAILED: "ended by an error or with its process",
}


@dataclass(frozen=True)
class Trial:
    """One trial of a search that is over."""

    number: int
    state: str
    """One of STATES."""
    params: Mapping[str, Any]
    """By dotted key, in the order of the keys."""
    values: tuple[float, ...]
    """One for each objective; empty unless complete."""
    curve: Mapping[int, float]
    """Macro Dice on val by epoch, as far as it came."""
    parameters: int | None = None
    """Count of the network's."""
    memory_mib: float | None = None
    """Peak memory of a training step, MiB."""
    latency_ms: float | None = None
    """Milliseconds a picture."""
    reason: str = ""
    """Why it was skipped."""
    retry_of: int | None = None
    """The number of the trial that it does again."""
    copy_of: int | None = None
    """The number of the earlier trial of the same settings whose outcome this one has without any training."""

    @property
    def epochs(self) -> int | None:
        """How many it was trained for; None where it kept no curve, as with two objectives."""
        return None if self.values and not self.curve else len(self.curve)

    @property
    def dice(self) -> float | None:
        """The best macro Dice on val that it came to, 0..1; None where no epoch ended."""
        known = [value for value in (*self.values[:1], *self.curve.values()) if math.isfinite(value)]
        return (self.values[0] if self.values else max(known)) if known else None


@dataclass(frozen=True)
class Dimension:
    """One setting that was searched."""

    name: str
    """Dotted key."""
    low: float = 0
    high: float = 0
    log: bool = False
    choices: tuple[Any, ...] = ()
    """Empty for a range."""

    def place(self, value: Any) -> float:
        """Where a value lies between the ends, 0..1; choices lie at even distances."""
        if self.choices:
            return self.choices.index(value) / max(len(self.choices) - 1, 1)
        if self.high == self.low:
            return 0.5
        low, high, here = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return (here - low) / (high - low)


def read_trials(study: Any) -> list[Trial]:
    """The trials of an Optuna study that are over, by number; none of None, which stands for no search."""
    if study is None:
        return []
    return [_trial(trial) for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def _trial(trial: Any) -> Trial:
    told = trial.user_attrs
    state = SKIPPED if "skipped" in told else {"COMPLETE": COMPLETE, "PRUNED": PRUNED}.get(trial.state.name, FAILED)
    return Trial(
        number=trial.number,
        state=state,
        params=dict(sorted(trial.params.items())),
        values=tuple(trial.values) if state == COMPLETE else (),
        curve=dict(sorted(trial.intermediate_values.items())),
        parameters=told.get("parameters"),
        memory_mib=told.get("memory_mib"),
        latency_ms=told.get("latency_ms"),
        reason=str(told.get("skipped", "")),
        retry_of=told.get("retry_of"),
        copy_of=told.get("copy_of"),
    )


def read_space(study: Any) -> list[Dimension]:
    """The settings that the trials chose from, in the order of their keys."""
    trials = [] if study is None else study.get_trials(deepcopy=False)
    found = {name: distribution for trial in trials for name, distribution in trial.distributions.items()}
    return [_dimension(name, found[name]) for name in sorted(found)]


def _dimension(name: str, distribution: Any) -> Dimension:
    if hasattr(distribution, "choices"):
        return Dimension(name, choices=tuple(distribution.choices))
    return Dimension(name, float(distribution.low), float(distribution.high), bool(distribution.log))


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """The complete trial with the highest Dice, the first of equals."""
    scored = [trial for trial in trials if trial.values]
    return max(scored, key=lambda trial: (trial.values[0], -trial.number)) if scored else None


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Complete trials that none beats in Dice without being slower, the fastest first.

    Of several with the same Dice and latency the first counts.
    """
    front: list[Trial] = []
    both = [trial for trial in trials if len(trial.values) > 1]
    for trial in sorted(both, key=lambda trial: (trial.values[1], -trial.values[0], trial.number)):
        if not front or trial.values[0] > front[-1].values[0]:
            front.append(trial)
    return front


def write_trials(study: Any, path: Path) -> None:
    """Write a line a trial; the latency has a column where it is an objective, since no two measurements agree."""
    trials = read_trials(study)
    objectives = OBJECTIVES[: 1 if study is None else len(study.directions)]
    names = sorted({name for trial in trials for name in trial.params})
    header = ["trial", "state", *objectives, *names, "epochs", "parameters", "memory_mib"]
    header += ["retry_of", "copy_of", "reason"]
    write_csv(path, header, ([*_line(trial, objectives, names)] for trial in trials))


def _line(trial: Trial, objectives: Sequence[str], names: Sequence[str]) -> list[Any]:
    values = [trial.dice, *([trial.latency_ms] if LATENCY in objectives else [])]
    settings = [trial.params.get(name) for name in names]
    facts = [trial.epochs, trial.parameters, trial.memory_mib, trial.retry_of, trial.copy_of, trial.reason]
    return [trial.number, trial.state, *values, *settings, *facts]
