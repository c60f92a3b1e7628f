"""Training, one `fit` an epoch, so that after each the whole state can be put on disk.

How it works. An epoch is one `keras.Model.fit` over the stream's epoch, or what stands in its place where
several devices train together (`distribution`); between epochs plain code
validates the averaged weights (EMA), moves the learning rate and keeps the best weights; what it
decides by is in `Training` alone, which `checkpoints` puts on disk. Since the data's order depends on
(seed, epoch) alone, a training that is killed and goes on from there ends with the same weights as
one that was left alone.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cytoloop.errors import ModelError
from cytoloop.model import quiet_start
from cytoloop.model.architectures.encoders import load_pretrained
from cytoloop.model.bundle import arrays_of, fill_network
from cytoloop.model.data import PictureStream
from cytoloop.model.distribution import Epoch, Replicas
from cytoloop.model.losses import Function, Weights, class_weights, keras_loss, loss, metric
from cytoloop.model.optimizers import optimizer, piecewise
from cytoloop.model.predict import ask_views, choose_classes, compiled, hard_labels
from cytoloop.model.preprocess import join, view_scale, views
from cytoloop.params import ModelParams, TrainParams
from cytoloop.scores.pixels import confusion, dice, image_mean, macro

if TYPE_CHECKING:
    import keras

Array = np.ndarray[Any, Any]
Line = dict[str, float]
"""One epoch's numbers: a row of history.csv."""
Ask = Callable[[Array], Array]
"""From uint8 (B, H, W, C) to float32 (B, H, W, classes), for any B."""

MIN_OBJECTS = (0, 4, 8, 16, 32, 64)
"""Choices for the size below which a region is a speck, pixels at the network's picture size."""


@dataclass
class Progress:
    """The numbers that a training's decisions rest on."""

    epoch: int = 0
    """Epochs finished."""
    best_score: float = -1.0
    best_epoch: int = -1
    best_loss: float = float("inf")
    epochs_since_best_loss: int = 0
    history: list[Line] = field(default_factory=list)


@dataclass
class Training:
    """A network with the state of its training."""

    network: "keras.Model"
    model: ModelParams
    params: TrainParams
    ask: Ask
    """The network's answers with the weights that it holds at that time."""
    class_weights: Weights = None
    replicas: Replicas | None = None
    """The devices that train together; None: there is one."""
    fit_together: Epoch | None = None
    """What they do in an epoch."""
    progress: Progress = field(default_factory=Progress)
    best: dict[str, Array] = field(default_factory=dict)
    """Averaged weights of the best epoch; at first those of the bundle that it starts from, if any."""


def short(value: float) -> float:
    """A number with six digits, as it stands in tables for people."""
    return float(f"{value:.6g}")


def start(
    build: Callable[[ModelParams], "keras.Model"],
    model: ModelParams,
    params: TrainParams,
    stream: PictureStream,
    replicas: Replicas | None = None,
) -> Training:
    """A fresh training: seeds set, network built and compiled, nothing learnt.

    An encoder has its pretrained weights, unless the training starts from weights of its own.

    Args:
        build: makes the network.
        stream: its steps and class frequencies shape the learning rate and the loss.
        replicas: the devices that train together; None: there is one.

    Raises:
        ModelError: a batch cannot be divided among the replicas.
    """
    with quiet_start():
        import keras
        import tensorflow as tf

    keras.backend.clear_session()
    keras.utils.set_random_seed(params.seed)
    tf.config.experimental.enable_op_determinism()
    cap = params.class_weight_cap
    weights = None if cap is None else class_weights(stream.class_pixels, cap)
    with contextlib.nullcontext() if replicas is None else replicas.scope(stream):
        network = build(model)
        if params.start_from is None:
            load_pretrained(network, model)
        network.compile(
            optimizer=optimizer(params, stream.steps),
            loss=keras_loss(params.loss, weights),
            metrics=[metric(name) for name in params.metrics],
            jit_compile=False,  # XLA is slower than TensorFlow's own kernels on a CPU
        )
        network.optimizer.build(network.trainable_variables)
    together = None if replicas is None else replicas.fitter(network, _functions(params, weights))
    return Training(network, model, params, compiled(network, model), weights, replicas, together)


