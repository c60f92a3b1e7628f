"""train: fit the network and write the bundle `model`."""

from kfp import dsl

from components.step import step


@step
def train(
    raw: dsl.Input[dsl.Dataset],
    splits: dsl.Input[dsl.Artifact],
    augmented: dsl.Input[dsl.Dataset],
    best_params: dsl.Input[dsl.Artifact],
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    augment_params: str,
    model_params: str,
    train_params: str,
    git_commit: str = "",
    image: str = "",
    data_revision: str = "",
    data_hash: str = "",
) -> None:
    """Fit the network and write the bundle `model`."""
    from cytoloop.door import run_component

    folders = {
        "raw": raw.path,
        "splits": splits.path,
        "augmented": augmented.path,
        "best_params": best_params.path,
        "model": model.path,
    }
    sections = {"augment": augment_params, "model": model_params, "train": train_params}
    origin = {"git_commit": git_commit, "image": image, "data_revision": data_revision, "data_hash": data_hash}
    metrics.metadata.update(run_component("train", folders, sections, origin))
