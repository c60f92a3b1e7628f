"""Studies of Optuna with known trials, such as a search leaves; nothing is trained, and nothing is drawn by chance."""

import datetime as dt
import math
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

RATE, FILTERS, STRENGTH = "train.learning_rate", "model.base_filters", "augment.strength"
SPACE = {
    RATE: FloatDistribution(1e-4, 1e-2, log=True),
    FILTERS: CategoricalDistribution([4, 8, 16]),
    STRENGTH: FloatDistribution(0, 2),
}
BEGAN = dt.datetime(2026, 1, 5, 12, 0, 0)


def study_of(*trials: FrozenTrial, objectives: int = 1) -> optuna.Study:
    """A study of these trials."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["maximize", "minimize"][:objectives])
    for number, trial in enumerate(trials):
        trial.datetime_start = BEGAN + dt.timedelta(minutes=number)
        trial.datetime_complete = trial.datetime_start + dt.timedelta(seconds=30)
    study.add_trials(trials)
    return study


def trial(
    rate: float = 1e-3,
    filters: int = 8,
    strength: float = 1.0,
    *,
    values: tuple[float, ...] | None = None,
    curve: tuple[float, ...] = (),
    state: TrialState | None = None,
    **told: Any,
) -> FrozenTrial:
    """A trial that is over: complete where it has values, else pruned; what is `told` are its user attributes."""
    return create_trial(
        state=state or (TrialState.COMPLETE if values else TrialState.PRUNED),
        params={RATE: rate, FILTERS: filters, STRENGTH: strength},
        distributions=SPACE,
        values=values,
        intermediate_values=dict(enumerate(curve, 1)),
        user_attrs={"parameters": 100 * filters, "memory_mib": 10.0 * filters, **told},
    )


def five() -> optuna.Study:
    """As it was, better, pruned, skipped, killed; and the killed one's second life is the best."""
    return study_of(
        trial(curve=(0.2, 0.5), values=(0.5,), seconds=3.25, latency_ms=4.5),
        trial(2e-3, curve=(0.3, 0.6, 0.55), values=(0.6,)),
        trial(9e-3, curve=(0.1, 0.05)),
        trial(filters=16, skipped="parameters 1600 is beyond 1000"),
        trial(3e-3, 4, state=TrialState.FAIL),
        trial(3e-3, 4, curve=(0.4, 0.7), values=(0.7,), retry_of=4),
    )


def many(count: int = 40) -> optuna.Study:
    """Scores that are a formula: the learning rate matters most, the filters some, the strength not at all."""

    def made(number: int) -> FrozenTrial:
        rate = 10 ** (-4 + 2 * (7 * number % count) / count)
        filters, strength = (4, 8, 16)[number % 3], 2 * (11 * number % count) / count
        score = 0.9 - 0.4 * abs(math.log10(rate) + 3) - 0.1 * (2 - number % 3)
        return trial(rate, filters, strength, curve=(score / 2, score), values=(score,))

    return study_of(*map(made, range(count)))


def fronts() -> optuna.Study:
    """Two objectives: of Dice 0.5 in 1 ms, 0.6 in 2, 0.55 in 3, 0.8 in 4, 0.8 in 5 none but the third and the last are
    beaten."""
    pairs = [(0.5, 1.0), (0.6, 2.0), (0.55, 3.0), (0.8, 4.0), (0.8, 5.0)]
    return study_of(*(trial(values=pair, latency_ms=pair[1]) for pair in pairs), objectives=2)
