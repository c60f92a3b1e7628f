"""tune: a small search over the network's size by Optuna; only train and val are seen."""

from pathlib import Path
from typing import Any

from cytoloop.artifacts import BEST_PARAMS, TRIALS, write_csv, write_json
from cytoloop.door import Input, Numbers, Output
from cytoloop.model import training as trainer
from cytoloop.model.architectures import build
from cytoloop.model.data import PictureStream, TrainingFolders, standardized, training_streams
from cytoloop.params import AugmentParams, ModelParams, TrainParams, TuneParams
from cytoloop.workspace import unfinished

Choice = dict[str, Any]


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
    """Try networks of several sizes for a few epochs and keep the one with the best val macro Dice.

    Writes best_params.json ({"model": the winning settings}) and trials.csv. The first trial is the
    model section as it is, so that a search never ends below it on its own measure. Killed and run
    again, it goes on with the trials that are missing.
    """
    if not tune_params.trials:
        write_json(best_params / BEST_PARAMS, {"model": {}, "val_macro_dice": None})
        (best_params / TRIALS).write_text("trial,state,val_macro_dice\n", "utf-8")
        return {"trials": 0.0}
    short = train_params.model_copy(update={"epochs": tune_params.epochs, "start_from": None})
    folders = TrainingFolders(raw, splits, augmented)
    sections = [section.model_dump() for section in (tune_params, augment_params, model_params, short)]

    def score(choice: Choice) -> float:
        model = model_params.model_copy(update=choice)
        stream, val = training_streams(folders, model, short.batch_size, augment_params, tune_params.pictures)
        return _train_briefly(standardized(model, stream), short, stream, val)

    with unfinished("tune", [folders.digests(), sections]) as work:
        study = _search(score, work, tune_params, model_params)
        trials = study.get_trials()
        best = study.best_trial
    _write_trials(best_params / TRIALS, trials)
    write_json(best_params / BEST_PARAMS, {"model": best.params, "val_macro_dice": best.value})
    return {"trials": float(len(trials)), "val_macro_dice": float(best.value)}


def _search(score: Any, work: Path, params: TuneParams, model: ModelParams) -> Any:
    """The study with all its trials; trials that an earlier, killed run finished are kept."""
    import optuna
    from tqdm import tqdm

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{work / 'study.db'}", study_name="tune", direction="maximize", load_if_exists=True
    )
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # its process was killed
    space = {name: list(getattr(params, name)) for name in ("base_filters", "base_kernels", "num_layers")}
    if not study.get_trials():
        study.enqueue_trial({n: getattr(model, n) for n in space if getattr(model, n) in space[n]})

    def objective(trial: Any) -> float:
        choice = {name: trial.suggest_categorical(name, choices) for name, choices in space.items()}
        known = _known_score(study, choice)
        return float(score(choice)) if known is None else known

    finished = _finished(study)
    with tqdm(total=params.trials, initial=finished, desc="tune", unit="trial", mininterval=0) as bar:
        while finished < params.trials:
            # the sampler's state is not stored: seeding it by the trial's number makes a resumed search the same
            study.sampler = optuna.samplers.TPESampler(seed=params.seed * 1000 + finished)
            study.optimize(objective, n_trials=1)
            finished += 1
            bar.set_postfix({"best val Dice": f"{study.best_value:.3f}"}, refresh=False)
            bar.update()
    return study


def _finished(study: Any) -> int:
    return sum(trial.state.name == "COMPLETE" for trial in study.get_trials())


def _known_score(study: Any, choice: Choice) -> float | None:
    """The score of the same choice in an earlier trial: a small space repeats itself."""
    for trial in study.get_trials():
        if trial.state.name == "COMPLETE" and trial.params == choice:
            return float(trial.value)
    return None


def _train_briefly(model: ModelParams, params: TrainParams, stream: PictureStream, val: PictureStream) -> float:
    training = trainer.start(build, model, params, stream)
    trainer.run(training, stream, val, after_epoch=lambda _: None)
    return training.progress.best_score


def _write_trials(path: Path, trials: list[Any]) -> None:
    names = sorted({name for trial in trials for name in trial.params})
    lines = ([t.number, t.state.name.lower(), t.value, *(t.params.get(name) for name in names)] for t in trials)
    write_csv(path, ["trial", "state", "val_macro_dice", *names], lines)
