"""The retraining pipeline: the training pipeline, where there is something to train for. Made to be scheduled."""

from typing import Any

from kfp import dsl

from components.due import due
from components.ingest import ingest
from components.validate import validate
from pipelines.placing import Placing
from pipelines.training import learn, tuning


def retraining(place: Placing) -> Any:
    """The graph, its tasks placed."""
    search = tuning(place)

    @dsl.pipeline(name="retraining", pipeline_config=place.config)
    def retraining(
        classes_params: str,
        ingest_params: str,
        validate_params: str,
        split_params: str,
        augment_params: str,
        model_params: str,
        tune_params: str,
        train_params: str,
        evaluate_params: str,
        infer_params: str,
        register_params: str,
        retrain_params: str,
        git_commit: str,
        image: str,
        data_revision: str,
        data_hash: str,
    ) -> None:
        """The training, where there is something to train for.

        1. Ingest the source as a table, and validate it.
        2. Ask whether a training is due.
        3. If it is, learn from the table.
        """
        told = locals()
        raw = place(ingest, told).outputs["raw"]
        validated = place(validate, told, raw=raw).outputs["validated"]
        asked = place(due, told, raw=raw).set_caching_options(False)  # the champion is no input
        with dsl.If(asked.outputs["Output"] == True):  # noqa: E712 (an expression of kfp, not a comparison)
            learn(place, search, told, raw, validated)

    return retraining
