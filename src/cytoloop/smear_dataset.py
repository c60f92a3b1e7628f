"""The dataset of composed smears at any size, up to the published one and beyond."""

from pathlib import Path

from cytoloop.door import Numbers, run_step
from cytoloop.errors import ParamsError
from cytoloop.params import Params


def write(to: Path, params: Params, train: int, valid: int, test: int) -> Numbers:
    """Compose a dataset and write its table, as `ingest` does with these numbers of pictures.

    All processors work; a killed run goes on from its finished shards; memory does not grow with
    the numbers. 65,350, 6,560 and 6,560 are those of the published dataset, and give its 500
    backgrounds of each kind.

    Args:
        to: folder of the table; replaced when the new one is finished.
        params: of layout smear, with its ten classes.
        train: pictures composed from the training cells.
        valid: pictures composed from the validation cells.
        test: pictures composed from the test cells.

    Raises:
        ParamsError: the params are of another layout, or a split would have no picture.
    """
    if params.ingest.layout != "smear":
        raise ParamsError(
            f"ingest.layout = {params.ingest.layout!r}: only layout smear composes pictures; give params of that "
            "layout, as recipes/default.yaml"
        )
    numbers = {"train": train, "valid": valid, "test": test}
    if min(numbers.values()) < 1:
        given = ", ".join(f"{name} {number}" for name, number in numbers.items())
        raise ParamsError(f"{given}: each split needs at least 1 picture")
    smear = params.ingest.smear.model_copy(update=numbers)
    ingest = params.ingest.model_copy(update={"smear": smear})
    return run_step("ingest", {"raw": to}, params.model_copy(update={"ingest": ingest}))
