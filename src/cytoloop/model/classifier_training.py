"""Training of the classifier, an epoch at a time, with a checkpoint after each.

A checkpoint is two files: `epoch-0007.npz`, every variable of network and optimizer (dropout's random
state is among them), and `epoch-0007.json`, its facts. The facts are written last, so that a
checkpoint without them is unfinished. What an epoch does depends on the state before it and on
(seed, epoch) alone: a training that goes on from a checkpoint ends as one that was left alone.
"""

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cytoloop.artifacts import read_json, sha256_file, write_json
from cytoloop.beside import beside
from cytoloop.errors import ModelError
from cytoloop.model import quiet_start
from cytoloop.model.bundle import read_arrays, write_arrays
from cytoloop.model.classifier_data import LabelledStream
from cytoloop.model.classifier_network import Scaling, build
from cytoloop.model.losses import class_weights
from cytoloop.model.optimizers import piecewise
from cytoloop.params import ClassifierParams

if TYPE_CHECKING:
    import keras

Line = dict[str, float]
"""One epoch's numbers: a row of history.csv."""
COLUMNS = ("epoch", "learning_rate", "loss", "accuracy", "val_loss", "val_accuracy")


@dataclass
class Training:
    """A network with the state of its training."""

    network: "keras.Model"
    params: ClassifierParams
    scaling: Scaling
    names: tuple[str, ...]
    """Of the classes."""
    statistics: list[Line] = field(default_factory=list)
    """A line for each finished epoch."""

    @property
    def best(self) -> Line:
        """The epoch with the highest validation accuracy; the lower loss, then the earlier epoch, breaks a tie."""
        return max(self.statistics, key=lambda line: (line["val_accuracy"], -line["val_loss"]))


