"""Judge the table that ingest recorded; what does not pass is not trained on."""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cytoloop import expectations
from cytoloop.artifacts import (
    FACT_COLUMNS,
    RECEIPT,
    VALIDATION_PAGE,
    Card,
    Row,
    read_card,
    read_rows,
    write_json,
)
from cytoloop.door import Input, Numbers, Output
from cytoloop.errors import ArtifactError, ValidationFailed
from cytoloop.images.hashes import near_duplicates
from cytoloop.params import ValidateParams
from cytoloop.report.validation import validation_page

SHOWN = 20  # offenders in the message of a failure

log = logging.getLogger("cytoloop")


def validate(raw: Input, validated: Output, data_docs: Output, validate_params: ValidateParams) -> Numbers:
    """Hold the table's facts against the suite of expectations; no pixel is decoded.

    Writes `receipt.json` (verdict, expectations, offenders, statistics) and our own page `index.html`,
    and apart from them, since they hold times and random names, Great Expectations' Data Docs;
    whether the data passed or not.

    Returns:
        Counts: pictures, expectations, failed (critical) and warnings.

    Raises:
        ValidationFailed: a critical expectation failed; the message lists offending files and reasons.
    """
    card = read_card(raw)
    facts = facts_of_pictures(raw, card, validate_params.near_duplicate_bits)
    pixels = int(facts[[f"pixels_{name}" for name in card.codec.names]].sum().sum())
    suite = expectations.suite(validate_params, card.codec.names, pixels)
    receipt = _receipt(card, facts, expectations.judge(facts, suite, data_docs))
    write_json(validated / RECEIPT, receipt)
    (validated / VALIDATION_PAGE).write_text(validation_page(receipt, card), "utf-8")
    for warning in receipt["warnings"]:
        log.warning(warning)
    if not receipt["passed"]:
        raise ValidationFailed(_complaint(receipt))
    return {key: receipt["statistics"][key] for key in ("pictures", "expectations", "failed", "warnings")}


def facts_of_pictures(raw: Path, card: Card, near_duplicate_bits: int) -> Any:
    """A DataFrame of one row a picture with the columns that the expectations speak of.

    Text, null where there is nothing to say: `missing`, `problem`, `copy_in_group`, `copy_elsewhere`,
    `near_duplicate`. Pixels, null where there is no picture or mask: `shorter_side`, `longer_side`,
    `foreground_pixels`, `pixels_<class>`. Besides: id, group, file, mode, `size` and `mask_size`
    (text), `unknown_fraction` (0..1), `unknown_colors`, and the card's `licence` and `citation`.

    Raises:
        ArtifactError: the table is empty.
    """
    from pandas import DataFrame

    pictures = list(read_rows(raw, columns=FACT_COLUMNS))
    if not pictures:
        raise ArtifactError(f"{raw}: the table has no pictures; ingest a source that has some")
    facts = DataFrame([_facts(picture, card.codec.names) for picture in pictures])
    facts["copy_in_group"], facts["copy_elsewhere"] = _copies(raw, pictures)
    facts["near_duplicate"] = _look_alikes(pictures, near_duplicate_bits)
    return facts.assign(licence=card.licence.strip() or None, citation=card.citation.strip() or None)


def _facts(picture: Row, names: Sequence[str]) -> dict[str, Any]:
    size, mask_size = _size(picture.width, picture.height), _size(picture.mask_width, picture.mask_height)
    mask_area = (picture.mask_width or 0) * (picture.mask_height or 0)
    pixels: Sequence[int | None] = picture.class_pixels or [None] * len(names)
    return {
        "id": picture.id,
        "group": picture.group,
        "file": picture.source_file,
        "missing": _missing(picture),
        "problem": None if _missing(picture) or (size and mask_size and size != mask_size) else _problem(picture),
        "size": size,
        "mask_size": mask_size,
        "shorter_side": min(picture.width, picture.height) if picture.width and picture.height else None,
        "longer_side": max(picture.width, picture.height) if picture.width and picture.height else None,
        "mode": picture.mode,
        "unknown_fraction": (picture.unknown_pixels or 0) / mask_area if mask_area else None,
        "unknown_colors": picture.unknown_colors or "",
        **{f"pixels_{name}": count for name, count in zip(names, pixels, strict=True)},
        "foreground_pixels": sum(picture.class_pixels[1:]) if picture.class_pixels else None,
    }


def _size(width: int | None, height: int | None) -> str | None:
    return f"{width} x {height}" if width and height else None


def _missing(picture: Row) -> str | None:
    """Which of the pair is not there, in ingest's words where it has some.

    The row of a mask without a picture is named for the mask's file.
    """
    mask_files = (picture.source_file, picture.source_file.rpartition("/")[0])
    has_picture = picture.sha256 is not None or picture.mask_file not in mask_files
    has_mask = picture.mask_file is not None or picture.class_pixels is not None
    if has_picture and has_mask:
        return None
    return picture.problem or ("its mask is missing" if has_picture else "its picture is missing")