def score_start(training: Training, val: PictureStream) -> None:
    """Judge weights that came from a bundle, so that training can only better them."""
    if training.best and not training.progress.history:
        training.progress.best_score = _validator(training, val)()["val_macro_dice"]


def run(training: Training, stream: PictureStream, val: PictureStream, after_epoch: Callable[[Training], None]) -> None:
    """Train to the last epoch or until patience is spent; the network ends with the best weights.

    Args:
        training: fresh, or brought to an earlier state by `checkpoints`.
        stream: the training pictures.
        val: the pictures that choose the epoch.
        after_epoch: called with the training after each epoch (to save, log and show it).
    """
    validate = _validator(training, val)
    progress, params = training.progress, training.params
    while progress.epoch < params.epochs and progress.epoch - 1 - progress.best_epoch < params.patience:
        if params.schedule == "piecewise":
            training.network.optimizer.learning_rate.assign(piecewise(params, progress.epoch + 1))
        line = _fit(training, stream)
        line["learning_rate"] = float(np.asarray(training.network.optimizer.learning_rate))
        with averaged(training):
            line |= validate()
            _keep_best(training, line)
        progress.epoch += 1
        progress.history.append({"epoch": float(progress.epoch), **line})
        if params.schedule == "reduce_on_plateau":
            _reduce_learning_rate(training, line["val_loss"])
        after_epoch(training)
    fill_network(training.network, training.best)


def _fit(training: Training, stream: PictureStream) -> Line:
    """One epoch; the network ends with the weights that were trained.

    With an average of the weights, keras ends each `fit` by putting the average in their place: the next
    epoch would start from it, and a training of short epochs would crawl.
    """
    import keras

    if training.fit_together is not None:
        return training.fit_together(stream, training.params.seed, training.progress.epoch)
    variables = training.network.trainable_variables
    trained: list[Array] = []
    keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: trained.extend(v.numpy() for v in variables))
    pictures = stream.epoch(training.params.seed, training.progress.epoch)
    fitted = training.network.fit(pictures, verbose=0, shuffle=False, callbacks=[keep]).history
    for variable, value in zip(variables, trained, strict=True):
        variable.assign(value)
    return {name: float(values[-1]) for name, values in fitted.items()}


def _keep_best(training: Training, line: Line) -> None:
    score = line["val_macro_dice"]
    if np.isnan(line["loss"]) or np.isnan(line["val_loss"]):
        raise ModelError(
            f"epoch {training.progress.epoch + 1}: the loss is not a number; lower train.learning_rate "
            "or set train.clip_norm = 1.0"
        )
    if score > training.progress.best_score:
        training.progress.best_score, training.progress.best_epoch = score, training.progress.epoch
        training.best = {name: array.copy() for name, array in arrays_of(training.network).items()}


def _reduce_learning_rate(training: Training, val_loss: float) -> None:
    """Keras' ReduceLROnPlateau, with its counters in `Progress` so that they survive a restart."""
    progress, params = training.progress, training.params
    progress.epochs_since_best_loss += 1
    if val_loss < progress.best_loss:
        progress.best_loss, progress.epochs_since_best_loss = val_loss, 0
    elif progress.epochs_since_best_loss >= params.reducer_patience:
        rate = training.network.optimizer.learning_rate
        rate.assign(rate * params.reducer_factor)
        progress.epochs_since_best_loss = 0


@contextlib.contextmanager
def averaged(training: Training) -> Iterator[None]:
    """Let the network hold the averaged weights for a while, where there are any: not before the first step."""
    network = training.network
    if training.params.ema_momentum is None or not int(np.asarray(network.optimizer.iterations)):
        yield
        return
    variables = network.trainable_variables
    trained = [variable.numpy() for variable in variables]
    network.optimizer.finalize_variable_values(variables)
    yield
    for variable, value in zip(variables, trained, strict=True):
        variable.assign(value)


