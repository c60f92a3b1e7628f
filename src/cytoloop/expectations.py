"""What a table must be like, as Great Expectations' stock expectations on columns of facts.

No pixel is decoded here. `suite` says what is expected, in plain words and as an expectation;
`judge` asks Great Expectations, which also writes its Data Docs.
"""

import html
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cytoloop.errors import ArtifactError
from cytoloop.params import ValidateParams

OFFENDERS = 1000  # kept for one expectation
ROUNDING = 1e-9  # of fractions, in floating point

Severity = Literal["critical", "warning"]


@dataclass(frozen=True)
class Check:
    """One expectation: what it says to a person, and which stock expectation says it to the machine."""

    name: str
    text: str
    """In plain words, as a sentence that is true of good data."""
    expectation: str
    """A class of `great_expectations.expectations`."""
    arguments: dict[str, Any]
    severity: Severity = "critical"
    reason: str = ""
    """Why a picture offends, a format string over its facts; empty for expectations of the whole table."""
    setting: str | None = None
    """The key of params.yaml that moves the limit."""
    unit: str = ""
    """Of expectations of the whole table: what is counted."""
    whole: int | None = None
    """What the count is to be told as a fraction of."""


def suite(params: ValidateParams, classes: Sequence[str], pixels: int) -> list[Check]:
    """The expectations of a table.

    Args:
        params: the limits.
        classes: names in the order of their ids, background first.
        pixels: mask pixels in the whole table.
    """
    return [*_pictures(params), *_masks(params), *_duplicates(params), *_classes(params, classes, pixels), *_card()]


def _pictures(params: ValidateParams) -> Iterator[Check]:
    yield Check(
        "enough_pictures",
        f"There are at least {params.min_pictures} pictures.",
        "ExpectTableRowCountToBeBetween",
        {"min_value": params.min_pictures},
        setting="validate.min_pictures",
        unit="pictures",
    )
    yield _null("paired", "Every picture has a mask, and every mask a picture.", "missing", "{missing}")
    yield Check(
        "unique_ids",
        "No two pictures have the same id.",
        "ExpectColumnValuesToBeUnique",
        {"column": "id"},
        reason="its id is used more than once",
    )
    yield _null("readable", "Every file could be read.", "problem", "{problem}")
    yield Check(
        "not_too_small",
        f"The shorter side of every picture has at least {params.min_side} pixels.",
        "ExpectColumnValuesToBeBetween",
        {"column": "shorter_side", "min_value": params.min_side},
        reason="{size} pixels",
        setting="validate.min_side",
    )
    yield Check(
        "not_too_large",
        f"The longer side of every picture has at most {params.max_side} pixels.",
        "ExpectColumnValuesToBeBetween",
        {"column": "longer_side", "max_value": params.max_side},
        reason="{size} pixels",
        setting="validate.max_side",
    )
    yield Check(
        "accepted_mode",
        f"The mode of every picture is one of {', '.join(params.modes)}.",
        "ExpectColumnValuesToBeInSet",
        {"column": "mode", "value_set": list(params.modes)},
        reason="its mode is {mode}",
        setting="validate.modes",
    )


def _masks(params: ValidateParams) -> Iterator[Check]:
    yield Check(
        "same_size",
        "Every mask is as large as its picture.",
        "ExpectColumnPairValuesToBeEqual",
        {"column_A": "size", "column_B": "mask_size", "ignore_row_if": "either_value_is_missing"},
        reason="the picture has {size} pixels, its mask {mask_size}",
    )
    yield Check(
        "known_colours",
        f"At most {_percent(params.max_unknown_fraction)} of a mask's pixels have a colour of no class.",
        "ExpectColumnValuesToBeBetween",
        {"column": "unknown_fraction", "max_value": params.max_unknown_fraction},
        reason="{unknown_fraction:.2%} of its mask has colours of no class: {unknown_colors}",
        setting="validate.max_unknown_fraction",
    )
    yield Check(
        "not_empty",
        f"At most {_percent(params.max_empty_fraction)} of the masks are empty (background only).",
        "ExpectColumnValuesToBeBetween",
        {"column": "foreground_pixels", "min_value": 1, "mostly": _mostly(params.max_empty_fraction)},
        reason="its mask is empty",
        setting="validate.max_empty_fraction",
    )


def _duplicates(params: ValidateParams) -> Iterator[Check]:
    yield _null(
        "few_copies_elsewhere",
        f"At most {_percent(params.max_copy_fraction)} of the files occur again in another group or with another mask.",
        "copy_elsewhere",
        "the same file as {copy_elsewhere}, in another group or with another mask",
        mostly=_mostly(params.max_copy_fraction),
        setting="validate.max_copy_fraction",
    )
    yield _null(
        "no_copies_in_group",
        "No picture file occurs again in its own group.",
        "copy_in_group",
        "the same file as {copy_in_group}",
        severity="warning",
    )
    yield _null(
        "few_near_duplicates",
        f"At most {_percent(params.max_near_duplicate_fraction)} of the pictures look like one of another group.",
        "near_duplicate",
        "looks like {near_duplicate}",
        mostly=_mostly(params.max_near_duplicate_fraction),
        setting="validate.max_near_duplicate_fraction",
    )


