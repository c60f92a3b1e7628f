"""The training pipeline: from a source to a registered model."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from kfp import dsl

from components.augment import augment
from components.evaluate import evaluate
from components.infer import infer
from components.ingest import ingest
from components.register import register
from components.split import split
from components.train import train
from components.tune import tune
from components.validate import validate
from pipelines.placing import Placing, parameters_of

Search = Callable[..., dsl.PipelineTask]


def training(place: Placing) -> Any:
    """The graph, its tasks placed."""
    search = tuning(place)

    @dsl.pipeline(name="training", pipeline_config=place.config)
    def training(
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
        git_commit: str,
        image: str,
        data_revision: str,
        data_hash: str,
    ) -> None:
        """From a source to a registered model.

        1. Ingest the source as a table, and validate it.
        2. Learn from the table.
        """
        told = locals()
        raw = place(ingest, told).outputs["raw"]
        validated = place(validate, told, raw=raw).outputs["validated"]
        learn(place, search, told, raw, validated)

    return training


def learn(place: Placing, search: Search, told: Mapping[str, Any], raw: Any, validated: Any) -> None:
    """The part of a graph that makes a model of a validated table.

    1. Split the table, and augment what trains.
    2. Tune the network's size, in several workers at once where the site has them.
    3. Train the network.
    4. Evaluate it on test, and register it: the gate scores it and the champion again;
    5. beside that, infer masks of some test pictures.
    """
    splits = place(split, told, raw=raw, validated=validated).outputs["splits"]
    augmented = place(augment, told, raw=raw, splits=splits).outputs["augmented"]
    best_params = search(told, raw=raw, splits=splits, augmented=augmented).outputs["best_params"]
    fitted = place(train, told, raw=raw, splits=splits, augmented=augmented, best_params=best_params)
    model = fitted.outputs["model"]
    evaluated = place(evaluate, told, raw=raw, validated=validated, splits=splits, model=model)
    tables = {"raw": raw, "validated": validated, "splits": splits}
    place(register, told, **tables, model=model, evaluation=evaluated.outputs["evaluation"])
    place(infer, told, raw=raw, splits=splits, model=model)


def tuning(place: Placing) -> Search:
    """How a graph tunes: alone, or, where the site has several workers, once more when these have done all trials."""
    if place.site.tune_workers == 1:
        return partial(place, tune)
    workers = tune_workers(place)

    def search(told: Mapping[str, Any], **tables: Any) -> dsl.PipelineTask:
        at_once = workers(**tables, **parameters_of(workers, told))
        return place(tune, told, **tables).after(at_once)

    return search


def tune_workers(place: Placing) -> Any:
    """The graph of the workers; it is one task to the outside, so that the last tune can wait for it."""

    @dsl.pipeline(name="tune-workers")
    def tune_workers(
        raw: dsl.Input[dsl.Dataset],
        splits: dsl.Input[dsl.Artifact],
        augmented: dsl.Input[dsl.Dataset],
        tune_params: str,
        augment_params: str,
        model_params: str,
        train_params: str,
    ) -> None:
        told, number = locals(), place.site.tune_workers
        with dsl.ParallelFor(list(range(number)), parallelism=number):
            worker = place(tune, told, raw=raw, splits=splits, augmented=augmented)
            worker.set_caching_options(False)  # they are alike: a cache would take one's answer for another's

    return tune_workers
