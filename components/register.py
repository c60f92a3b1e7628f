"""register: record the model in MLflow; move the alias when it is better."""

from kfp import dsl

from components.step import step


@step
def register(
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    registration: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    register_params: str,
) -> None:
    """Record the model in MLflow; move the alias when it is better."""
    from cytoloop.door import run_component

    folders = {"model": model.path, "evaluation": evaluation.path, "registration": registration.path}
    sections = {"register": register_params}
    metrics.metadata.update(run_component("register", folders, sections))
