"""train: fit the network to the train split, choose its epoch on val, and write the bundle."""

from pathlib import Path

from cytoloop import tracking
from cytoloop.artifacts import (
    BEST_PARAMS,
    HISTORY,
    SPLITS,
    VAL,
    flat,
    read_card,
    read_json,
    read_rows,
    read_splits,
    sha256_file,
    write_csv,
)
from cytoloop.door import Input, Numbers, Output
from cytoloop.images.decode import decode_rgb
from cytoloop.model import training as trainer
from cytoloop.model.architectures import build
from cytoloop.model.bundle import Description, read_bundle, write_bundle
from cytoloop.model.data import training_streams
from cytoloop.model.predict import Predictor
from cytoloop.params import ModelParams, TrainParams
from cytoloop.provenance import provenance
from cytoloop.report.curves import write_curves
from cytoloop.workspace import unfinished


def train(
    raw: Input,
    splits: Input,
    augmented: Input,
    best_params: Input,
    model: Output,
    model_params: ModelParams,
    train_params: TrainParams,
) -> Numbers:
    """Train on the train rows and their augmented copies, judge each epoch on the val rows.

    Writes the bundle, history.csv (a line an epoch) and the curves as PNG. Killed and run again with
    nothing changed, it goes on after the last finished epoch and ends with the same weights.
    """
    model_params = model_params.model_copy(update=read_json(best_params / BEST_PARAMS)["model"])
    sections = {"model": model_params, "train": train_params}
    card = read_card(raw)
    digests = {
        "raw": card.digest,
        "splits": sha256_file(splits / SPLITS),
        "augmented": read_card(augmented).digest,
    }
    facts = provenance(digests, sections)
    stream, val = training_streams(raw, splits, augmented, model_params, train_params.batch_size)
    with (
        unfinished("train", [digests, facts["params"], facts["versions"]]) as work,
        tracking.start_run(tracking.experiment_name(), f"train {model_params.architecture}", {}) as run,
    ):
        run.log_params(flat(facts["params"]))
        run.log_dataset(card.name, card.digest, "training")
        training = trainer.start(build, model_params, train_params, stream)
        trainer.restore(training, work)
        with _EpochBar(train_params.epochs, training.progress.epoch) as bar:
            trainer.run(training, stream, val, lambda state: _after_epoch(state, work, run, bar))
        threshold = trainer.choose_threshold(training, val)
        min_object = trainer.choose_min_object(training, val, threshold)
        description = Description(model_params, card.codec, threshold, min_object, facts)
        digest = write_bundle(model, training.network, description)
        history = training.progress.history
        write_csv(model / HISTORY, list(history[0]), ([_short(value) for value in line.values()] for line in history))
        write_curves(model, history)
        _write_sample(model, raw, splits)
        run.log_artifacts(model, "model")
        run.set_tags({"model_digest": digest, "git_commit": facts["git_commit"]})
    return {
        "epochs": float(training.progress.epoch),
        "best_epoch": float(training.progress.best_epoch + 1),
        "val_macro_dice": training.progress.best_score,
        "parameters": float(training.network.count_params()),
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _after_epoch(state: trainer.Training, work: Path, run: tracking.Run, bar: "_EpochBar") -> None:
    line = state.progress.history[-1]
    trainer.save(state, work)
    run.log_metrics({name: value for name, value in line.items() if name != "epoch"}, state.progress.epoch)
    bar.show(line)


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


def _write_sample(model: Path, raw: Path, splits: Path) -> None:
    """The first val picture becomes the bundle's golden sample; `read_bundle` proves the bundle too."""
    val = {i for i, split in read_splits(splits).items() if split == VAL}
    row = next(read_rows(raw, val, ["image"]))
    Predictor(read_bundle(model)).write_sample(model, decode_rgb(row.image or b""))
