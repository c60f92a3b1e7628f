"""The inference pipeline: masks for all pictures under an address, by a registered model."""

from typing import Any

from kfp import dsl

from components.predict import predict
from pipelines.placing import Placing


def inference(place: Placing) -> Any:
    """The graph, its tasks placed."""

    @dsl.pipeline(name="inference", pipeline_config=place.config)
    def inference(
        model_uri: str,
        images: str,
        output: str,
        git_commit: str,
        image: str,
        data_revision: str,
        data_hash: str,
        overlay: float = 0.45,
    ) -> None:
        """Masks for all pictures under an address, by a registered model.

        1. Each worker predicts its shard of the pictures; all write under the output address.
        """
        told, shards = locals(), place.site.predict_workers
        with dsl.ParallelFor(list(range(shards)), parallelism=shards) as shard:
            place(predict, {**told, "shard": shard, "shards": shards}).set_caching_options(False)  # addresses change

    return inference
