"""What MLflow is told of a search: a run with what it searched, and below it a run a trial."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cytoloop import tracking
from cytoloop.artifacts import BEST_PARAMS, TRIALS, Card, sha256_file
from cytoloop.provenance import fingerprint
from cytoloop.tuning.drawings import spoken
from cytoloop.tuning.trials import COMPLETE, DICE, FAILED, STATES, Trial, best_trial, read_space, read_trials

STATUS = {COMPLETE: "FINISHED", FAILED: "FAILED"}
"""Of a trial's run, by its state; all others were ended on purpose: KILLED."""
NAMED = 4
"""Settings that a search's name tells."""
LONGEST = 200
"""Characters of a run's name."""


def report(study: Any, folder: Path, params: Mapping[str, Any], card: Card) -> None:
    """Leave the record of a search beside what it found, and send it to MLflow as far as that is there.

    Args:
        study: of Optuna, over.
        folder: has best_params.json and trials.csv.
        params: of the search and of what it searched, by dotted key.
        card: of the pictures.
    """
    trials = read_trials(study)
    tracking.Record(
        run_name=_name([dimension.name for dimension in read_space(study)]),
        work=f"tune-{fingerprint([sha256_file(folder / TRIALS), card.digest, dict(params)])[:16]}",
        params=dict(params),
        dataset=(card.name, card.digest, "tuning"),
        metrics=[(0, _headline(trials))],
        tags={"best_params_digest": sha256_file(folder / BEST_PARAMS)},
        artifact="best_params",
        nested=[_nested(trial) for trial in trials],
    ).write(folder)
    tracking.report_search(folder, _measured(study))


def _name(keys: list[str]) -> str:
    names = list(spoken(keys).values())
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return _cut(f"tune {', '.join(names[:NAMED])}{more}")


def _cut(name: str) -> str:
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _headline(trials: list[Trial]) -> dict[str, float]:
    best = best_trial(trials)
    found = {} if best is None else {f"best_{DICE}": best.values[0], "best_trial": float(best.number)}
    counts = {f"trials_{state}": float(sum(trial.state == state for trial in trials)) for state in STATES}
    return {**found, **counts}


def _nested(trial: Trial) -> tracking.Nested:
    return tracking.Nested(
        number=trial.number,
        name=_trial_name(trial),
        status=STATUS.get(trial.state, "KILLED"),
        params=trial.params,
        metrics=_metrics(trial),
        tags=_tags(trial),
    )


def _trial_name(trial: Trial) -> str:
    """What it tried: `12 base filters 16, learning rate 0.0018`."""
    names = spoken(list(trial.params))
    told = [f"{names[key]} {value:.3g}" if isinstance(value, float) else f"{names[key]} {value}"
            for key, value in trial.params.items()]  # fmt: skip
    return _cut(f"{trial.number} {', '.join(told)}")


def _metrics(trial: Trial) -> list[tuple[int, dict[str, float]]]:
    """The curve by epoch, and behind it the best of it and what the network costs."""
    facts = {f"best_{DICE}": trial.dice, "parameters": trial.parameters, "memory_mib": trial.memory_mib}
    known = {name: float(value) for name, value in facts.items() if value is not None}
    curve = [(epoch, {DICE: dice}) for epoch, dice in trial.curve.items() if math.isfinite(dice)]
    return [*curve, (max(trial.curve, default=0), known)]


def _tags(trial: Trial) -> dict[str, str]:
    told = {"state": trial.state, "reason": trial.reason, "retry_of": trial.retry_of, "copy_of": trial.copy_of}
    return {name: str(value) for name, value in told.items() if value not in ("", None)}


def _measured(study: Any) -> dict[int, tracking.Measured]:
    """What a clock said of the trials."""
    return {
        trial.number: tracking.Measured(
            began=round(1000 * trial.datetime_start.timestamp()),
            ended=round(1000 * trial.datetime_complete.timestamp()),
            metrics={name: float(told) for name in ("seconds", "latency_ms") if (told := trial.user_attrs.get(name))},
        )
        for trial in study.get_trials(deepcopy=False)
        if trial.datetime_start and trial.datetime_complete
    }
