"""The suite alone, on facts written by hand: each expectation catches its own offence, and only it."""

from pathlib import Path
from typing import Any

import pytest
from pandas import DataFrame

from cytoloop.expectations import Check, judge, suite
from cytoloop.params import ValidateParams

CLASSES = ("background", "nucleus", "cytoplasm")

GOOD = {
    "group": "g",
    "missing": None,
    "problem": None,
    "size": "40 x 50",
    "mask_size": "40 x 50",
    "shorter_side": 40,
    "longer_side": 50,
    "mode": "RGB",
    "unknown_fraction": 0.0,
    "unknown_colors": "",
    "pixels_background": 1900,
    "pixels_nucleus": 40,
    "pixels_cytoplasm": 60,
    "foreground_pixels": 100,
    "copy_in_group": None,
    "copy_elsewhere": None,
    "near_duplicate": None,
    "licence": "CC0-1.0",
    "citation": "drawn",
}


def facts(*changes: dict[str, Any]) -> DataFrame:
    """Facts of as many pictures as there are changes, each good but for its change."""
    return DataFrame([{"id": f"p{n}", "file": f"{n}.png", **GOOD, **change} for n, change in enumerate(changes)])


def failures(frame: DataFrame, folder: Path, **limits: Any) -> dict[str, dict[str, Any]]:
    checks = suite(ValidateParams(**limits), CLASSES, 2000 * len(frame))
    return {verdict["name"]: verdict for verdict in judge(frame, checks, folder) if not verdict["success"]}


def test_good_data_meets_every_expectation_in_the_order_of_the_suite(tmp_path: Path) -> None:
    checks = suite(ValidateParams(), CLASSES, 6000)
    verdicts = judge(facts({}, {}, {}), checks, tmp_path)
    assert [verdict["name"] for verdict in verdicts] == [check.name for check in checks]
    assert all(verdict["success"] for verdict in verdicts)
    assert not any(verdict["offenders"] for verdict in verdicts)


OFFENCES = {
    "paired": ({"missing": "its mask is missing"}, "its mask is missing"),
    "readable": ({"problem": "not a PNG"}, "not a PNG"),
    "unique_ids": ({"id": "p0"}, "its id is used more than once"),
    "not_too_small": ({"shorter_side": 31, "size": "31 x 50", "mask_size": "31 x 50"}, "31 x 50 pixels"),
    "not_too_large": ({"longer_side": 9000, "size": "40 x 9000", "mask_size": "40 x 9000"}, "40 x 9000 pixels"),
    "accepted_mode": ({"mode": "CMYK"}, "its mode is CMYK"),
    "same_size": ({"mask_size": "50 x 40"}, "the picture has 40 x 50 pixels, its mask 50 x 40"),
    "known_colours": (
        {"unknown_fraction": 0.015, "unknown_colors": "(1, 2, 3)"},
        "1.50% of its mask has colours of no class: (1, 2, 3)",
    ),
    "few_copies_elsewhere": (
        {"copy_elsewhere": "p0"},
        "the same file as p0, in another group or with another mask",
    ),
    "no_copies_in_group": ({"copy_in_group": "p0"}, "the same file as p0"),
}


def test_each_offence_fails_its_own_expectation_and_no_other(tmp_path: Path) -> None:
    failed = failures(facts({}, *[change for change, _ in OFFENCES.values()]), tmp_path)
    assert set(failed) == set(OFFENCES)
    for number, (name, (_, reason)) in enumerate(OFFENCES.items(), start=1):
        twin = [("0.png", reason)] if name == "unique_ids" else []
        found = [(offender["file"], offender["reason"]) for offender in failed[name]["offenders"]]
        assert found == [*twin, (f"{number}.png", reason)]


