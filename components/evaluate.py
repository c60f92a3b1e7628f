"""evaluate: score the model on test; write metrics and the HTML report."""

from kfp import dsl

from components.step import step


@step
def evaluate(
    raw: dsl.Input[dsl.Dataset],
    validated: dsl.Input[dsl.Artifact],
    splits: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    evaluate_params: str,
) -> None:
    """Score the model on test; write metrics and the HTML report."""
    from cytoloop.door import run_component

    folders = {
        "raw": raw.path,
        "validated": validated.path,
        "splits": splits.path,
        "model": model.path,
        "evaluation": evaluation.path,
    }
    sections = {"evaluate": evaluate_params}
    metrics.metadata.update(run_component("evaluate", folders, sections))
