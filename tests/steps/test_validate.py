"""The validate step on small tables: what passes, what stops the pipeline, and what it leaves behind."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cytoloop.artifacts import Row, read_card
from cytoloop.door import run_step
from cytoloop.errors import ArtifactError, ValidationFailed
from cytoloop.params import ValidateParams, check_params
from cytoloop.report.validation import validation_page, validation_section
from cytoloop.steps.validate import validate
from tables import card, mask_of, row, write_table


def judged(
    tmp_path: Path, rows: list[Row], limits: dict[str, Any] | None = None, **card_changes: Any
) -> dict[str, Any]:
    """The receipt, whether the data passed or not, with the failure's message under `message`."""
    raw = write_table(tmp_path / "raw", rows, **card_changes)
    validated = tmp_path / "validated"
    validated.mkdir()
    message = None
    try:
        validate(raw, validated, tmp_path / "docs", ValidateParams(**(limits or {})))
    except ValidationFailed as failure:
        message = str(failure)
    receipt = json.loads((validated / "receipt.json").read_text("utf-8"))
    assert receipt["passed"] == (message is None)
    return {**receipt, "message": message}


def unmet(receipt: dict[str, Any]) -> list[str]:
    return [verdict["name"] for verdict in receipt["expectations"] if not verdict["success"]]


GOOD = [row("a"), row("b"), row("c")]


def test_good_data_passes_and_leaves_receipt_page_and_data_docs(tmp_path: Path) -> None:
    raw = write_table(tmp_path / "raw", GOOD)
    validated = tmp_path / "validated"
    validated.mkdir()
    numbers = validate(raw, validated, tmp_path / "docs", ValidateParams())
    assert numbers == {"pictures": 3, "expectations": 18, "failed": 0, "warnings": 0}
    assert sorted(path.name for path in validated.iterdir()) == ["index.html", "receipt.json"]
    assert (tmp_path / "docs" / "index.html").is_file()
    receipt = json.loads((validated / "receipt.json").read_text("utf-8"))
    assert receipt["passed"]
    assert receipt["raw_digest"] == read_card(raw).digest
    statistics = receipt["statistics"]
    assert statistics["sizes"] == [["40 x 40", 3]]
    # a 12 x 12 cell on 40 x 40, with a nucleus of 3 x 3
    assert statistics["class_fractions"]["nucleus"] == pytest.approx(9 / 1600)
    assert statistics["class_fractions"]["cytoplasm"] == pytest.approx((144 - 9) / 1600)


def test_every_defect_that_ingest_records_is_listed_at_once(tmp_path: Path) -> None:
    nothing = dict.fromkeys(
        ["image", "mask", "instances", "class_pixels", "unknown_pixels", "phash", "width", "height", "mode"]
    )
    no_mask = {"mask": None, "mask_file": None, "class_pixels": None, "mask_width": None, "mask_height": None}
    bad = [
        row("no mask", **no_mask),
        row(
            "no picture", **nothing, sha256=None, source_file="masks/no picture.png", problem="the mask has no picture"
        ),
        row("damaged", **nothing, problem="not a readable picture: truncated"),
        row("small mask", mask_width=20, mask_height=20, class_pixels=[400, 0, 0], problem="mask of another size"),
        row("odd colours", unknown_pixels=16, unknown_colors="(9, 9, 9): 16", problem=None),
    ]
    receipt = judged(tmp_path, [*GOOD, *bad])
    assert unmet(receipt) == ["paired", "readable", "same_size", "known_colours"]
    offenders = {v["name"]: [(o["id"], o["reason"]) for o in v["offenders"]] for v in receipt["expectations"]}
    assert offenders["paired"] == [
        ("no mask", "its mask is missing"),
        ("no picture", "the mask has no picture"),
    ]
    assert offenders["readable"] == [("damaged", "not a readable picture: truncated")]
    assert offenders["same_size"] == [("small mask", "the picture has 40 x 40 pixels, its mask 20 x 20")]
    assert offenders["known_colours"] == [("odd colours", "1.00% of its mask has colours of no class: (9, 9, 9): 16")]
    for file in ("images/no mask", "masks/no picture", "images/damaged", "images/small mask", "images/odd colours"):
        assert f"{file}.png: " in receipt["message"]
    assert "4 of 18 expectations failed" in receipt["message"]
    assert "validate.max_unknown_fraction" in receipt["message"]


def test_unknown_colours_within_the_limit_are_tolerated(tmp_path: Path) -> None:
    few = row("few", unknown_pixels=16, unknown_colors="(9, 9, 9): 16")
    assert not unmet(judged(tmp_path, [*GOOD, few], {"max_unknown_fraction": 0.01}))


def test_the_message_shows_twenty_offenders_and_counts_the_rest(tmp_path: Path) -> None:
    small = [row(f"p{n:02}", width=10, height=10, mask_width=10, mask_height=10) for n in range(25)]
    receipt = judged(tmp_path, small)
    assert receipt["message"].count("10 x 10 pixels") == 20
    assert "... and 5 more; see index.html in the `validated` folder" in receipt["message"]
    assert len(next(v for v in receipt["expectations"] if v["name"] == "not_too_small")["offenders"]) == 25


