"""The model card: the sections of Mitchell et al. 2019, *Model Cards for Model Reporting*, arXiv:1810.03993."""

from collections.abc import Iterator
from typing import Any

from cytoloop.cards.document import Bar, Block, Document, Section, Table, Text
from cytoloop.cards.telling import RESEARCH_ONLY, Told, facts, interval, said, score, spoken

GROUPS_SHOWN = 5
FEW_GROUPS = 10
OVERALL = {
    "macro_dice": "Macro Dice",
    "foreground_dice": "Foreground Dice",
    "macro_iou": "Macro IoU",
    "boundary_nsd": "Normalised surface Dice",
    "pixel_accuracy": "Pixel accuracy",
}
TRIVIAL = {
    "otsu_foreground_dice": "Foreground Dice of Otsu's threshold",
    "background_accuracy": "Pixel accuracy of background everywhere",
}


def model_card(told: Told) -> Document:
    """The card of a version."""
    version = told.found.version
    return Document(
        kind="Model card",
        title=f"{version.name}, version {version.version}",
        summary=f"A segmentation model for {said(told.card.get('name'))} pictures. {RESEARCH_ONLY}",
        after="Sections after Mitchell et al. 2019, Model Cards for Model Reporting, arXiv:1810.03993.",
        sections=[
            Section("Model Details", _details(told)),
            Section("Intended Use", _use(told)),
            Section("Factors", _factors(told)),
            Section("Metrics", _metrics(told)),
            Section("Evaluation Data", _evaluation_data(told)),
            Section("Training Data", _training_data(told)),
            Section("Quantitative Analyses", _analyses(told)),
            Section("Ethical Considerations", _ethics(told)),
            Section("Caveats and Recommendations", _caveats(told)),
        ],
    )


def _details(told: Told) -> list[Block]:
    found, lineage = told.found, told.lineage
    model, train = found.bundle.get("model", {}), found.provenance.get("params", {}).get("train", {})
    return [
        facts(
            version=f"{found.version.name} {found.version.version}",
            trained=f"{found.run.began:%d %B %Y}" if found.run else None,
            architecture=model.get("architecture"),
            parameters=found.bundle.get("parameters"),
            width_and_height_in_pixels=[model.get("image_width"), model.get("image_height")],
            channels=model.get("image_channels"),
            colour_space=model.get("color_space"),
            tells_apart=["background", *map(spoken, told.classes)] if told.classes else None,
            loss=train.get("loss"),
            optimizer=train.get("optimizer"),
            epochs_at_most=train.get("epochs"),
            decision=found.tag("decision"),
            reason=found.tag("reason"),
            model_digest=found.tag("model_digest"),
            git_commit=lineage.git_commit,
            container_image=lineage.image,
            environment=[f"{name} {number}" for name, number in lineage.environment.items()] or None,
        ),
        told.ask("developers", "Who developed the model, and who answers questions about it?"),
        told.ask("model_licence", "Under which licence may the model be used?"),
        told.ask("model_citation", "How should the model be cited?"),
    ]


def _use(told: Told) -> list[Block]:
    return [
        Text(RESEARCH_ONLY),
        Text(
            "The model says of each pixel of a microscopy picture to which class it belongs. It knows the classes "
            "above and no other: whatever else a picture shows is given one of them."
        ),
        told.ask("intended_uses", "For which uses was the model made?"),
        told.ask("intended_users", "Who is meant to use it?"),
        told.ask("out_of_scope", "Which uses, that somebody might think of, is it not made for?"),
    ]


def _factors(told: Told) -> list[Block]:
    statistics = told.checked.get("statistics", {})
    return [
        facts(
            sizes=_commonest(statistics.get("sizes")),
            modes=_commonest(statistics.get("modes")),
            groups=told.card.get("groups"),
        ),
        Text(
            "A group is what belongs together, as the pictures of one patient or slide; groups are never divided "
            "between the splits. Nothing else is recorded of where a picture comes from: no patient, stain, "
            "microscope or laboratory."
        ),
        told.ask("relevant_factors", "Which patients, stains, microscopes or laboratories may the model do worse on?"),
        told.ask("evaluation_factors", "Which of these factors do the test pictures cover, and which do they not?"),
    ]


def _commonest(counted: list[list[Any]] | None) -> list[str] | None:
    """The commonest values, with their counts."""
    return [f"{value} ({said(count)})" for value, count in counted[:3]] if counted else None


def _metrics(told: Told) -> list[Block]:
    bundle, judged = told.found.bundle, told.found.params.get("evaluate", {})
    return [
        Text(
            "The first figure is macro Dice: the Dice of each foreground class, averaged over its pictures and then "
            "over the classes, so that rare classes count as much as common ones, and the background not at all."
        ),
        facts(
            bootstrap_samples_of_the_test_groups=judged.get("bootstrap_samples"),
            confidence_of_the_intervals=told.found.metrics.get("confidence"),
            threshold_of_a_single_foreground=bundle.get("threshold"),
            smallest_region_in_pixels=bundle.get("min_object"),
        ),
        Text(
            "The threshold and the smallest region were chosen on the validation split; the test split chose nothing."
        ),
    ]


