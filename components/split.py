"""split: divide the groups into train, val and test."""

from kfp import dsl

from components.step import step


@step
def split(
    raw: dsl.Input[dsl.Dataset],
    validated: dsl.Input[dsl.Artifact],
    splits: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    split_params: str,
) -> None:
    """Divide the groups into train, val and test."""
    from cytoloop.door import run_component

    folders = {"raw": raw.path, "validated": validated.path, "splits": splits.path}
    sections = {"split": split_params}
    metrics.metadata.update(run_component("split", folders, sections))
