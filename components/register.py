"""register: record the model in MLflow; move the alias when it passes the gate."""

from kfp import dsl

from components.step import step


@step
def register(
    raw: dsl.Input[dsl.Dataset],
    validated: dsl.Input[dsl.Artifact],
    splits: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    registration: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    register_params: str,
) -> None:
    """Record the model in MLflow; move the alias when it passes the gate."""
    from cytoloop.door import run_component

    folders = {
        "raw": raw.path,
        "validated": validated.path,
        "splits": splits.path,
        "model": model.path,
        "evaluation": evaluation.path,
        "registration": registration.path,
    }
    sections = {"register": register_params}
    metrics.metadata.update(run_component("register", folders, sections))