def _problem(picture: Row) -> str | None:
    """What else is wrong with a pair that is there."""
    if picture.problem is None and (picture.width is None or picture.class_pixels is None):
        return "nothing was recorded of its pixels; ingest it again"
    return picture.problem


def _copies(raw: Path, pictures: Sequence[Row]) -> tuple[list[str | None], list[str | None]]:
    """For each picture, the id of an identical file: in its group with the same mask, or elsewhere."""
    same: dict[str, list[int]] = {}
    for at, picture in enumerate(pictures):
        if picture.sha256 is not None:
            same.setdefault(picture.sha256, []).append(at)
    repeated = [places for places in same.values() if len(places) > 1]
    masks = _mask_digests(raw, {pictures[at].id for places in repeated for at in places})
    in_group: list[str | None] = [None] * len(pictures)
    elsewhere: list[str | None] = [None] * len(pictures)
    for places in repeated:
        kinds = {at: (pictures[at].group, masks[pictures[at].id]) for at in places}
        for at in places:
            elsewhere[at] = next((pictures[other].id for other in places if kinds[other] != kinds[at]), None)
        if len(set(kinds.values())) == 1:
            for at in places[1:]:
                in_group[at] = pictures[places[0]].id
    return in_group, elsewhere


def _mask_digests(raw: Path, ids: set[str]) -> dict[str, bytes]:
    rows = read_rows(raw, ids, ["mask"]) if ids else []
    return {row.id: hashlib.sha256(row.mask or b"").digest() for row in rows}


def _look_alikes(pictures: Sequence[Row], bits: int) -> list[str | None]:
    """For each picture, the id of one of another group with nearly the same perceptual hash."""
    hashed = [at for at, picture in enumerate(pictures) if picture.phash is not None]
    alike: list[str | None] = [None] * len(pictures)
    for one, other in near_duplicates([pictures[at].phash or b"" for at in hashed], bits):
        a, b = hashed[one], hashed[other]
        if pictures[a].group != pictures[b].group:
            alike[a] = alike[a] or pictures[b].id
            alike[b] = alike[b] or pictures[a].id
    return alike


def _receipt(card: Card, facts: Any, verdicts: list[dict[str, Any]]) -> dict[str, Any]:
    broken = [verdict for verdict in verdicts if not verdict["success"]]
    failed = [verdict for verdict in broken if verdict["severity"] == "critical"]
    warned = [verdict for verdict in broken if verdict["severity"] == "warning"]
    counts = {"expectations": len(verdicts), "failed": len(failed), "warnings": len(warned)}
    return {
        "passed": not failed,
        "raw_digest": card.digest,
        "expectations": verdicts,
        "warnings": [f"not as expected: {_headline(verdict)}" for verdict in warned],
        "statistics": counts | _statistics(card, facts),
    }


def _statistics(card: Card, facts: Any) -> dict[str, Any]:
    names = card.codec.names
    pixels = {name: float(facts[f"pixels_{name}"].sum()) for name in names}
    return {
        "pictures": len(facts),
        "groups": int(facts["group"].nunique()),
        "empty": int((facts["foreground_pixels"] == 0).sum()),
        "sizes": _commonest(facts["size"]),
        "modes": _commonest(facts["mode"]),
        "class_fractions": {name: pixels[name] / max(sum(pixels.values()), 1) for name in names},
        "class_pictures": {name: int((facts[f"pixels_{name}"] > 0).sum()) for name in names},
    }


def _commonest(values: Any) -> list[list[Any]]:
    """[value, count] of the values that there are, the commonest first."""
    counts = Counter(values.dropna())
    return [[value, counts[value]] for value in sorted(counts, key=lambda value: (-counts[value], value))]


def _headline(verdict: dict[str, Any]) -> str:
    pictures = f" {verdict['unexpected']} picture(s) offend." if verdict["unexpected"] else ""
    setting = f" [{verdict['setting']}]" if verdict["setting"] else ""
    return f"{verdict['text']}{pictures}{setting}"


def _complaint(receipt: dict[str, Any]) -> str:
    """The failure for people: what was expected, which files offend and why, and what to do."""
    failed = [v for v in receipt["expectations"] if not v["success"] and v["severity"] == "critical"]
    lines = [f"the data did not pass: {len(failed)} of {len(receipt['expectations'])} expectations failed"]
    left, total = SHOWN, 0
    for verdict in failed:
        lines.append(f"  not as expected: {_headline(verdict)}")
        lines += [f"    {offender['file']}: {offender['reason']}" for offender in verdict["offenders"][:left]]
        left -= min(left, len(verdict["offenders"]))
        total += verdict["unexpected"] or 0
    if total > SHOWN:
        lines.append(f"    ... and {total - SHOWN} more; see {VALIDATION_PAGE} in the `validated` folder")
    lines.append("correct or remove these files in the source and ingest again, or, where you accept them,")
    lines.append("change the settings named in [brackets] in params.yaml")
    return "\n".join(lines)
