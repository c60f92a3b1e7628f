"""Which measure of importance finds what matters in a search from few trials: fANOVA or PED-ANOVA.

    python tests/benchmarks/importance.py [searches]

Searches by TPE of made functions of six settings (ranges and choices), whose weights and optima are drawn anew for each
search, with noise. Two of the six do nothing. For each count of trials it prints how often the most important setting
is found first, how often the two most important are the first two, and the share that is given to what does nothing.
"""

import math
import sys
import warnings
from collections.abc import Callable

import numpy as np
import optuna
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances

NAMES = ["rate", "architecture", "filters", "dropout", "strength", "loss"]
WEIGHTS = [0.2, 0.1, 0.05, 0.02, 0, 0]
GRIDS = [np.linspace(0, 1, 50), [0, 0.5, 1], [0, 0.5, 1], np.linspace(0, 1, 50), np.linspace(0, 1, 9), [0, 0.7, 1]]
MEASURES = {
    "fANOVA": FanovaImportanceEvaluator(n_trees=32, seed=0),
    "PED-ANOVA, best 10 %": PedAnovaImportanceEvaluator(target_quantile=0.1),
    "PED-ANOVA, better half": PedAnovaImportanceEvaluator(target_quantile=0.5),
}


def places(trial: optuna.Trial) -> list[float]:
    """Where the trial lies in each setting, 0..1."""
    return [
        (math.log10(trial.suggest_float("rate", 1e-4, 1e-2, log=True)) + 4) / 2,
        {"a": 0, "b": 0.5, "c": 1}[trial.suggest_categorical("architecture", ["a", "b", "c"])],
        math.log2(trial.suggest_categorical("filters", [4, 8, 16]) / 4) / 2,
        trial.suggest_float("dropout", 0, 0.5) * 2,
        trial.suggest_int("strength", 0, 8) / 8,
        {"x": 0, "y": 0.7, "z": 1}[trial.suggest_categorical("loss", ["x", "y", "z"])],
    ]


def search(seed: int, trials: int) -> tuple[optuna.Study, np.ndarray]:
    """A search, and how much each setting truly matters: the standard deviation of its effect over its range."""
    chance = np.random.default_rng(seed)
    weights, optima = chance.permutation(WEIGHTS), chance.random(6)

    def score(trial: optuna.Trial) -> float:
        lost = np.sum(weights * np.abs(np.array(places(trial)) - optima))
        return float(0.9 - lost + chance.normal(0, 0.01))

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=8))
    study.optimize(score, n_trials=trials)
    effects = [np.std(np.abs(np.array(grid) - optimum)) for grid, optimum in zip(GRIDS, optima, strict=True)]
    return study, weights * effects


def judged(measure: Callable[[optuna.Study], np.ndarray], seed: int, trials: int) -> tuple[bool, bool, float]:
    """Whether the first is the first, the first two are the first two, and what is given to nothing."""
    study, truth = search(seed, trials)
    found = measure(study)
    first_two = set(np.argsort(found)[-2:]) == set(np.argsort(truth)[-2:])
    return bool(np.argmax(found) == np.argmax(truth)), first_two, float(found[truth == 0].sum())


def main(searches: int) -> None:
    """Print a line for each count of trials and measure."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print("trials  measure                 first  first two  share of nothing")
    for trials in (6, 10, 16, 24, 40):
        for name, evaluator in MEASURES.items():

            def measure(study: optuna.Study, evaluator: object = evaluator) -> np.ndarray:
                shares = get_param_importances(study, evaluator=evaluator, params=NAMES)
                return np.array([shares[key] for key in NAMES])

            first, two, nothing = np.mean([judged(measure, seed, trials) for seed in range(searches)], axis=0)
            print(f"{trials:6}  {name:22}  {first:5.2f}  {two:9.2f}  {nothing:16.2f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
