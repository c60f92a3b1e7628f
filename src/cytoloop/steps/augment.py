"""Variants of the training pictures, made once and versioned like any other table."""

import hashlib
from dataclasses import replace
from functools import partial
from pathlib import Path

from tqdm import tqdm

from cytoloop.ahead import ahead
from cytoloop.artifacts import TRAIN, Row, TableWriter, read_card, read_facts, read_rows, read_splits
from cytoloop.door import Input, Numbers, Output
from cytoloop.errors import ArtifactError
from cytoloop.images.augment import Sample
from cytoloop.images.codec import LabelCodec
from cytoloop.images.decode import decode_ids, decode_instances, decode_rgb
from cytoloop.images.facts import mask_facts, picture_facts
from cytoloop.params import AugmentParams
from cytoloop.variation import chance, vary


def augment(raw: Input, splits: Input, augmented: Output, augment_params: AugmentParams) -> Numbers:
    """Write `copies` variants of each training picture as a table; val and test are never touched.

    A variant's id is `<origin>~<number>`; it is in its origin's group, and names it in `origin`. It
    depends on the seed, the origin and the number alone. With no copies the table is empty.

    Returns:
        Counts: origins and pictures (variants).

    Raises:
        ArtifactError: the splits are of another table.
    """
    card = read_card(raw)
    origins = _training_ids(raw, splits) if augment_params.copies else set()
    make = partial(_variants, codec=card.codec, params=augment_params)
    with TableWriter(augmented, replace(card, name=f"{card.name} (augmented)")) as table:
        made = ahead(make, read_rows(raw, origins))
        for variants in tqdm(made, "augment", len(origins), leave=False, unit="picture", disable=None):
            for variant in variants:
                table.write(variant)
    return {"origins": len(origins), "pictures": len(origins) * augment_params.copies}


def _training_ids(raw: Path, splits: Path) -> set[str]:
    divided = read_splits(splits)
    if set(divided) != set(read_facts(raw, ["id"])["id"]):
        raise ArtifactError(f"{splits}: these splits are not of the table in {raw}; run `cytoloop split` again")
    return {picture for picture, part in divided.items() if part == TRAIN}


def _variants(origin: Row, codec: LabelCodec, params: AugmentParams) -> list[Row]:
    """All variants of one picture."""
    sample = Sample(
        decode_rgb(origin.image or b""),
        decode_ids(origin.mask or b""),
        decode_instances(origin.instances) if origin.instances else None,
    )
    variants = []
    for number in range(1, params.copies + 1):
        variant = vary(sample, params, chance(params.seed, origin.id, number), surely=True)
        variants.append(_row(origin, number, variant, codec))
    return variants


def _row(origin: Row, number: int, sample: Sample, codec: LabelCodec) -> Row:
    """The variant's row, with its facts taken anew from its pixels."""
    facts = picture_facts(sample.image_HWC) | mask_facts(sample.mask_HW, sample.instances_HW, codec)
    return replace(
        origin,
        id=f"{origin.id}~{number}",
        origin=origin.id,
        sha256=hashlib.sha256(facts["image"]).hexdigest(),
        mode="RGB",
        unknown_pixels=0,
        unknown_colors=None,
        **facts,
    )
