"""One trial's network: built, its cost known, ready to be trained for a few epochs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from cytoloop.errors import ModelError
from cytoloop.model import training as trainer
from cytoloop.model.architectures import build
from cytoloop.model.data import PictureStream, TrainingFolders, standardized, training_streams
from cytoloop.params import TrainParams
from cytoloop.tuning.limits import Cost, cost_of
from cytoloop.tuning.space import Sections

AfterEpoch = Callable[[int, float], None]
"""Told the epoch, counted from 1, and the macro Dice on val after it."""


class Unbuildable(Exception):
    """A network that cannot be: its settings do not go together, or there is no memory for it."""


class Data(NamedTuple):
    """What all candidates are trained on."""

    folders: TrainingFolders
    pictures: int
    """Training pictures at most, and val pictures."""
    share: float
    """Steps of a trial's training over those of the declared training."""


@dataclass(frozen=True)
class Candidate:
    """A network before its training."""

    training: trainer.Training
    stream: PictureStream
    val: PictureStream
    cost: Cost

    def train(self, after_epoch: AfterEpoch) -> float:
        """Train it; its best macro Dice on val.

        Raises:
            ModelError: its loss is not a number.
        """

        def tell(training: trainer.Training) -> None:
            after_epoch(training.progress.epoch, training.progress.history[-1]["val_macro_dice"])

        trainer.run(self.training, self.stream, self.val, tell)
        return self.training.progress.best_score


def share_of(folders: TrainingFolders, declared: Sections, epochs: int, pictures: int) -> float:
    """Steps of a trial, of so many epochs on so many pictures, over those of the training as declared."""
    model, train, augment = declared
    whole, _ = training_streams(folders, model, train.batch_size, augment)
    trial, _ = training_streams(folders, model, train.batch_size, augment, pictures)
    return epochs * trial.steps / (train.epochs * whole.steps)


def shortened(params: TrainParams, share: float) -> TrainParams:
    """The params for a training of a share of the steps: its average of the weights spans the same share of it.

    An average over the last hundred steps is the weights of a training of thousands; in one of two hundred it has
    hardly left the start, and what looks best then is the rate that is too high.
    """
    if params.ema_momentum is None or share >= 1:
        return params
    momentum = 1 - (1 - params.ema_momentum) / share
    return params.model_copy(update={"ema_momentum": momentum if momentum > 0 else None})


def prepare(sections: Sections, data: Data, timed: bool) -> Candidate:
    """Build the network of one trial; `timed` asks for its latency too.

    Raises:
        Unbuildable: it cannot be built.
    """
    model, augment = sections.model, sections.augment
    params = shortened(sections.train, data.share)
    stream, val = training_streams(data.folders, model, params.batch_size, augment, data.pictures)
    try:
        training = trainer.start(build, standardized(model, stream), params, stream)
        cost = cost_of(training, stream.batch_size, timed)
    except (ValueError, ModelError) as error:
        raise Unbuildable(f"it cannot be built: {str(error).strip().splitlines()[0]}") from error
    except Exception as error:
        if not out_of_memory(error):
            raise
        raise Unbuildable("it cannot be built: there is not enough memory for it") from error
    return Candidate(training, stream, val, cost)


def out_of_memory(error: Exception) -> bool:
    """Whether Python, or TensorFlow on its device, had no memory left."""
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"