def test_copies_of_a_file_in_one_group_are_a_warning(tmp_path: Path) -> None:
    receipt = judged(tmp_path, [*GOOD, row("a2", "a", sha256=GOOD[0].sha256)])
    assert receipt["passed"]
    assert unmet(receipt) == ["no_copies_in_group"]
    assert receipt["warnings"] == [
        "not as expected: No picture file occurs again in its own group. 1 picture(s) offend."
    ]


@pytest.mark.parametrize(
    "copy", [row("a2", "b", sha256=GOOD[0].sha256), row("a2", "a", mask_of(cell=10), sha256=GOOD[0].sha256)]
)
def test_copies_of_a_file_in_another_group_or_with_another_mask_fail(copy: Row, tmp_path: Path) -> None:
    receipt = judged(tmp_path, [*GOOD, copy])
    assert unmet(receipt) == ["few_copies_elsewhere"]
    (verdict,) = [v for v in receipt["expectations"] if v["name"] == "few_copies_elsewhere"]
    assert [offender["id"] for offender in verdict["offenders"]] == ["a", "a2"]


def test_near_duplicates_count_only_between_groups_and_fail_above_the_limit(tmp_path: Path) -> None:
    like_a = [row("a2", "a", phash=GOOD[0].phash), row("b2", "b2", phash=GOOD[1].phash)]
    receipt = judged(tmp_path, [*GOOD, *like_a], {"max_near_duplicate_fraction": 0.3})
    assert unmet(receipt) == ["few_near_duplicates"]
    (verdict,) = [v for v in receipt["expectations"] if v["name"] == "few_near_duplicates"]
    assert [(o["id"], o["reason"]) for o in verdict["offenders"]] == [("b", "looks like b2"), ("b2", "looks like b")]


def test_no_foreground_at_all_fails_whatever_is_tolerated(tmp_path: Path) -> None:
    receipt = judged(tmp_path, [row(name, mask_HW=mask_of(cell=0)) for name in "abc"], {"max_empty_fraction": 1})
    assert unmet(receipt) == ["some_foreground", "nucleus_occurs", "cytoplasm_occurs"]
    assert not receipt["passed"]
    assert len(receipt["warnings"]) == 2


def test_an_unrecorded_licence_is_a_warning_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    receipt = judged(tmp_path, GOOD, licence=" ")
    assert receipt["passed"]
    assert unmet(receipt) == ["licence_recorded"]
    assert "ingest.licence" in caplog.text


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    raw = write_table(tmp_path / "raw", [])
    with pytest.raises(ArtifactError, match="no pictures"):
        validate(raw, tmp_path, tmp_path / "docs", ValidateParams())


def test_a_failure_keeps_its_output_behind_the_door(tmp_path: Path) -> None:
    classes = [{"name": c["name"], "color": c["color"]} for c in card().classes]
    tree = {"classes": classes, "ingest": {"layout": "any", "source": "any"}, "model": {"num_classes": len(classes)}}
    folders = {
        "raw": write_table(tmp_path / "raw", GOOD[:1]),
        "validated": tmp_path / "validated",
        "data_docs": tmp_path / "docs",
    }
    with pytest.raises(ValidationFailed, match="at least 3 pictures"):
        run_step("validate", folders, check_params(tree, "test"))
    assert json.loads((tmp_path / "validated" / "receipt.json").read_text("utf-8"))["passed"] is False


def test_the_receipt_and_the_page_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    raw = write_table(tmp_path / "raw", [*GOOD, row("a2", "a", sha256=GOOD[0].sha256)])
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        validate(raw, tmp_path / name, tmp_path / f"{name} docs", ValidateParams())
    for file in ("receipt.json", "index.html"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_the_page_escapes_names_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script> a&b"
    rows = [*GOOD, row("d", source_file=f"{evil}.png", problem=f"{evil} is damaged")]
    receipt = judged(tmp_path, rows, name=evil, citation=evil)
    page = (tmp_path / "validated" / "index.html").read_text("utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert not any(outside in page for outside in ("http:", "https:", "src=", "@import", "url("))
    assert "✗ Not passed" in page
    assert "✗ failed" in page
    assert "✓ met" in page
    assert page == validation_page(receipt, card(name=evil, citation=evil))
    section = validation_section(receipt)
    assert section.strip() in page.replace("\r", "")
    assert "<html" not in section


def test_the_page_of_good_data_says_so(tmp_path: Path) -> None:
    judged(tmp_path, GOOD)
    page = (tmp_path / "validated" / "index.html").read_text("utf-8")
    assert "✓ Passed" in page
    assert "✗" not in page
    assert "<details" not in page


def test_validation_prints_nothing_and_never_imports_tensorflow(tmp_path: Path) -> None:
    raw = write_table(tmp_path / "raw", GOOD)
    script = (
        "import sys; from pathlib import Path; from cytoloop.params import ValidateParams;"
        "from cytoloop.steps.validate import validate;"
        "validate(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[2] + '-docs'), ValidateParams());"
        "assert not {'tensorflow', 'keras', 'mlflow'} & set(sys.modules)"
    )
    (tmp_path / "validated").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, raw, tmp_path / "validated"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
