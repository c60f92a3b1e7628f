"""The one Predictor: evaluate, infer, `cytoloop predict` and serving all use it."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cytoloop.errors import ModelError
from cytoloop.images.codec import LabelCodec
from cytoloop.images.decode import decode_ids, decode_rgb, encode_rgb_png
from cytoloop.images.specks import without_specks
from cytoloop.model.bundle import (
    SAMPLE_FILES,
    SAMPLE_INPUT,
    SAMPLE_OUTPUT,
    SAMPLE_PROBABILITY,
    Bundle,
    fill_network,
    read_bundle,
    write_arrays,
)
from cytoloop.model.preprocess import join, lay, lay_back, view_scale, views
from cytoloop.params import ModelParams

Array = np.ndarray[Any, Any]

BATCH = 8
SAMPLE_TOLERANCE = 1e-3
"""Largest difference in probability at which another machine still gives the sample's answer."""


@dataclass(frozen=True)
class Prediction:
    """What the model says of one picture, at the picture's own size."""

    ids_HW: Array
    """uint8 class ids."""
    probability_HW: Array
    """float32, the probability of the class that was chosen."""


class Predictor:
    """A network ready to be asked, with its preprocessing, classes and threshold."""

    def __init__(self, bundle: Bundle) -> None:
        from cytoloop.model.architectures import build

        self._network = build(bundle.file.model)
        fill_network(self._network, bundle.arrays)
        self._call = compiled(self._network, bundle.file.model)
        self._model = bundle.file.model
        self._threshold = bundle.file.threshold
        self._min_object = bundle.file.min_object
        self.codec: LabelCodec = bundle.codec
        self.meta: dict[str, Any] = bundle.file.model_dump(mode="json")

    @classmethod
    def load(cls, folder: Path) -> "Predictor":
        """From a bundle's folder; raises ModelError when it is damaged or foreign."""
        return cls(read_bundle(Path(folder)))

    def predict(self, pictures: Sequence[Array]) -> list[Prediction]:
        """Class ids and probabilities for uint8 (H, W, 3) pictures of any sizes."""
        return [
            self.answer(said, *rgb_HW3.shape[:2]) for rgb_HW3, said in zip(pictures, self.ask(pictures), strict=True)
        ]

    def ask(self, pictures: Sequence[Array]) -> Iterator[list[Array]]:
        """What the network says of each picture's views: float32 (image_height, image_width, classes) each."""
        seen = [views(rgb_HW3, self._model) for rgb_HW3 in pictures]
        said = ask_views(self._call, [view for of_one in seen for view in of_one], self._model.turns)
        return ([next(said) for _ in of_one] for of_one in seen)

    def answer(self, said: Sequence[Array], height: int, width: int) -> Prediction:
        """The prediction for a picture of that size, of whose views the network `said` this."""
        probability_HWC = join(said, height, width, self._model)
        return choose_classes(
            probability_HWC, self._threshold, self._min_object * view_scale(height, width, self._model)
        )

    def check_sample(self, folder: Path) -> None:
        """Raise ModelError unless the bundle's sample gives the recorded answer."""
        off, agreement = self.compare_sample(folder)
        if off > SAMPLE_TOLERANCE or 1 - agreement > SAMPLE_TOLERANCE:
            raise ModelError(
                f"{folder}: its sample is answered differently here: probabilities differ by up to {off:.2g} "
                f"(allowed {SAMPLE_TOLERANCE:g}), {1 - agreement:.2%} of the pixels change class"
            )

    def compare_sample(self, folder: Path) -> tuple[float, float]:
        """Answer the bundle's sample.

        Returns:
            The largest difference in probability, and the share of pixels with the recorded class, both 0..1.

        Raises:
            ModelError: the bundle has no sample.
        """
        missing = [name for name in SAMPLE_FILES if not (folder / name).is_file()]
        if missing:
            raise ModelError(f"{folder}: has no golden sample ({', '.join(missing)}); train the model again")
        prediction = self.predict([decode_rgb((folder / SAMPLE_INPUT).read_bytes())])[0]
        with np.load(folder / SAMPLE_PROBABILITY, allow_pickle=False) as archive:
            expected_HW = archive["probability"]
        expected_ids_HW = decode_ids((folder / SAMPLE_OUTPUT).read_bytes())
        off = float(np.abs(prediction.probability_HW - expected_HW).max())
        return off, float((prediction.ids_HW == expected_ids_HW).mean())

    def write_sample(self, folder: Path, rgb_HW3: Array) -> None:
        """Record a picture and the model's answer to it."""
        prediction = self.predict([rgb_HW3])[0]
        (folder / SAMPLE_INPUT).write_bytes(encode_rgb_png(rgb_HW3))
        (folder / SAMPLE_OUTPUT).write_bytes(self.codec.encode_png(prediction.ids_HW))
        write_arrays(folder / SAMPLE_PROBABILITY, {"probability": prediction.probability_HW})


def ask_views(call: Callable[[Array], Array], seen: Sequence[Array], turns: int) -> Iterator[Array]:
    """The answer to each view, float32 (h, w, classes): the mean of those to its `turns`, laid back."""
    each = _in_batches(call, [lay(view, way) for view in seen for way in range(turns)])
    for _ in seen:
        laid_back = [lay_back(answer, way) for way, answer in enumerate(itertools.islice(each, turns))]
        yield laid_back[0] if turns == 1 else np.asarray(np.mean(laid_back, 0, np.float32))


def _in_batches(call: Callable[[Array], Array], seen: Sequence[Array]) -> Iterator[Array]:
    for start in range(0, len(seen), BATCH):
        yield from call(np.stack(seen[start : start + BATCH]))


def choose_classes(probability_HWC: Array, threshold: float, min_pixels: float) -> Prediction:
    """Class ids with specks removed, and the probability of the class that each pixel got.

    Args:
        probability_HWC: float32 (H, W, classes), or (H, W, 1) of the foreground.
        threshold: for one channel: foreground is at or above it.
        min_pixels: regions with fewer pixels are specks (see `images.specks`).
    """
    ids_HW = without_specks(hard_labels(probability_HWC, threshold), probability_HWC, min_pixels)
    if probability_HWC.shape[-1] == 1:
        foreground_HW = probability_HWC[..., 0]
        return Prediction(ids_HW, np.where(ids_HW == 1, foreground_HW, 1 - foreground_HW).astype(np.float32))
    return Prediction(ids_HW, np.take_along_axis(probability_HWC, ids_HW[..., None].astype(np.intp), -1)[..., 0])


def hard_labels(probability: Array, threshold: float = 0.5) -> Array:
    """uint8 (..., H, W) of (..., H, W, C): the likeliest class, or foreground at or above the threshold for C = 1."""
    if probability.shape[-1] == 1:
        return np.asarray(probability[..., 0] >= threshold, np.uint8)
    return np.asarray(np.argmax(probability, -1), np.uint8)


def compiled(network: Any, model: ModelParams) -> Any:
    """A function from uint8 (B, H, W, C), any B, to float32 (B, H, W, classes), as one graph."""
    import tensorflow as tf

    shape = (None, model.image_height, model.image_width, model.image_channels)

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.uint8)], jit_compile=False)  # type: ignore[untyped-decorator]
    def call(pictures: Any) -> Any:
        return network(tf.cast(pictures, tf.float32), training=False)

    return lambda pictures_BHWC: call(pictures_BHWC).numpy()
