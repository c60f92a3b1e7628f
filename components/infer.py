"""infer: write masks for new pictures, or for the first test pictures."""

from kfp import dsl

from components.step import step


@step
def infer(
    raw: dsl.Input[dsl.Dataset],
    splits: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    predictions: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    infer_params: str,
) -> None:
    """Write masks for new pictures, or for the first test pictures."""
    from cytoloop.door import run_component

    folders = {"raw": raw.path, "splits": splits.path, "model": model.path, "predictions": predictions.path}
    sections = {"infer": infer_params}
    metrics.metadata.update(run_component("infer", folders, sections))