def test_what_was_not_recorded_is_only_charged_once(tmp_path: Path) -> None:
    """An unreadable picture has no size, mode or pixels: one offence, not seven."""
    unknown = dict.fromkeys(
        ("size", "mask_size", "shorter_side", "longer_side", "mode", "unknown_fraction", "foreground_pixels"), None
    )
    assert list(failures(facts({}, {}, {**unknown, "problem": "damaged"}), tmp_path)) == ["readable"]


def test_limits_on_fractions_of_pictures_tolerate_up_to_the_limit(tmp_path: Path) -> None:
    frame = facts({"foreground_pixels": 0}, {"near_duplicate": "p2"}, {}, {})
    limits = {"max_empty_fraction": 0.25, "max_near_duplicate_fraction": 0.25}
    assert not failures(frame, tmp_path, **limits)
    assert set(failures(frame, tmp_path, max_empty_fraction=0.24, max_near_duplicate_fraction=0.24)) == {
        "not_empty",
        "few_near_duplicates",
    }


def test_a_limit_on_pictures_is_met_exactly_at_the_limit() -> None:
    """The limit turns into `mostly` = 1 - limit in floating point, which must not refuse k of n at k / n."""
    for pictures in range(1, 40):
        for offenders in range(pictures + 1):
            checks = suite(ValidateParams(max_near_duplicate_fraction=offenders / pictures), CLASSES, 1)
            mostly = next(check for check in checks if check.name == "few_near_duplicates").arguments["mostly"]
            assert (pictures - offenders) / pictures >= mostly > (pictures - offenders - 1) / pictures


def test_class_shares_are_of_all_pixels(tmp_path: Path) -> None:
    frame = facts({}, {"pixels_nucleus": 0, "pixels_background": 1940}, {})
    failed = failures(
        frame, tmp_path, class_fractions={"nucleus": (0.02, 0.5), "cytoplasm": (0.03, 0.03), "background": (0, 1)}
    )
    assert list(failed) == ["nucleus_share"]
    assert failed["nucleus_share"]["observed"] == pytest.approx(80 / 6000)


def test_a_class_that_never_occurs_is_a_warning_or_a_failure(tmp_path: Path) -> None:
    frame = facts(*[{"pixels_nucleus": 0}] * 3)
    assert failures(frame, tmp_path)["nucleus_occurs"]["severity"] == "warning"
    assert failures(frame, tmp_path, required_classes="all")["nucleus_occurs"]["severity"] == "critical"


def test_no_foreground_at_all_is_critical(tmp_path: Path) -> None:
    empty = {"pixels_nucleus": 0, "pixels_cytoplasm": 0, "foreground_pixels": 0}
    failed = failures(facts(empty, empty, empty), tmp_path, max_empty_fraction=1)
    assert failed["some_foreground"]["severity"] == "critical"


def test_an_unrecorded_licence_or_source_is_a_warning(tmp_path: Path) -> None:
    failed = failures(facts(*[{"licence": None, "citation": None}] * 3), tmp_path)
    assert {name: verdict["severity"] for name, verdict in failed.items()} == {
        "licence_recorded": "warning",
        "citation_recorded": "warning",
    }


def test_too_few_pictures(tmp_path: Path) -> None:
    assert failures(facts({}), tmp_path)["enough_pictures"]["observed"] == 1


def test_data_docs_quote_no_markup_of_file_names(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    failures(facts({"id": evil}, {"id": evil}, {"problem": evil}, {"mode": evil}), tmp_path)
    pages = [page.read_text("utf-8") for page in tmp_path.rglob("*.html")]
    assert len(pages) >= 3
    assert not any(evil in page for page in pages)


def test_an_expectation_that_cannot_be_judged_is_an_error(tmp_path: Path) -> None:
    from cytoloop.errors import ArtifactError

    lost = Check("lost", "A column is there.", "ExpectColumnValuesToBeNull", {"column": "no such column"})
    with pytest.raises(ArtifactError, match="could not judge 'lost'"):
        judge(facts({}), [lost], tmp_path)
