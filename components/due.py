"""due: whether there is anything to train anew for."""

from kfp import dsl

from components.step import step


@step
def due(
    raw: dsl.Input[dsl.Dataset], metrics: dsl.Output[dsl.Metrics], register_params: str, retrain_params: str
) -> bool:
    """Hold a fresh table and the recent predictions against the reigning version; the reason is among the metrics."""
    from pathlib import Path

    from cytoloop.retraining import due_by_artifact

    verdict, metrics.metadata["reason"] = due_by_artifact(Path(raw.path), register_params, retrain_params)
    return verdict