def start(params: ClassifierParams, scaling: Scaling, names: tuple[str, ...]) -> Training:
    """A fresh training: seeds set, network built, nothing learnt; Adam (Kingma and Ba 2015, arXiv:1412.6980)."""
    with quiet_start():
        import keras
        import tensorflow as tf

    keras.backend.clear_session()
    keras.utils.set_random_seed(params.seed)
    tf.config.experimental.enable_op_determinism()
    network = build(params, scaling, len(names))
    network.compile(
        optimizer=keras.optimizers.Adam(params.learning_rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=False,  # XLA is slower than TensorFlow's own kernels on a CPU
    )
    network.optimizer.build(network.trainable_variables)
    return Training(network, params, scaling, names)


def run(
    training: Training,
    stream: LabelledStream,
    val: LabelledStream,
    counts: tuple[int, ...],
    after_epoch: Callable[[Training], None],
) -> None:
    """Train to the last epoch.

    Args:
        training: fresh, or restored from a checkpoint.
        stream: the training pictures.
        val: the pictures that choose the epoch.
        counts: training pictures of each class; they shape the weights.
        after_epoch: called with the training after each epoch (to save, log and show it).
    """
    cap = training.params.class_weight_cap
    weights_C = np.asarray(class_weights(counts, cap) if cap is not None else [1.0] * len(counts), np.float32)
    for epoch in range(len(training.statistics) + 1, training.params.epochs + 1):
        training.statistics.append(_epoch(training, epoch, stream, weights_C) | _judge(training, val))
        if np.isnan(training.statistics[-1]["loss"]):
            raise ModelError(f"epoch {epoch}: the loss is not a number; lower classifier.learning_rate")
        after_epoch(training)


def _epoch(training: Training, epoch: int, stream: LabelledStream, weights_C: Any) -> Line:
    network, params = training.network, training.params
    rate = piecewise(params, epoch)
    network.optimizer.learning_rate.assign(rate)
    pictures = stream.epoch(params.seed, epoch, params.flips)
    weighed = ((batch, classes, weights_C[classes]) for batch, classes in pictures)
    fitted = network.fit(weighed, steps_per_epoch=stream.steps, shuffle=False, verbose=0).history
    return {"epoch": float(epoch), "learning_rate": rate} | {name: float(values[-1]) for name, values in fitted.items()}


def _judge(training: Training, val: LabelledStream) -> Line:
    found = training.network.evaluate(val.in_order(), steps=val.steps, verbose=0, return_dict=True)
    return {f"val_{name}": float(value) for name, value in found.items()}


# --------------------------------------------------------------------------------------- checkpoints


def save(training: Training, folder: Path) -> None:
    """Write the checkpoint of the last epoch; of older ones the newest and the best stay."""
    path = _path(folder, training.statistics[-1])
    with beside(path) as part:
        write_arrays(part, {f"{i:05d}": np.asarray(variable) for i, variable in enumerate(_variables(training))})
    write_json(path.with_suffix(".json"), _facts(training, sha256_file(path)))
    _prune(training, folder)


def _facts(training: Training, sha256: str) -> dict[str, Any]:
    last, best = training.statistics[-1], training.best
    return {
        "epoch": int(last["epoch"]),
        "batch_size": training.params.batch_size,
        "learning_rate": last["learning_rate"],
        "mean": list(training.scaling.mean),
        "std": list(training.scaling.std),
        "labels": list(training.names),
        "best_epoch": int(best["epoch"]),
        "best_val_accuracy": best["val_accuracy"],
        "statistics": training.statistics,
        "arrays_sha256": sha256,
    }


def _prune(training: Training, folder: Path) -> None:
    kept = {_path(folder, line) for line in [*training.statistics[-training.params.checkpoints :], training.best]}
    for path in set(folder.glob("epoch-*.npz")) - kept:
        path.with_suffix(".json").unlink(missing_ok=True)
        path.unlink()


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint in a folder; a damaged one is passed over."""
    for facts in sorted(folder.glob("epoch-*.json"), reverse=True):
        with contextlib.suppress(ModelError):
            _read_facts(facts.with_suffix(".npz"))
            return facts.with_suffix(".npz")
    return None


def adopt(checkpoint: Path, folder: Path) -> None:
    """Copy a checkpoint, with the best one up to then, to the folder of a training that is to go on from it.

    Raises:
        ModelError: one of the two is not there, or damaged.
    """
    best = checkpoint.with_name(f"epoch-{_read_facts(checkpoint)['best_epoch']:04d}.npz")
    for path in (best, checkpoint):
        _read_facts(path)
        shutil.copyfile(path, folder / path.name)
        shutil.copyfile(path.with_suffix(".json"), (folder / path.name).with_suffix(".json"))


def identity(checkpoint: Path) -> str:
    """SHA-256 of a checkpoint's facts, which have that of its arrays; raises ModelError as `adopt` does."""
    _read_facts(checkpoint)
    return sha256_file(checkpoint.with_suffix(".json"))


def scaling_of(checkpoint: Path) -> Scaling:
    """The mean and deviation that a checkpoint was trained with."""
    facts = _read_facts(checkpoint)
    return Scaling(tuple(facts["mean"]), tuple(facts["std"]))


def restore(training: Training, checkpoint: Path) -> None:
    """Bring a training to the state of a checkpoint.

    Raises:
        ModelError: the checkpoint is damaged, or of another network or other labels.
    """
    facts = _read_facts(checkpoint)
    if tuple(facts["labels"]) != training.names:
        raise ModelError(f"{checkpoint}: trained on {facts['labels']}, the data has {list(training.names)}")
    _fill(training, checkpoint)
    training.statistics = facts["statistics"]


def take_best(training: Training, folder: Path) -> None:
    """Give the network the variables of the best epoch's checkpoint; raises ModelError when it is damaged."""
    path = _path(folder, training.best)
    _read_facts(path)
    _fill(training, path)


def _fill(training: Training, checkpoint: Path) -> None:
    arrays, variables = list(read_arrays(checkpoint).values()), _variables(training)
    if [array.shape for array in arrays] != [tuple(variable.shape) for variable in variables]:
        raise ModelError(f"{checkpoint}: of another network; set `classifier` as it was when it was written")
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _read_facts(checkpoint: Path) -> Any:
    facts = checkpoint.with_suffix(".json")
    if not (checkpoint.is_file() and facts.is_file()):
        raise ModelError(f"{checkpoint}: no such checkpoint (an .npz with a .json beside it)")
    told = read_json(facts)
    if sha256_file(checkpoint) != told["arrays_sha256"]:
        raise ModelError(f"{checkpoint}: its SHA-256 is not the one in {facts.name}; go on from another checkpoint")
    return told


def _path(folder: Path, line: Line) -> Path:
    return folder / f"epoch-{int(line['epoch']):04d}.npz"


def _variables(training: Training) -> list[Any]:
    return [*training.network.variables, *training.network.optimizer.variables]