def _classes(params: ValidateParams, classes: Sequence[str], pixels: int) -> Iterator[Check]:
    yield Check(
        "some_foreground",
        "There is foreground of at least one class.",
        "ExpectColumnSumToBeBetween",
        {"column": "foreground_pixels", "min_value": 1},
        unit="pixels",
    )
    for name in classes[1:]:
        yield Check(
            f"{name}_occurs",
            f"The class {name} occurs.",
            "ExpectColumnSumToBeBetween",
            {"column": f"pixels_{name}", "min_value": 1},
            severity="critical" if params.required_classes == "all" else "warning",
            setting="validate.required_classes",
            unit="pixels",
        )
    for name, (least, most) in params.class_fractions.items():
        yield Check(
            f"{name}_share",
            f"The class {name} has between {_percent(least)} and {_percent(most)} of all pixels.",
            "ExpectColumnSumToBeBetween",
            {
                "column": f"pixels_{name}",
                "min_value": math.ceil((least - ROUNDING) * pixels),
                "max_value": math.floor((most + ROUNDING) * pixels),
            },
            setting=f"validate.class_fractions.{name}",
            whole=pixels,
        )


def _card() -> Iterator[Check]:
    for column, words in {"licence": "licence of the pictures", "citation": "source of the pictures"}.items():
        yield Check(
            f"{column}_recorded",
            f"The {words} is recorded.",
            "ExpectColumnUniqueValueCountToBeBetween",
            {"column": column, "min_value": 1},
            severity="warning",
            setting=f"ingest.{column}",
            unit="recorded",
        )


def _null(name: str, text: str, column: str, reason: str, mostly: float = 1, **more: Any) -> Check:
    return Check(name, text, "ExpectColumnValuesToBeNull", {"column": column, "mostly": mostly}, reason=reason, **more)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.4g} %"


def _mostly(limit: float) -> float:
    """The fraction that must be good where at most `limit` may not be: k bad of n meet a limit of k / n."""
    return max(0.0, 1 - limit - ROUNDING)


def judge(facts: Any, checks: Sequence[Check], site: Path) -> list[dict[str, Any]]:
    """Hold a table's facts against the expectations.

    Args:
        facts: DataFrame of one row a picture, with the columns that the checks name.
        checks: the expectations.
        site: folder for Great Expectations' Data Docs.

    Returns:
        A plain dict for each check, in their order: name, text, severity, setting, success,
        observed with its unit (of a whole table; else null), unexpected (pictures that offend; null of a whole
        table), and offenders (id, file, reason), at most OFFENDERS.

    Raises:
        ArtifactError: Great Expectations could not judge; the message has its own words.
    """
    results = _results(facts, checks, site)
    return [_verdict(check, results[check.name], facts) for check in checks]


def _results(facts: Any, checks: Sequence[Check], site: Path) -> dict[str, Any]:
    """Great Expectations' result for each check's name (it does not keep their order)."""
    import great_expectations as gx
    from great_expectations.checkpoint import UpdateDataDocsAction

    # the latter sets a level of its own
    for talkative in ("great_expectations", "great_expectations.data_context.types.base"):
        logging.getLogger(talkative).setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("facts").add_dataframe_asset("pictures")
    definition = gx.ValidationDefinition(
        name="facts",
        data=asset.add_batch_definition_whole_dataframe("all"),
        suite=context.suites.add(gx.ExpectationSuite(name="segmentation", expectations=[_stock(c) for c in checks])),
    )
    context.add_data_docs_site(site_name="pages", site_config=_site(site))
    checkpoint = gx.Checkpoint(
        name="gate",
        validation_definitions=[context.validation_definitions.add(definition)],
        actions=[UpdateDataDocsAction(name="docs", site_names=["pages"])],
        result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["row"]},
    )
    # its pages do not escape what they quote
    shown = facts.map(lambda value: html.escape(value) if isinstance(value, str) else value)
    run = context.checkpoints.add(checkpoint).run(batch_parameters={"dataframe": shown.assign(row=range(len(facts)))})
    (result,) = run.run_results.values()
    return {entry["expectation_config"]["meta"]["name"]: entry for entry in result.to_json_dict()["results"]}


def _stock(check: Check) -> Any:
    import great_expectations.expectations as gxe

    return getattr(gxe, check.expectation)(
        **check.arguments, severity=check.severity, description=check.text, meta={"name": check.name}
    )


def _site(folder: Path) -> dict[str, Any]:
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.absolute())},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }


def _verdict(check: Check, result: dict[str, Any], facts: Any) -> dict[str, Any]:
    found = result["result"]
    if not found:
        raise ArtifactError(f"Great Expectations could not judge {check.name!r}: {result['exception_info']}")
    observed = found.get("observed_value")
    return {
        "name": check.name,
        "text": check.text,
        "severity": check.severity,
        "setting": check.setting,
        "success": result["success"],
        "observed": observed / check.whole if check.whole else observed,
        "unit": check.unit,
        "unexpected": found.get("unexpected_count"),
        "offenders": [_offender(check, facts, at["row"]) for at in found.get("unexpected_index_list", [])[:OFFENDERS]],
    }


def _offender(check: Check, facts: Any, row: int) -> dict[str, str]:
    picture = facts.iloc[row].to_dict()
    return {"id": picture["id"], "file": picture["file"], "reason": check.reason.format_map(picture)}