def _evaluation_data(told: Told) -> list[Block]:
    metrics = told.found.metrics
    return [
        facts(
            dataset=told.card.get("name"),
            pictures=metrics.get("pictures"),
            groups=metrics.get("groups"),
            test_digest=metrics.get("test_digest"),
        ),
        Text(
            "The test split is drawn by a hash of each group's name, or came with the source, and stays the same "
            "when pictures are added. Pictures of other splits that look like one of it were left out."
        ),
        told.ask("evaluation_motivation", "Why are these the right pictures to judge the model by?"),
    ]


def _training_data(told: Told) -> list[Block]:
    pictures, groups = told.census.get("pictures", {}), told.census.get("groups", {})
    augment = told.found.provenance.get("params", {}).get("augment", {})
    return [
        facts(
            dataset=told.card.get("name"),
            licence=told.card.get("licence"),
            citation=told.card.get("citation"),
            training_pictures=pictures.get("train"),
            training_groups=groups.get("train"),
            validation_pictures=pictures.get("val"),
            augmented_copies_of_each=augment.get("copies"),
            varied_anew_in_each_epoch=augment.get("online"),
            data_digest=told.found.tag("raw_digest"),
        ),
        Text("The data sheet beside this card says more of the pictures."),
    ]


def _analyses(told: Told) -> list[Block]:
    counted = "A picture counts for a class when the class is in its truth or in the model's answer."
    return [_overall(told), _per_class(told), Text(counted), *_by_group(told)]


def _overall(told: Told) -> Table:
    """Unitary results."""
    metrics = told.found.metrics
    ranges = metrics.get("intervals", {})
    names = OVERALL | TRIVIAL
    return Table(
        "Overall",
        ["Score", "Value", _level(told)],
        [[name, score(metrics.get(key)), interval(ranges.get(key))] for key, name in names.items()],
        [Bar(metrics.get(key), *_ends(ranges.get(key)), key in OVERALL) for key in names],
    )


def _per_class(told: Told) -> Table:
    rows = told.found.metrics.get("per_class", {})
    ranges = told.found.metrics.get("intervals", {}).get("per_class", {})
    return Table(
        "Class by class",
        ["Class", "Dice", _level(told), "IoU", "Surface Dice", "Pictures"],
        [
            [
                spoken(name),
                score(row["dice_image_mean"]),
                interval(ranges.get(name)),
                score(row["iou_image_mean"]),
                score(row["nsd_image_mean"]),
                said(row["pictures"]),
            ]
            for name, row in rows.items()
        ],
        [Bar(row["dice_image_mean"], *_ends(ranges.get(name))) for name, row in rows.items()],
    )


def _by_group(told: Told) -> Iterator[Block]:
    """Intersectional results, as far as the records allow: by group."""
    groups = told.groups()
    lowest = list(groups.items())[:GROUPS_SHOWN]
    if lowest:
        yield Table(
            f"The {len(lowest)} test groups with the lowest macro Dice, of {len(groups)}",
            ["Group", "Macro Dice"],
            [[group, score(mean)] for group, mean in lowest],
            [Bar(mean) for _, mean in lowest],
        )
    yield Text(
        "Scores across several factors at once (a class under one stain, from one laboratory) cannot be given: only "
        "class and group are recorded."
    )


def _level(told: Told) -> str:
    return f"{100 * told.found.metrics.get('confidence', 0.95):g} % interval"


def _ends(pair: dict[str, float | None] | None) -> tuple[float | None, float | None]:
    return (pair["low"], pair["high"]) if pair else (None, None)


def _ethics(told: Told) -> list[Block]:
    synthetic = (
        [Text("The training pictures are synthetic: no person's sample is in them.")] if told.is_synthetic else []
    )
    return [
        *synthetic,
        told.ask("sensitive_data", "Do the pictures come from people, and was their use approved and agreed to?"),
        told.ask("risks", "Whom could wrong or misused answers of the model harm, and how?"),
        told.ask("mitigations", "What was done against these harms?"),
    ]


def _caveats(told: Told) -> list[Block]:
    return [*map(Text, _known_caveats(told)), told.ask("caveats", "What else should a user know before using it?")]


def _known_caveats(told: Told) -> Iterator[str]:
    metrics = told.found.metrics
    if not metrics:
        yield "No evaluation of this model is recorded: nothing is known of how good it is."
        return
    if metrics["groups"] < FEW_GROUPS:
        yield f"Only {metrics['groups']} groups are in the test split: the intervals are rough."
    unseen = [spoken(name) for name in told.classes if not _tested(told, name)]
    if unseen:
        yield f"No test picture shows {', '.join(unseen)}: nothing is known of how well that is found."
    worst = metrics["worst_class"]
    if worst["dice"] is not None:
        yield f"The weakest class is {spoken(worst['name'])}, Dice {score(worst['dice'])}."
    if (metrics["foreground_dice"] or 0) <= (metrics["otsu_foreground_dice"] or 0):
        yield "The model finds cells no better than a simple threshold does."
    if str(told.found.tag("git_commit")).endswith("-dirty"):
        yield "It was trained with changes to the code that were never committed."
    for link in told.lineage.links:
        if link.broken:
            yield f"Its lineage has a gap at {link.name}: {'; '.join(link.broken)}."


def _tested(told: Told, name: str) -> int:
    return int(told.census.get("classes", {}).get(name, {}).get("pictures", {}).get("test", 0))
