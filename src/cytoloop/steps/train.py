"""train: fit the network to the train split, choose its epoch on val, and write the bundle."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cytoloop import notes, tracking
from cytoloop.artifacts import (
    BEST_PARAMS,
    HISTORY,
    VAL,
    Card,
    flat,
    read_card,
    read_json,
    read_params,
    read_rows,
    read_splits,
    sha256_file,
    write_csv,
)
from cytoloop.door import Input, Numbers, Output
from cytoloop.images.decode import decode_rgb
from cytoloop.model import checkpoints, distribution
from cytoloop.model import training as trainer
from cytoloop.model.architectures import build
from cytoloop.model.bundle import Description, read_bundle, write_bundle
from cytoloop.model.data import PictureStream, TrainingFolders, standardized, training_streams
from cytoloop.model.predict import Predictor
from cytoloop.params import AugmentParams, ModelParams, TrainParams, changed
from cytoloop.provenance import origin, provenance
from cytoloop.report import epochs
from cytoloop.report.curves import write_curves
from cytoloop.workspace import unfinished

CHECKPOINTS, EPOCHS = "checkpoints", "epochs"  # folders in the work folder, and in the model's


def train(
    raw: Input,
    splits: Input,
    augmented: Input,
    best_params: Input,
    model: Output,
    augment_params: AugmentParams,
    model_params: ModelParams,
    train_params: TrainParams,
) -> Numbers:
    """Train on the train rows and their augmented copies, judge each epoch on the val rows.

    Writes the bundle, history.csv (a line an epoch), the curves as PNG, a montage of val pictures before
    the first epoch and after each, run.json (what MLflow is told of it), and checkpoints where they are
    asked for. Killed and run again with nothing changed, it goes on after the last finished epoch and
    ends with the same weights. It never stops for an MLflow that is away. Where several devices train
    together (`model.distribution`), the chief alone writes.
    """
    won = read_json(best_params / BEST_PARAMS)
    model_params = changed(model_params, won["model"])
    train_params = changed(train_params, won.get("train", {}))
    augment_params = changed(augment_params, won.get("augment", {}))
    folders = TrainingFolders(raw, splits, augmented)
    with distribution.together() as replicas:
        if replicas is not None:
            train_params = replicas.scaled(train_params)
        stream, val = training_streams(folders, model_params, train_params.batch_size, augment_params)
        model_params = standardized(model_params, stream)
        card = read_card(raw)
        study = {"best_params": sha256_file(best_params / BEST_PARAMS)}
        digests = folders.digests() | study | checkpoints.start_digest(train_params)
        sections = {"augment": augment_params, "model": model_params, "train": train_params}
        facts = provenance(digests, sections | {"tune": read_params(best_params).get("tune", {})})
        work_of = [digests, facts["params"], facts["versions"]]
        if replicas is not None:
            facts["devices"] = replicas.count
            if not replicas.lead(work_of):
                return _follow(replicas, model_params, train_params, stream, val)
        with (
            unfinished("train", work_of) as work,
            tracking.start_run(tracking.experiment_name(), _run_name(card, model_params), {"work": work.name}) as run,
        ):
            run.send_search(best_params)
            run.log_params(_settings(facts))
            run.log_dataset(card.name, card.digest, "training")
            training = trainer.start(build, model_params, train_params, stream, replicas)
            checkpoints.begin(training, work / CHECKPOINTS)
            if replicas is not None:
                replicas.share_state(training)
            shown = epochs.choose(raw, splits, model_params, train_params.epoch_pictures)
            with _EpochBar(train_params.epochs, training.progress.epoch) as bar:
                diary = _Diary(work, run, epochs.Album(work / EPOCHS, shown, card.codec), bar)
                trainer.score_start(training, val)
                diary.draw(training)
                trainer.run(training, stream, val, diary.after_epoch)
            threshold = trainer.choose_threshold(training, val)
            min_object = trainer.choose_min_object(training, val, threshold)
            description = Description(model_params, card.codec, threshold, min_object, facts)
            digest = write_bundle(model, training.network, description)
            _write_history(model, training.progress.history)
            _write_sample(model, raw, splits)
            if shown:
                shutil.copytree(work / EPOCHS, model / EPOCHS)
            _record(work.name, card, facts, digest, training).write(model)
            run.complete(model)
            checkpoints.copy_kept(training, work / CHECKPOINTS, model / CHECKPOINTS)
    return {
        "epochs": float(training.progress.epoch),
        "best_epoch": float(training.progress.best_epoch + 1),
        "val_macro_dice": training.progress.best_score,
        "parameters": float(training.network.count_params()),
    }


def _follow(
    replicas: distribution.Replicas, model: ModelParams, params: TrainParams, stream: PictureStream, val: PictureStream
) -> Numbers:
    """What the workers beside the chief do: the same steps, and nothing is written."""
    training = trainer.start(build, model, params, stream, replicas)
    replicas.share_state(training)
    trainer.score_start(training, val)
    trainer.run(training, stream, val, after_epoch=lambda _: None)
    return {}


class _EpochBar:
    """A progress bar over epochs with the scores that matter."""

    def __init__(self, epochs: int, done: int) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=epochs, initial=done, desc="train", unit="epoch", mininterval=0)

    def __enter__(self) -> "_EpochBar":
        return self

    def show(self, line: dict[str, float]) -> None:
        self._bar.set_postfix(
            {"loss": f"{line['loss']:.3f}", "val Dice": f"{line['val_macro_dice']:.3f}"}, refresh=False
        )
        self._bar.update()

    def __exit__(self, *_: object) -> None:
        self._bar.close()


@dataclass(frozen=True)
class _Diary:
    """What is kept and shown of a training as it goes on."""

    work: Path
    run: tracking.LiveRun
    album: epochs.Album
    bar: _EpochBar

    def after_epoch(self, training: trainer.Training) -> None:
        line = training.progress.history[-1]
        epoch, figures = _figures(line)
        self.draw(training)
        checkpoints.save(training, self.work / CHECKPOINTS)
        self.run.log_metrics(figures, epoch)
        self.bar.show(line)

    def draw(self, training: trainer.Training) -> None:
        """What the network answers now."""
        with trainer.averaged(training):
            page = self.album.add(training.progress.epoch, _title(training.progress), training.ask)
        if page is not None:
            self.run.log_picture(page, EPOCHS, training.progress.epoch)


def _run_name(card: Card, model: ModelParams) -> str:
    return f"{card.name} {model.architecture}"


def _settings(facts: dict[str, Any]) -> dict[str, Any]:
    """The params by dotted name, but for those that are off."""
    return {name: value for name, value in flat(facts["params"]).items() if value is not None}


def _figures(line: trainer.Line) -> tuple[int, trainer.Line]:
    """An epoch's number, and the others by name."""
    return int(line["epoch"]), {name: value for name, value in line.items() if name != "epoch"}