def _validator(training: Training, val: PictureStream) -> Callable[[], Line]:
    """A function that scores the network on `val`: loss, the metrics by name, macro Dice and each class's.

    val_dice/CLASS is Dice pooled over pictures, hard labels, at the network's picture size, of each foreground
    class that `val` has; val_macro_dice is the mean over these and those that were found wrongly.
    """
    import tensorflow as tf

    functions = _functions(training.params, training.class_weights)
    classes = max(training.model.num_classes, 2)

    def validate() -> Line:
        confusion_CC = np.zeros((classes, classes), np.int64)
        sums, seen = dict.fromkeys(functions, 0.0), 0
        for pictures, truth in val.in_order():
            probability = training.ask(pictures)
            for name, function in functions.items():
                sums[name] += len(truth) * float(function(tf.constant(truth), tf.constant(probability)))
            confusion_CC += confusion(truth, hard_labels(probability), classes)
            seen += len(truth)
        line = {f"val_{name}": total / seen for name, total in sums.items()}
        line |= {"val_macro_dice": float(np.nan_to_num(macro(dice(confusion_CC))))}
        line |= _by_class(confusion_CC, val.class_names)
        return line if training.replicas is None else training.replicas.agree(line)

    return validate


def _by_class(confusion_CC: Array, names: Sequence[str]) -> Line:
    there = [i for i in range(1, len(confusion_CC)) if confusion_CC[i].any()]
    dice_C = dice(confusion_CC)
    return {f"val_dice/{names[i]}": float(dice_C[i]) for i in there}


def _functions(params: TrainParams, weights: Weights) -> dict[str, Function]:
    """The loss and the metrics by name."""
    return {"loss": loss(params.loss, weights)} | {name: metric(name) for name in params.metrics}


def choose_threshold(training: Training, val: PictureStream) -> float:
    """The foreground threshold with the best per-image Dice on `val`; 0.5 for softmax heads."""
    if training.model.num_classes > 1:
        return 0.5
    thresholds = [round(0.2 + 0.05 * step, 2) for step in range(13)]
    confusion_MT22: list[list[Array]] = []
    for truth_HW, probability_HWC in _answers(training, val):
        foreground_HW = (truth_HW > 0).astype(np.uint8)
        confusion_MT22.append([confusion(foreground_HW, hard_labels(probability_HWC, t), 2) for t in thresholds])
    scores_T = np.nan_to_num(image_mean(dice(np.array(confusion_MT22)))[:, 1])
    # the nearest to 0.5 among the best, so that a flat optimum gives a plain threshold
    best = max(range(len(thresholds)), key=lambda i: (round(float(scores_T[i]), 4), -abs(thresholds[i] - 0.5)))
    return thresholds[best]


def choose_min_object(training: Training, val: PictureStream, threshold: float) -> int:
    """Pixels below which a region is a speck: the choice with the best per-image macro Dice on `val`."""
    classes = max(training.model.num_classes, 2)
    confusion_MNCC: list[list[Array]] = [[] for _ in MIN_OBJECTS]
    for truth_HW, probability_HWC in _answers(training, val):
        height, width = truth_HW.shape
        scale = view_scale(height, width, training.model)
        for pictures, min_object in zip(confusion_MNCC, MIN_OBJECTS, strict=True):
            ids_HW = choose_classes(probability_HWC, threshold, min_object * scale).ids_HW
            pictures.append(confusion(truth_HW, ids_HW, classes))
    scores = [float(np.nan_to_num(macro(image_mean(dice(np.stack(pictures)))))) for pictures in confusion_MNCC]
    return MIN_OBJECTS[int(np.argmax(np.round(scores, 4)))]


def _answers(training: Training, val: PictureStream) -> Iterator[tuple[Array, Array]]:
    """Truth (H, W) and probabilities (H, W, C) of each val picture, at its own size, as `Predictor` joins them."""
    for rgb_HW3, truth_HW in val.whole():
        said = list(ask_views(training.ask, views(rgb_HW3, training.model), training.model.turns))
        height, width = truth_HW.shape
        yield truth_HW, join(said, height, width, training.model)
