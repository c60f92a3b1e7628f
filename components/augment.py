"""augment: write varied copies of the training rows."""

from kfp import dsl

from components.step import step


@step
def augment(
    raw: dsl.Input[dsl.Dataset],
    splits: dsl.Input[dsl.Artifact],
    augmented: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    augment_params: str,
) -> None:
    """Write varied copies of the training rows."""
    from cytoloop.door import run_component

    folders = {"raw": raw.path, "splits": splits.path, "augmented": augmented.path}
    sections = {"augment": augment_params}
    metrics.metadata.update(run_component("augment", folders, sections))
