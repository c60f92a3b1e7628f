"""infer: masks for new pictures, by the finished model."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from cytoloop.artifacts import TEST, read_rows, read_splits
from cytoloop.door import Input, Numbers, Output
from cytoloop.model.predict import Predictor
from cytoloop.params import InferParams
from cytoloop.predictions import find_pictures, write_predictions


def infer(raw: Input, splits: Input, model: Input, predictions: Output, infer_params: InferParams) -> Numbers:
    """Predict the folder `infer.images`, or the first test pictures when there is none."""
    if infer_params.images is None:
        pictures = _test_pictures(raw, splits, infer_params.limit)
    else:
        found = find_pictures([Path(infer_params.images)])
        pictures = ((path.name, path.read_bytes()) for path in found)
    return write_predictions(Predictor.load(model), pictures, predictions, infer_params.overlay)


def _test_pictures(raw: Path, splits: Path, limit: int) -> Iterator[tuple[str, bytes]]:
    test = {i for i, split in read_splits(splits).items() if split == TEST}
    rows = islice(read_rows(raw, test, ["image"]), limit)
    return ((f"{row.id.replace('/', '_')}.png", row.image or b"") for row in rows)
