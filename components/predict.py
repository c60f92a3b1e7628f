"""predict: masks for one shard of the pictures under an address, by a registered model."""

from kfp import dsl

from components.step import step


@step
def predict(
    metrics: dsl.Output[dsl.Metrics], model_uri: str, images: str, output: str, shard: int, shards: int, overlay: float
) -> None:
    """Predict the pictures of a shard and store their masks under the output address."""
    from cytoloop.sharding import predict_shard

    metrics.metadata.update(predict_shard(model_uri, images, output, shard, shards, overlay))
