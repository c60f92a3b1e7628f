"""`cytoloop classify`: train the classifier on a table's labels, judge it, and label pictures."""

import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cytoloop import tracking
from cytoloop.artifacts import (
    HISTORY,
    METRICS,
    SPLITS,
    SPLITS_SUMMARY,
    TEST,
    TRAIN,
    VAL,
    Card,
    Row,
    flat,
    read_card,
    read_json,
    read_rows,
    sha256_file,
    write_csv,
    write_json,
)
from cytoloop.errors import CytoloopError, SourceError
from cytoloop.images import heatmap
from cytoloop.images.decode import UnreadablePicture, decode_ids, decode_rgb, encode_rgb_png
from cytoloop.model import classifier_training as trainer
from cytoloop.model.classifier import Classification, Classifier, write_classifier
from cytoloop.model.classifier_data import Cohort, LabelledStream, read_cohort
from cytoloop.params import ClassifierParams, EvaluateParams, Params
from cytoloop.predictions import MAX_PIXELS
from cytoloop.provenance import provenance
from cytoloop.report import charts
from cytoloop.report.classification import Example, Report, choose, render, thumbnails
from cytoloop.scores.bootstrap import GroupBootstrap
from cytoloop.scores.labels import Labelled, metrics, pointing
from cytoloop.scores.tally import plain
from cytoloop.workspace import unfinished

Array = np.ndarray[Any, Any]
Numbers = dict[str, float]
History = dict[str, list[float]]
"""The columns of history.csv."""

CURVES, PAGE, PER_PICTURE, ANSWERS = "curves.png", "classification.html", "per_picture.csv", "classification.csv"
CHECKPOINTS = "checkpoints"
BATCH = 16
OPACITY = 0.45


def train(raw: Path, splits: Path, output: Path, params: Params) -> Numbers:
    """Train on the labelled train rows, choose the epoch on val, judge on test.

    Writes the bundle, history.csv and curves.png, metrics.json, per_picture.csv, classification.html, and
    checkpoints/. Killed and run again with nothing changed, it goes on from the newest checkpoint and
    ends with the same weights.

    Args:
        raw: an ingested table with labels.
        splits: its splits.
        output: folder that is replaced when all is done; `models/classifier` by custom.
        params: the sections `classifier` and `evaluate` count.

    Returns:
        Epochs, the best one, val accuracy, and the headlines on test.

    Raises:
        ArtifactError: too few labels, or a split without a labelled picture.
        ModelError: training diverged, or `classifier.start_from` is no checkpoint that fits.
    """
    card, cohort, settings = read_card(raw), read_cohort(raw, splits), params.classifier
    facts = provenance(
        _digests(card, splits, settings), {"classifier": settings.model_copy(update={"start_from": None})}
    )
    with (
        unfinished("classify", [facts["digests"], facts["params"], facts["versions"]]) as work,
        tracking.start_run(tracking.experiment_name(), "classify", {"work": work.name}) as run,
        _replaced(output) as part,
    ):
        run.log_params(flat(facts["params"]))
        run.log_dataset(card.name, card.digest, "training")
        training = _trained(cohort, settings, work, run)
        digest = write_classifier(part, training, facts)
        history = {name: [line[name] for line in training.statistics] for name in trainer.COLUMNS}
        _write_history(part, history)
        numbers = judge(Classifier.load(part), cohort, history, part, params.evaluate)
        tracking.Record(
            run_name="classify",
            work=work.name,
            params=flat(facts["params"]),
            dataset=(card.name, card.digest, "training"),
            metrics=[*map(_figures, training.statistics), _on_test(numbers)],
            tags={"model_digest": digest, "git_commit": facts["git_commit"]},
            artifact="classifier",
            leave_out=(CHECKPOINTS,),
        ).write(part)
        run.complete(part)
        shutil.copytree(work, part / CHECKPOINTS)
    best = training.best
    return {
        "epochs": float(len(training.statistics)),
        "best_epoch": best["epoch"],
        "val_accuracy": best["val_accuracy"],
        **numbers,
    }


def _digests(card: Card, splits: Path, settings: ClassifierParams) -> dict[str, str]:
    digests = {"raw": card.digest, "splits": sha256_file(splits / SPLITS)}
    if settings.start_from is not None:
        digests["start_from"] = trainer.identity(Path(settings.start_from))
    return digests


