"""tune: a search over settings of model, train and augment by Optuna; only train and val are seen."""

from functools import partial
from pathlib import Path
from typing import Any

from cytoloop.artifacts import BEST_PARAMS, TRIALS, flat, read_card, write_json
from cytoloop.door import Input, Numbers, Output
from cytoloop.errors import CytoloopError
from cytoloop.model.data import TrainingFolders
from cytoloop.params import AugmentParams, ModelParams, TrainParams, TuneParams
from cytoloop.provenance import provenance
from cytoloop.tuning.candidate import Data, prepare, share_of
from cytoloop.tuning.charts import write_charts
from cytoloop.tuning.runs import report
from cytoloop.tuning.search import Search
from cytoloop.tuning.space import Sections, as_declared, changes
from cytoloop.tuning.study import open_study
from cytoloop.tuning.trials import OBJECTIVES, PRUNED, SKIPPED, Trial, best_trial, read_trials, write_trials


def tune(
    raw: Input,
    splits: Input,
    augmented: Input,
    best_params: Output,
    tune_params: TuneParams,
    augment_params: AugmentParams,
    model_params: ModelParams,
    train_params: TrainParams,
) -> Numbers:
    """Try settings for a few epochs each and keep those with the best val macro Dice within the limits.

    Writes best_params.json ({"model": {...}, "train": {...}, "augment": {...}}: the winning settings),
    trials.csv and charts. The first trial is the sections as they are, so that a search never ends below
    them on its own measure. Of equals the first wins. Where latency is an objective too, the charts show
    the Pareto front, and best_params.json holds that end of it where the Dice is best.

    Alone, the same search on the same data ends the same, also when it was killed and run again, unless
    minutes or latency, which no two runs have the same of, decide. A study can be lengthened: `trials` and
    `minutes` are no part of what tells one search from another. A shared search ends, for each of its
    processes, when all trials are done, of which there may be one more for each process beyond the first.

    Raises:
        CytoloopError: no trial was trained to its end.
        ServerAway: the shared study's database does not answer.
    """
    if not tune_params.trials:
        write_json(best_params / BEST_PARAMS, {"model": {}, "train": {}, "augment": {}, "val_macro_dice": None})
        write_trials(None, best_params / TRIALS)
        write_charts(None, best_params)
        return {"trials": 0.0}
    short = train_params.model_copy(update={"epochs": tune_params.epochs, "start_from": None})
    declared = Sections(model_params, short, augment_params)
    folders, whole = TrainingFolders(raw, splits, augmented), Sections(model_params, train_params, augment_params)
    share = share_of(folders, whole, tune_params.epochs, tune_params.pictures)
    data = Data(folders, tune_params.pictures, share)
    timed = tune_params.latency or tune_params.limits.latency_ms is not None
    first = as_declared(tune_params.space, declared)
    with open_study(_depends_on(data, tune_params, declared), _directions(tune_params), first) as study:
        Search(study, tune_params, declared, partial(prepare, data=data, timed=timed)).run()
        trials = read_trials(study)
        best = _best(trials)
        write_trials(study, best_params / TRIALS)
        write_charts(study, best_params, OBJECTIVES[: len(study.directions)])
        _write_best(best_params, declared, best)
        report(study, best_params, _told(tune_params, declared), read_card(raw))
    return _numbers(trials, best)


def _depends_on(data: Data, params: TuneParams, declared: Sections) -> list[Any]:
    sections = [params.model_dump(exclude={"trials", "minutes"}), *(section.model_dump() for section in declared)]
    return [data.folders.digests(), data.share, sections, provenance({}, {})["versions"]]


def _told(params: TuneParams, declared: Sections) -> dict[str, Any]:
    """What MLflow is told of the params, by dotted key."""
    sections = {"tune": params, **declared._asdict()}
    return flat({name: section.model_dump(mode="json") for name, section in sections.items()})


def _directions(params: TuneParams) -> list[str]:
    return ["maximize", "minimize"] if params.latency else ["maximize"]


def _best(trials: list[Trial]) -> Trial:
    best = best_trial(trials)
    if best is None:
        reasons = "; ".join(sorted({trial.reason for trial in trials if trial.reason})) or "their losses are no numbers"
        raise CytoloopError(
            f"tune: none of {len(trials)} trials was trained to its end: {reasons}. "
            "Raise tune.limits, or change tune.space"
        )
    return best


def _write_best(folder: Path, declared: Sections, best: Trial) -> None:
    measured = {"latency_ms": best.latency_ms} if len(best.values) > 1 else {}  # else a limit's, never the same twice
    won = changes(declared, dict(best.params))
    write_json(folder / BEST_PARAMS, {**won, "val_macro_dice": best.dice, "trial": best.number, **measured})


def _numbers(trials: list[Trial], best: Trial) -> Numbers:
    counts = {state: float(sum(trial.state == state for trial in trials)) for state in (PRUNED, SKIPPED)}
    return {"trials": float(len(trials)), **counts, "val_macro_dice": float(best.values[0])}
