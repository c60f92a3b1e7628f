"""validate: judge the table; fail with a list of what is wrong."""

from kfp import dsl

from components.step import step


@step
def validate(
    raw: dsl.Input[dsl.Dataset],
    validated: dsl.Output[dsl.Artifact],
    data_docs: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    validate_params: str,
) -> None:
    """Judge the table; fail with a list of what is wrong."""
    from cytoloop.door import run_component

    folders = {"raw": raw.path, "validated": validated.path, "data_docs": data_docs.path}
    sections = {"validate": validate_params}
    metrics.metadata.update(run_component("validate", folders, sections))