def _record(work: str, card: Card, facts: dict[str, Any], digest: str, training: trainer.Training) -> tracking.Record:
    return tracking.Record(
        run_name=_run_name(card, training.model),
        work=work,
        params=_settings(facts),
        dataset=(card.name, card.digest, "training"),
        metrics=[_figures(line) for line in training.progress.history],
        tags={"model_digest": digest, "git_commit": facts["git_commit"], **origin()},
        artifact="model",
        leave_out=(CHECKPOINTS,),
        pictures=EPOCHS,
        note=notes.of_training(card.name, training.model.architecture, _best(training.progress), facts["git_commit"]),
    )


def _best(progress: trainer.Progress) -> tuple[int, float]:
    """The number of the best epoch, and its score."""
    return progress.best_epoch + 1, progress.best_score


def _title(progress: trainer.Progress) -> str:
    if not progress.history:
        known = f": val macro Dice {progress.best_score:.4f}" if progress.best_score >= 0 else ""
        return f"before training{known}"
    score = progress.history[-1]["val_macro_dice"]
    best = f"{progress.best_score:.4f} (epoch {progress.best_epoch + 1})"
    return f"epoch {progress.epoch}: val macro Dice {score:.4f}, best {best}"


def _write_history(model: Path, history: list[trainer.Line]) -> None:
    write_csv(
        model / HISTORY, list(history[0]), ([trainer.short(value) for value in line.values()] for line in history)
    )
    write_curves(model, history)


def _write_sample(model: Path, raw: Path, splits: Path) -> None:
    """The first val picture becomes the bundle's golden sample; `read_bundle` proves the bundle too."""
    val = {i for i, split in read_splits(splits).items() if split == VAL}
    row = next(read_rows(raw, val, ["image"]))
    Predictor(read_bundle(model)).write_sample(model, decode_rgb(row.image or b""))
