"""The average of the weights judges, and never trains."""

from pathlib import Path

from cytoloop.model import training as trainer
from cytoloop.model.architectures import build
from cytoloop.model.data import PictureStream
from cytoloop.params import ModelParams, TrainParams
from tables import mask_of, row, write_table

MODEL = ModelParams(
    architecture="leanunet", num_classes=3, image_width=32, image_height=32, num_layers=2, base_filters=2
)


def test_every_epoch_starts_from_the_trained_weights_and_not_from_their_average(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table", [row(f"p{i}", mask_HW=mask_of(32, 32, 8 + i)) for i in range(4)])
    stream = PictureStream([(table, None)], MODEL, 2)

    def losses(momentum: float | None) -> tuple[list[float], list[float]]:
        training = trainer.start(build, MODEL, TrainParams(epochs=4, ema_momentum=momentum), stream)
        trainer.run(training, stream, stream, lambda _: None)
        return tuple([line[name] for line in training.progress.history] for name in ("loss", "val_loss"))

    (plain, plain_val), (averaged, averaged_val) = losses(None), losses(0.9)
    assert averaged == plain
    assert averaged_val != plain_val
