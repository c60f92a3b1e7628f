"""tune: search the network's size on train and val."""

from kfp import dsl

from components.step import step


@step
def tune(
    raw: dsl.Input[dsl.Dataset],
    splits: dsl.Input[dsl.Artifact],
    augmented: dsl.Input[dsl.Dataset],
    best_params: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    tune_params: str,
    augment_params: str,
    model_params: str,
    train_params: str,
) -> None:
    """Search the network's size on train and val."""
    from cytoloop.door import run_component

    folders = {"raw": raw.path, "splits": splits.path, "augmented": augmented.path, "best_params": best_params.path}
    sections = {"tune": tune_params, "augment": augment_params, "model": model_params, "train": train_params}
    metrics.metadata.update(run_component("tune", folders, sections))
