"""evaluate: judge the model on the test split, and say so in numbers, tables and one page."""

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cytoloop.artifacts import (
    HISTORY,
    LINEAGE,
    METRICS,
    PER_PICTURE,
    PROFILE,
    RECEIPT,
    REPORT,
    SPLITS,
    SPLITS_SUMMARY,
    TRAIN,
    Row,
    flat,
    read_card,
    read_json,
    read_params,
    read_rows,
    read_splits,
    sha256_file,
    write_csv,
    write_json,
)
from cytoloop.door import Input, Numbers, Output
from cytoloop.images.codec import LabelCodec
from cytoloop.images.decode import decode_ids, decode_rgb
from cytoloop.judging import BATCH, COLUMNS, Asked, answered, check_all_found, check_classes, test_ids
from cytoloop.params import EvaluateParams, ModelParams, PublishedFigure
from cytoloop.profiles import training_profile
from cytoloop.report import charts
from cytoloop.report.contact import Example, Sample, choose, picture_and_truth, thumbnails
from cytoloop.report.page import Evaluation, render
from cytoloop.report.validation import validation_section
from cytoloop.scores import pixels
from cytoloop.scores.bootstrap import GroupBootstrap
from cytoloop.scores.tally import Tally, metrics, plain

if TYPE_CHECKING:
    from cytoloop.model.named import NamedScores

Array = np.ndarray[Any, Any]

SAMPLES = 6
SUMMARY = "summary.json"
"""A few of the metrics: a table of `dvc metrics show` that fits a terminal."""
CONFUSION_CSV, CONFUSION_PNG = "confusion.csv", "confusion.png"
PER_CLASS_CSV, EVALUATION_CSV = "per_class.csv", "evaluation.csv"
HEADLINES = (
    "macro_dice",
    "macro_dice_pooled",
    "macro_iou",
    "foreground_dice",
    "foreground_dice_pooled",
    "otsu_foreground_dice",
    "pixel_accuracy",
    "background_accuracy",
    "boundary_nsd",
    "ece",
    "pictures",
    "groups",
)


SUMMARISED = (
    "macro_dice",
    "worst_class",
    "foreground_dice",
    "otsu_foreground_dice",
    "pixel_accuracy",
    "background_accuracy",
)


def evaluate(
    raw: Input, validated: Input, splits: Input, model: Input, evaluation: Output, evaluate_params: EvaluateParams
) -> Numbers:
    """Score the model on the test rows.

    Writes metrics.json and a short summary.json; lineage.json, the digests, params and facts of what led here;
    profile.json, what the model has seen (see `profiles`), where it was trained on this table; the tables
    per_class.csv, per_picture.csv and confusion.csv; evaluation.csv with the loss and the seeds' metrics (see
    `model.named`) before ours; confusion.png and report.html.

    Returns:
        The scores of HEADLINES and the worst class' Dice, NaN where nothing could be scored.

    Raises:
        ArtifactError: no row is in the test split, or a test row has no picture or no mask.
        ModelError: the model was made for other classes than the data has.
    """
    from cytoloop.model.predict import Predictor

    return judge(Predictor.load(model), (raw, validated, splits, model), evaluation, evaluate_params)


def judge(predictor: Asked, inputs: tuple[Path, Path, Path, Path], evaluation: Path, params: EvaluateParams) -> Numbers:
    """`evaluate` for a predictor that is already there; `inputs` are raw, validated, splits and model."""
    raw, validated, splits, model = inputs
    card = read_card(raw)
    check_classes(predictor, raw, str(model))
    named = named_scores(predictor.meta, params)
    tally = _score_test_split(predictor, raw, splits, named)
    bootstrap = GroupBootstrap(tally.groups, params.bootstrap_samples, params.confidence, params.seed)
    found = metrics(tally, bootstrap)
    census = read_json(splits / SPLITS_SUMMARY)
    told = {
        **plain(found),
        **_beside_published(plain(found), named, params.published),
        "confidence": params.confidence,
        "test_digest": census["test_digest"],
        "model_digest": predictor.meta["model_digest"],
    }
    report = Evaluation(
        metrics=told,
        tally=tally,
        examples=examples(predictor, raw, tally, params.examples),
        samples=samples(raw, splits, card.codec),
        card=card,
        census=census,
        history=_history(model / HISTORY),
        meta=predictor.meta,
        validation=validation_section(read_json(validated / RECEIPT)),
    )
    write_json(evaluation / METRICS, told)
    write_json(evaluation / LINEAGE, _lineage(raw, validated, splits, model))
    write_json(evaluation / SUMMARY, {name: told[name] for name in SUMMARISED})
    _write_tables(evaluation, told, tally)
    if predictor.meta["provenance"].get("digests", {}).get("raw", card.digest) == card.digest:
        profile = training_profile(raw, splits, predictor.meta["model_digest"], _predicted_fractions(tally))
        write_json(evaluation / PROFILE, profile.model_dump())
    (evaluation / REPORT).write_text(render(report), "utf-8")
    return {name: float(found[name]) for name in HEADLINES} | {"worst_class_dice": found["worst_class"]["dice"]}


def _predicted_fractions(tally: Tally) -> dict[str, Array]:
    """Each class's fraction of each picture as predicted, 0..1, by name."""
    counts_NC = tally.confusion_NCC.sum(-2)
    return dict(zip(tally.names, (counts_NC / counts_NC.sum(-1, keepdims=True)).T, strict=True))


