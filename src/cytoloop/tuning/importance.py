"""Which settings mattered in a search: fANOVA, and how far its answer is to be trusted.

How it works: a forest of regression trees learns the score from the settings. From its trees follows how much
of the score's variance over the whole space each setting accounts for alone; the figures are its shares
in what all of them account for. Source: Hutter, Hoos, Leyton-Brown 2014, An Efficient Approach for
Assessing Hyperparameter Importance, in Optuna.

PED-ANOVA, Optuna's default, compares where the better trials lie with where all lie; of a search that soon
looks only where it was good it sees what still varies there, and needs many more trials
(tests/benchmarks/importance.py). Still, a forest on few trials guesses, so that each share comes with the
interval in which it lies when trials are drawn anew.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NEEDED = 10
"""Complete trials below which nothing is said: from ten on the most important of six settings is found in two of three
searches (tests/benchmarks/importance.py)."""
TREES = 32
DRAWS = 20
INTERVAL = (10, 90)
"""Percentiles of the draws."""


@dataclass(frozen=True)
class Importance:
    """How much a setting mattered."""

    name: str
    """Dotted key."""
    share: float
    """0..1; all of them sum to 1."""
    low: float
    high: float
    """Between which the share lies in 80 % of bootstrap samples of the trials."""


def importances(study: Any, objective: int = 0) -> list[Importance]:
    """The settings by what they did for an objective, the most important first; none where trials are too few.

    Settings that only some of the complete trials have (those of an architecture, say) are left out. Copies
    of earlier trials do not count.

    Args:
        study: of Optuna, or None for no search.
        objective: its place among the study's values.
    """
    trials = [] if study is None else _scored(study)
    names = sorted(_common(trials))
    if len(trials) < NEEDED or not names or _are_alike(trials, objective):
        return []
    measured = _shares(trials, names, objective)
    chance = random.Random(0)  # noqa: S311 (a bootstrap, no secret)
    drawn = np.array([_shares(chance.choices(trials, k=len(trials)), names, objective) for _ in range(DRAWS)])
    low, high = np.percentile(drawn, INTERVAL, axis=0)
    found = [Importance(*four) for four in zip(names, measured, low.tolist(), high.tolist(), strict=True)]
    return sorted(found, key=lambda one: (-one.share, one.name))


def _scored(study: Any) -> list[Any]:
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    return [t for t in complete if "copy_of" not in t.user_attrs and np.isfinite(t.values).all()]


def _common(trials: Sequence[Any]) -> set[str]:
    """The settings that could vary in every trial."""
    having = [{name for name, d in trial.distributions.items() if not d.single()} for trial in trials]
    return set.intersection(*having) if having else set()


def _are_alike(trials: Sequence[Any], objective: int) -> bool:
    return len({trial.values[objective] for trial in trials}) == 1


def _shares(trials: Sequence[Any], names: Sequence[str], objective: int) -> list[float]:
    """The share of each name; alike where nothing made a difference.

    The names are given, since Optuna would take them in the order of a set's hashes.
    """
    from optuna import create_study, importance
    from optuna.trial import create_trial

    if _are_alike(trials, objective):
        return [1 / len(names)] * len(names)
    study = create_study()
    study.add_trials(
        [create_trial(value=t.values[objective], params=t.params, distributions=t.distributions) for t in trials]
    )
    forest = importance.FanovaImportanceEvaluator(n_trees=TREES, seed=0)
    found = importance.get_param_importances(study, evaluator=forest, params=list(names))
    return [float(found[name]) for name in names]
