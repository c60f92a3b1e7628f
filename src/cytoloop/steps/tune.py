"""tune: a small search over the network's size by Optuna; only train and val are seen.

Alone, a process keeps its study in its work folder. Where $CYTOLOOP_STUDY_STORAGE names a database (an
SQLAlchemy address), all processes that search the same, by a fingerprint, share one study there: each
tries what the others have not begun, and takes over from those that died.
"""

import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cytoloop.artifacts import BEST_PARAMS, TRIALS, write_csv, write_json
from cytoloop.door import Input, Numbers, Output
from cytoloop.errors import CytoloopError, ServerAway
from cytoloop.model import training as trainer
from cytoloop.model.architectures import build
from cytoloop.model.data import PictureStream, TrainingFolders, standardized, training_streams
from cytoloop.params import AugmentParams, ModelParams, TrainParams, TuneParams
from cytoloop.provenance import fingerprint, provenance
from cytoloop.workspace import unfinished

Choice = dict[str, Any]

SHARED = "CYTOLOOP_STUDY_STORAGE"
HEARTBEAT = "CYTOLOOP_STUDY_HEARTBEAT"
DEFAULT_HEARTBEAT = 30
"""Seconds between signs of life of a process that shares a study."""
GRACE = 4
"""Heartbeats without one after which a process is taken for dead, and its trial is given to another."""
RETRIES = 3
"""How often a trial is given to another process; one that kills each of them is left alone."""
OPENING = 5
"""Attempts at making the tables: of several processes that begin at once, one makes them and the others fail."""


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
    again, it goes on with the trials that are missing. A shared search ends, for each of its processes,
    when all trials are done, of which there may be one more for each process beyond the first.

    Raises:
        ServerAway: the shared study's database does not answer.
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

    with _study([folders.digests(), sections, provenance({}, {})["versions"]]) as study:
        _search(study, score, tune_params, model_params)
        trials = [trial for trial in study.get_trials() if trial.state.is_finished()]
        best = study.best_trial
    _write_trials(best_params / TRIALS, trials)
    write_json(best_params / BEST_PARAMS, {"model": best.params, "val_macro_dice": best.value})
    return {"trials": float(len(trials)), "val_macro_dice": float(best.value)}


@contextmanager
def _study(depends_on: Any) -> Iterator[Any]:
    """The study of this very search; a shared one stays in its database, to be looked up by whoever asks again."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    address = os.environ.get(SHARED)
    if address:
        with _told(address):
            yield _shared_study(address, f"tune-{fingerprint(depends_on)[:16]}")
    else:
        with unfinished("tune", depends_on) as work:
            yield _own_study(work)


def _own_study(work: Path) -> Any:
    """Trials that an earlier, killed run finished are kept."""
    import optuna

    study = optuna.create_study(
        storage=f"sqlite:///{work / 'study.db'}", study_name="tune", direction="maximize", load_if_exists=True
    )
    for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # its process was killed
    return study


def _shared_study(address: str, name: str) -> Any:
    """A study whose processes show that they live; the trial of one that died is done again."""
    import optuna

    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # what Optuna calls its heartbeat
    heartbeat = _heartbeat()
    waiting = {"timeout": 60} if address.startswith("sqlite") else {"connect_timeout": 10}
    storage = _persistently(
        lambda: optuna.storages.RDBStorage(
            address,
            engine_kwargs={"pool_pre_ping": True, "connect_args": waiting},
            heartbeat_interval=heartbeat,
            grace_period=GRACE * heartbeat,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=RETRIES),
        )
    )
    return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)


def _persistently(make: Any) -> Any:
    from sqlalchemy.exc import DBAPIError

    for pause in (*range(1, OPENING), None):
        try:
            return make()
        except DBAPIError:
            if pause is None:
                raise
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _heartbeat() -> int:
    given = os.environ.get(HEARTBEAT) or str(DEFAULT_HEARTBEAT)
    if not given.isdecimal() or not int(given):
        raise CytoloopError(f"{HEARTBEAT}={given}: not a whole number of seconds, 1 or more")
    return int(given)


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Errors of the database leave as ours, in a line without user and password."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

    shown = re.sub("//.*@", "//", address).partition("?")[0]
    try:
        yield
    except (ArgumentError, NoSuchModuleError, ImportError):
        raise CytoloopError(
            f"{SHARED}: not an address that SQLAlchemy understands, or its driver is missing; give one such as "
            "postgresql+psycopg://user:password@host:5432/database"
        ) from None
    except (DBAPIError, StorageInternalError) as error:
        cause = error if isinstance(error, DBAPIError) else error.__cause__
        line = str(getattr(cause, "orig", None) or cause or error).strip().partition("\n")[0]
        line = re.sub(r"\S*@", "", line)  # a password with an @ in it is taken for a part of the host
        raise ServerAway(f"{SHARED}: {shown} does not answer ({line}); run this again when it does") from None


def _search(study: Any, score: Any, params: TuneParams, model: ModelParams) -> None:
    """Bring the study to all its trials: those that nobody has begun are done here, the others' are waited for."""
    import optuna
    from tqdm import tqdm

    space = {name: list(getattr(params, name)) for name in ("base_filters", "base_kernels", "num_layers")}
    as_it_is = {n: getattr(model, n) for n in space if getattr(model, n) in space[n]}
    study.enqueue_trial(as_it_is, skip_if_exists=True)

    def objective(trial: Any) -> float:
        choice = {name: trial.suggest_categorical(name, choices) for name, choices in space.items()}
        known = _known_score(study, choice)
        return float(score(choice)) if known is None else known

    done, begun = _progress(study)
    with tqdm(total=params.trials, initial=done, desc="tune", unit="trial", mininterval=0) as bar:
        while done < params.trials or begun:
            if done + begun < params.trials:
                # the sampler's state is not stored: seeding it by the trial's number makes a resumed search the same
                study.sampler = optuna.samplers.TPESampler(seed=params.seed * 1000 + done + begun)
                study.optimize(objective, n_trials=1)
                bar.set_postfix({"best val Dice": f"{study.best_value:.3f}"}, refresh=False)
            else:
                time.sleep(1)
                optuna.storages.fail_stale_trials(study)
            bar.update(_progress(study)[0] - done)
            done, begun = _progress(study)


def _progress(study: Any) -> tuple[int, int]:
    """Trials that are done, and those that a process is at."""
    states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
    return states.count("COMPLETE"), states.count("RUNNING")


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