def _lineage(raw: Path, validated: Path, splits: Path, model: Path) -> dict[str, Any]:
    """Digest, params and facts of the artifacts that led here, for whoever has nothing but the evaluation."""
    card, receipt = read_card(raw), read_json(validated / RECEIPT)
    checked = {name: receipt.get(name) for name in ("raw_digest", "passed", "statistics", "warnings")}
    return {
        "raw": _link(raw, card.digest, asdict(card)),
        "validated": _link(validated, sha256_file(validated / RECEIPT), checked),
        "splits": _link(splits, sha256_file(splits / SPLITS), read_json(splits / SPLITS_SUMMARY)),
        "model": {"params": read_params(model)},
    }


def _link(folder: Path, digest: str, facts: Any) -> dict[str, Any]:
    return {"digest": digest, "facts": facts, "params": read_params(folder)}


def named_scores(meta: Mapping[str, Any], params: EvaluateParams) -> "NamedScores":
    """To be filled: the loss and metrics that the model was trained with, and those published that fit it."""
    from cytoloop.model.named import NamedScores, fitting

    model = ModelParams.model_validate(meta["model"])
    trained = meta["provenance"].get("params", {}).get("train", {})
    names = [trained.get("loss"), *trained.get("metrics", ()), *(figure.name for figure in params.published)]
    return NamedScores(fitting(names, model.num_classes), model, trained.get("batch_size", BATCH))


def _beside_published(
    found: Mapping[str, Any], named: "NamedScores", published: Sequence[PublishedFigure]
) -> dict[str, Any]:
    """The scores by the seeds' names, and each published figure with ours of the same name, null where we have none."""
    scores, background = (plain(means) for means in named.means())
    ours = flat(found) | scores
    return {
        "seed_metrics": scores,
        "background_seed_metrics": background,
        "published": [
            {**figure.model_dump(), "here": ours.get(figure.name), "background": background.get(figure.name)}
            for figure in published
        ],
    }


def _score_test_split(predictor: Asked, raw: Path, splits: Path, named: "NamedScores") -> Tally:
    test = test_ids(splits)
    tally = score(predictor, read_rows(raw, test, COLUMNS), len(test), named)
    check_all_found(test, tally.ids, raw, splits)
    return tally


def score(predictor: Asked, rows: Iterable[Row], total: int, named: "NamedScores") -> Tally:
    """Ask the predictor about each row once, and keep the counts; memory holds one batch.

    Raises:
        ArtifactError: a row has no picture or no mask.
    """
    from tqdm import tqdm

    tally = Tally(predictor.codec.names)
    with tqdm(total=total, desc="evaluate", unit="picture") as bar:
        for row, pair, said in answered(predictor, rows):
            tally.add(row.id, row.group, pair)
            named.add(pair.truth_HW, said)
            bar.update()
    return tally


def examples(predictor: Asked, raw: Path, tally: Tally, count: int) -> list[Example]:
    """The best, median and worst pictures, asked again: no picture was kept when it was scored."""
    scores_N = tally.picture_macro_N
    chosen = choose(scores_N, count)
    ids = {tally.ids[place] for places in chosen.values() for place in places}
    shown = {
        row.id: thumbnails(pair.rgb_HW3, pair.truth_HW, pair.prediction_HW, predictor.codec)
        for row, pair, _ in answered(predictor, read_rows(raw, ids, COLUMNS))
    }
    return [
        Example(part, tally.ids[place], tally.groups[place], float(scores_N[place]), **shown[tally.ids[place]])
        for part, places in chosen.items()
        for place in places
    ]


def samples(raw: Path, splits: Path, codec: LabelCodec) -> list[Sample]:
    """Pictures of the train split with their truth, evenly spread over the ids."""
    train = sorted(i for i, split in read_splits(splits).items() if split == TRAIN)
    chosen = {train[n * len(train) // SAMPLES] for n in range(SAMPLES) if train}
    return [
        Sample(row.id, **picture_and_truth(decode_rgb(row.image), decode_ids(row.mask), codec))
        for row in read_rows(raw, chosen, COLUMNS)
        if row.image is not None and row.mask is not None
    ]


def _history(path: Path) -> dict[str, list[float]]:
    """The columns of history.csv; empty when the model came without one."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return {name: [float(line[name] or "nan") for line in lines] for name in (lines[0] if lines else {})}


def _write_tables(folder: Path, told: Mapping[str, Any], tally: Tally) -> None:
    confusion_CC, names = tally.confusion_NCC.sum(0), tally.names
    per_class = told["per_class"]
    columns = list(next(iter(per_class.values())))
    ranges = told["intervals"]["per_class"]
    write_csv(
        folder / PER_CLASS_CSV,
        ["class", *columns, "low", "high"],
        ([name, *row.values(), ranges[name]["low"], ranges[name]["high"]] for name, row in per_class.items()),
    )
    write_csv(folder / PER_PICTURE, ["id", "group", "macro_dice", "foreground_dice", *names[1:]], _pictures(tally))
    write_csv(
        folder / CONFUSION_CSV,
        ["actual \\ predicted", *names],
        ([name, *row] for name, row in zip(names, confusion_CC.tolist(), strict=True)),
    )
    ours = {name: told[name] for name in HEADLINES}
    write_csv(folder / EVALUATION_CSV, None, (told["seed_metrics"] | ours).items())
    side = 2.6 + 0.36 * len(names)
    (folder / CONFUSION_PNG).write_bytes(charts.png(charts.confusion(confusion_CC, names), side, side))


def _pictures(tally: Tally) -> Iterator[list[Any]]:
    dice_NC = pixels.dice(tally.confusion_NCC)
    columns = np.column_stack([tally.picture_macro_N, tally.picture_foreground_N, dice_NC[:, 1:]])
    for picture_id, group, scores in zip(tally.ids, tally.groups, columns.tolist(), strict=True):
        yield [picture_id, group, *plain(scores)]