@contextmanager
def _replaced(folder: Path) -> Iterator[Path]:
    """An empty folder beside, which takes the folder's place when all went well."""
    part = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        if folder.exists():
            shutil.rmtree(folder)
        part.rename(folder)
    except OSError as error:
        raise CytoloopError(f"classify could not read or write: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _figures(line: trainer.Line) -> tuple[int, trainer.Line]:
    """An epoch's number, and the others by name."""
    return int(line["epoch"]), {name: value for name, value in line.items() if name != "epoch"}


def _on_test(numbers: Numbers) -> tuple[int, Numbers]:
    """Those that could be measured, at no epoch."""
    return 0, {f"test_{name}": value for name, value in numbers.items() if math.isfinite(value)}


def _trained(cohort: Cohort, settings: ClassifierParams, work: Path, run: tracking.LiveRun) -> trainer.Training:
    from tqdm import tqdm

    if settings.start_from is not None and trainer.newest(work) is None:
        trainer.adopt(Path(settings.start_from), work)
    checkpoint = trainer.newest(work)
    scaling = trainer.scaling_of(checkpoint) if checkpoint else cohort.scaling
    training = trainer.start(settings.model_copy(update={"start_from": None}), scaling, cohort.names)
    if checkpoint:
        trainer.restore(training, checkpoint)
    stream, val = (LabelledStream(cohort, s, settings.image_size, settings.batch_size) for s in (TRAIN, VAL))
    with tqdm(total=settings.epochs, initial=len(training.statistics), desc="classify", unit="epoch") as bar:

        def after_epoch(state: trainer.Training) -> None:
            line = state.statistics[-1]
            trainer.save(state, work)
            epoch, figures = _figures(line)
            run.log_metrics(figures, epoch)
            bar.set_postfix({"loss": f"{line['loss']:.3f}", "val accuracy": f"{line['val_accuracy']:.3f}"}, False)
            bar.update()

        trainer.run(training, stream, val, cohort.counts(TRAIN), after_epoch)
    trainer.take_best(training, work)
    return training


def _write_history(folder: Path, history: History) -> None:
    lines = zip(*history.values(), strict=True)
    write_csv(folder / HISTORY, list(history), ([float(f"{value:.6g}") for value in line] for line in lines))
    (folder / CURVES).write_bytes(charts.png(charts.curves(history), 9, 2.6))


# ------------------------------------------------------------------------------------------- judging


def judge(classifier: Classifier, cohort: Cohort, history: History, output: Path, params: EvaluateParams) -> Numbers:
    """Score a classifier on the labelled test rows; writes metrics.json, per_picture.csv and the page.

    Returns:
        Accuracy, that of the constant answer, balanced accuracy, and the share of pointing hits.
    """
    rows = read_rows(cohort.raw, cohort.classes[TEST])
    pictures = [_labelled(row, cell_HW, answer, cohort) for row, _, cell_HW, answer in _answered(classifier, rows)]
    bootstrap = GroupBootstrap([p.group for p in pictures], params.bootstrap_samples, params.confidence, params.seed)
    trained_on = cohort.counts(TRAIN)
    found = metrics(pictures, cohort.names, int(np.argmax(trained_on)), bootstrap)
    told = {
        **plain(found),
        "trained_on": dict(zip(cohort.names, trained_on, strict=True)),
        "test_digest": read_json(cohort.splits / SPLITS_SUMMARY)["test_digest"],
        "model_digest": classifier.meta["model_digest"],
    }
    examples = _examples(classifier, cohort, pictures, params.examples)
    page = render(Report(told, examples, read_card(cohort.raw), history, classifier.meta, params.confidence))
    write_json(output / METRICS, told)
    _write_pictures(output / PER_PICTURE, pictures, cohort.names)
    (output / PAGE).write_text(page, "utf-8")
    headlines = ("accuracy", "constant_accuracy", "balanced_accuracy")
    return {name: found[name] for name in headlines} | {"pointing": found["pointing"]["hits"]}


def _answered(classifier: Classifier, rows: Iterable[Row]) -> Iterator[tuple[Row, Array, Array | None, Classification]]:
    """Each row with its picture, its cell (bool; None without a mask) and the answer, a batch at a time."""
    rows = iter(rows)
    while batch := list(islice(rows, BATCH)):
        pictures = [decode_rgb(row.image or b"") for row in batch]
        for row, rgb_HW3, answer in zip(batch, pictures, classifier.classify(pictures), strict=True):
            yield row, rgb_HW3, None if row.mask is None else decode_ids(row.mask) > 0, answer


def _labelled(row: Row, cell_HW: Array | None, answer: Classification, cohort: Cohort) -> Labelled:
    return Labelled(
        id=row.id,
        group=row.group,
        truth=cohort.classes[TEST][row.id],
        predicted=cohort.names.index(answer.label),
        probability=answer.probability,
        pointing=pointing(answer.map_HW, cell_HW),
    )


def _examples(classifier: Classifier, cohort: Cohort, pictures: Sequence[Labelled], count: int) -> list[Example]:
    """Wrong and right pictures, asked again: no picture was kept when it was scored."""
    chosen = choose(pictures, count)
    ids = {pictures[place].id for places in chosen.values() for place in places}
    shown = {
        row.id: thumbnails(rgb_HW3, answer.map_HW, cell_HW)
        for row, rgb_HW3, cell_HW, answer in _answered(classifier, read_rows(cohort.raw, ids))
    }
    return [
        Example(
            part,
            pictures[place],
            cohort.names[pictures[place].truth],
            cohort.names[pictures[place].predicted],
            shown[pictures[place].id],
        )
        for part, places in chosen.items()
        for place in places
    ]


def _write_pictures(path: Path, pictures: Sequence[Labelled], names: Sequence[str]) -> None:
    header = ["id", "group", "label", "predicted", "probability", "points_at_cell"]
    lines = (
        [p.id, p.group, names[p.truth], names[p.predicted], f"{p.probability:.6f}", plain(p.pointing.hit)]
        for p in pictures
    )
    write_csv(path, header, lines)


# ----------------------------------------------------------------------------------------- predicting


def predict(model: Path, pictures: Sequence[Path], output: Path, opacity: float = OPACITY) -> Numbers:
    """Label picture files of any size.

    For a picture `cell 7.jpg`: `cell 7_heat.png`, the heat map of its label at the picture's size;
    `cell 7_classified.png`, the heat map over the picture, enlarged where it is small, with label and
    probability written on it; and in classification.csv a line (file, label, probability, and the
    probability of each label). The files appear together when all are done.

    Args:
        model: the classifier's folder.
        pictures: files, as `predictions.find_pictures` finds them: their stems differ.
        output: folder, made if need be.
        opacity: of the heat map over the picture, 0..1.

    Raises:
        ModelError: the classifier is damaged or foreign.
        SourceError: a picture cannot be read; nothing is written then.
    """
    classifier = Classifier.load(model)
    output.mkdir(parents=True, exist_ok=True)
    lines: list[list[Any]] = []
    with tempfile.TemporaryDirectory(dir=output, prefix=".part-") as beside:
        for path, rgb_HW3, answer in _classified(classifier, pictures):
            _write_heat(Path(beside) / path.stem, rgb_HW3, answer, opacity)
            lines.append([path.name, answer.label, *(f"{p:.6f}" for p in (answer.probability, *answer.probability_C))])
        write_csv(Path(beside) / ANSWERS, ["file", "label", "probability", *classifier.labels], lines)
        for path in sorted(Path(beside).iterdir()):
            os.replace(path, output / path.name)
    return {"pictures": float(len(lines))}


def _classified(classifier: Classifier, paths: Iterable[Path]) -> Iterator[tuple[Path, Array, Classification]]:
    paths = iter(paths)
    while batch := [(path, _decoded(path)) for path in islice(paths, BATCH)]:
        answers = classifier.classify([rgb_HW3 for _, rgb_HW3 in batch])
        for (path, rgb_HW3), answer in zip(batch, answers, strict=True):
            yield path, rgb_HW3, answer


def _decoded(path: Path) -> Array:
    try:
        return decode_rgb(path.read_bytes(), MAX_PIXELS)
    except UnreadablePicture as error:
        raise SourceError(f"{path}: {error}; remove or replace it") from None


def _write_heat(stem: Path, rgb_HW3: Array, answer: Classification, opacity: float) -> None:
    text = f"{answer.label.replace('_', ' ')} {100 * answer.probability:.1f} %"
    over_HW3 = heatmap.captioned(heatmap.superimposed(rgb_HW3, answer.map_HW, opacity), text)
    stem.with_name(f"{stem.name}_heat.png").write_bytes(encode_rgb_png(heatmap.heat(answer.map_HW)))
    stem.with_name(f"{stem.name}_classified.png").write_bytes(encode_rgb_png(over_HW3))
