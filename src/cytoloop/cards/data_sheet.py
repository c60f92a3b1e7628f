"""The data sheet: the sections of Gebru et al. 2021, *Datasheets for Datasets*, arXiv:1803.09010."""

from cytoloop.cards.document import Block, Document, Section, Table, Text
from cytoloop.cards.telling import RESEARCH_ONLY, Told, facts, said, spoken

PARTS = {"train": "training", "val": "validation", "test": "test"}


def data_sheet(told: Told) -> Document:
    """The sheet of the data that a version was trained and judged on."""
    version = told.found.version
    return Document(
        kind="Data sheet",
        title=f"The data of {version.name}, version {version.version}",
        summary=f"{said(told.card.get('rows'))} pictures with masks: {said(told.card.get('name'))}. {RESEARCH_ONLY}",
        after="Sections after Gebru et al. 2021, Datasheets for Datasets, arXiv:1803.09010.",
        sections=[
            Section("Motivation", _motivation(told)),
            Section("Composition", _composition(told)),
            Section("Collection Process", _collection(told)),
            Section("Preprocessing, Cleaning, Labeling", _preprocessing(told)),
            Section("Uses", _uses(told)),
            Section("Distribution", _distribution(told)),
            Section("Maintenance", _maintenance(told)),
        ],
    )


def _motivation(told: Told) -> list[Block]:
    return [
        told.ask("data_purpose", "For what purpose were the pictures collected?"),
        told.ask("data_creators", "Who made the dataset, and for whom?"),
        told.ask("data_funding", "Who paid for it?"),
    ]


def _composition(told: Told) -> list[Block]:
    statistics, census = told.checked.get("statistics", {}), told.census
    counts = census.get("pictures", {})
    return [
        facts(
            what_a_row_is="a microscopy picture, and a mask that gives each of its pixels a class",
            pictures=told.card.get("rows"),
            groups=told.card.get("groups"),
            sizes=[f"{size} ({said(count)})" for size, count in statistics.get("sizes", [])[:3]] or None,
            pictures_without_any_cell=statistics.get("empty"),
            pairs_of_near_duplicates=census.get("near_duplicate_pairs"),
            left_out_of_training_as_near_duplicates=counts.get("excluded"),
        ),
        *([_classes(told)] if census else []),
        Text(
            "The split is part of the data: groups are divided once, by a hash of their names or as the source has "
            "them, and adding pictures moves none of the old ones."
        ),
        told.ask("data_missing", "Is it a sample of something larger, and what is missing from it?"),
        told.ask("data_people", "Can people be recognised in it, or told from what comes with it?"),
    ]


def _classes(told: Told) -> Table:
    """Pictures of each class by split, and its share of the pixels."""
    shares = told.checked.get("statistics", {}).get("class_fractions", {})
    rows = [
        [
            spoken(name),
            *(said(count["pictures"][part]) for part in PARTS),
            f"{100 * shares[name]:.1f} %" if name in shares else said(None),
        ]
        for name, count in told.census["classes"].items()
    ]
    return Table("Pictures that show a class", ["Class", *(PARTS[part] for part in PARTS), "of all pixels"], rows)


def _collection(told: Told) -> list[Block]:
    run, ingest = told.found.run, told.found.params.get("ingest", {})
    drawn = "The pictures are synthetic: cytoloop drew the cells, and composed them by the protocol above."
    return [
        facts(
            source=run.tags.get("source") if run else None,
            layout=ingest.get("layout"),
            hash_in_DVC=told.found.tag("data_hash"),
            revision=told.found.tag("data_revision"),
        ),
        *([Text(drawn)] if told.is_synthetic else []),
        told.ask("data_collection", "With which microscopes, stains and preparation were the pictures taken?"),
        told.ask("data_time", "Where, when and by whom were they taken, and how were they chosen?"),
        told.ask("data_consent", "Which ethics board approved it, and did the patients agree?"),
    ]


def _preprocessing(told: Told) -> list[Block]:
    ingest, statistics = told.found.params.get("ingest", {}), told.checked.get("statistics", {})
    return [
        Text(
            "Pictures are kept as 8-bit RGB in their own size, masks as class numbers. Nothing is cut, scaled or "
            "corrected in the data itself; what the network needs is done when it reads them."
        ),
        facts(
            colour_tolerance_of_masks=ingest.get("color_tolerance"),
            threshold_of_grey_masks=ingest.get("mask_threshold"),
            expectations_checked=statistics.get("expectations"),
            failed=statistics.get("failed"),
            warnings=statistics.get("warnings"),
        ),
        *(Text(f"Warning: {warning}") for warning in told.checked.get("warnings") or ()),
        told.ask("data_labelling", "Who drew the masks, how, and how were they checked?"),
    ]


def _uses(told: Told) -> list[Block]:
    version = told.found.version
    return [
        Text(RESEARCH_ONLY),
        Text(
            f"Used to train and judge {version.name}, version {version.version}; its model card lies beside this sheet."
        ),
        told.ask("data_uses", "For what else was it used, or could it be?"),
        told.ask("data_unsuitable", "For what should it not be used?"),
    ]


def _distribution(told: Told) -> list[Block]:
    return [
        facts(licence=told.card.get("licence"), citation=told.card.get("citation")),
        told.ask("data_access", "Who may have the pictures, from where, and under which restrictions?"),
    ]


def _maintenance(told: Told) -> list[Block]:
    return [
        facts(digest_of_the_table=told.found.tag("raw_digest"), digest_of_the_splits=told.found.tag("splits_digest")),
        Text("Another version of the data has other digests; they are what a model is tied to, not a name or a date."),
        told.ask("data_contact", "Who keeps the dataset, corrects it, and can be asked about it?"),
        told.ask("data_updates", "Will pictures be added, corrected or withdrawn, and how is that told?"),
    ]
