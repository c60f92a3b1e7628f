"""The split step on small tables: who goes where, what is refused, and what is told."""

import csv
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cytoloop.artifacts import Row, read_card, read_splits
from cytoloop.errors import ArtifactError
from cytoloop.params import SplitParams
from cytoloop.steps.split import place, split
from tables import mask_of, row, write_receipt, write_table


def divided(tmp_path: Path, rows: Sequence[Row], **params: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """id -> split, and the summary."""
    raw = write_table(tmp_path / "raw", rows)
    validated = write_receipt(tmp_path / "validated", read_card(raw).digest)
    splits = tmp_path / "splits"
    splits.mkdir(exist_ok=True)
    numbers = split(raw, validated, splits, SplitParams(**params))
    summary = json.loads((splits / "splits.json").read_text("utf-8"))
    assert numbers == {**summary["pictures"], "groups": len({one.group for one in rows})}
    return read_splits(splits), summary


def reasons(tmp_path: Path) -> dict[str, str]:
    with (tmp_path / "splits" / "splits.csv").open(newline="", encoding="utf-8") as file:
        return {line["id"]: line["reason"] for line in csv.DictReader(file)}


PICTURES = [row(f"p{n:03}") for n in range(100)]


def test_the_place_of_a_group_is_what_the_docstring_says() -> None:
    digest = hashlib.sha256(b"7\0slide 3").digest()
    assert place(7, "slide 3") == int.from_bytes(digest[:8]) // 2**11 / 2**53
    assert 0 <= place(7, "slide 3") < 1


def test_fractions_are_of_the_hash_places(tmp_path: Path) -> None:
    found, summary = divided(tmp_path, PICTURES, train=0.6, val=0.25, test=0.15, seed=3)
    for one in PICTURES:
        at = place(3, one.group)
        assert found[one.id] == ("train" if at < 0.6 else "val" if at < 0.85 else "test")
    assert sum(summary["pictures"].values()) == 100
    assert summary["fractions_of_groups"]["train"] == pytest.approx(0.6, abs=0.15)


def test_a_group_is_never_divided(tmp_path: Path) -> None:
    rows = [row(f"{group}-{n}", group) for group in "abcdefghijkl" for n in range(3)]
    found, _ = divided(tmp_path, rows, seed=19)
    assert set(found.values()) == {"train", "val", "test"}
    for group in "abcdefghijkl":
        assert len({found[f"{group}-{n}"] for n in range(3)}) == 1


def test_presence_of_classes_is_counted_by_pictures_and_groups(tmp_path: Path) -> None:
    given = ["train", "train", "val", "test"]
    masks = [mask_of(), mask_of(cell=0), mask_of(), mask_of(cell=4)]  # a small cell has no nucleus
    rows = [row(f"p{n}", mask_HW=masks[n], given_split=given[n]) for n in range(4)]
    _, summary = divided(tmp_path, rows)
    assert summary["classes"]["nucleus"]["pictures"] == {"train": 1, "val": 1, "test": 0, "excluded": 0}
    assert summary["classes"]["cytoplasm"]["groups"] == {"train": 1, "val": 1, "test": 1}
    assert summary["missing"] == {"nucleus": ["test"]}
    pixels = [count.tolist() for count in (np.bincount(mask.ravel(), minlength=3) for mask in masks)]
    for label, name in enumerate(("background", "nucleus", "cytoplasm")):
        counted = {"train": pixels[0][label] + pixels[1][label], "val": pixels[2][label], "test": pixels[3][label]}
        assert summary["classes"][name]["pixels"] == counted


def test_the_statistics_are_drawn(tmp_path: Path) -> None:
    """Of whatever classes there are, even one that is nowhere."""
    divided(tmp_path, [row(f"p{n}", mask_HW=mask_of(cell=0)) for n in range(40)])
    with Image.open(tmp_path / "splits" / "statistics.png") as picture:
        assert picture.format == "PNG"
        assert picture.width == 11 * 144
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20) or []}
    assert {(0x1F, 0x6F, 0x8B), (0x5C, 0x68, 0x76), (0xC2, 0x69, 0x1C)} <= colors  # train, val, test


def test_a_receipt_of_other_data_or_of_failed_data_is_refused(tmp_path: Path) -> None:
    raw = write_table(tmp_path / "raw", PICTURES)
    other = write_receipt(tmp_path / "other", "of something else")
    failed = write_receipt(tmp_path / "failed", read_card(raw).digest, passed=False)
    with pytest.raises(ArtifactError, match="other data"):
        split(raw, other, tmp_path, SplitParams())
    with pytest.raises(ArtifactError, match="did not pass"):
        split(raw, failed, tmp_path, SplitParams())


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_groups_are_refused(count: int, tmp_path: Path) -> None:
    with pytest.raises(
        ArtifactError, match=rf"{count} picture\(s\) in {count} group\(s\); at least 3 groups are needed"
    ):
        divided(tmp_path, PICTURES[:count])


def test_an_empty_split_is_refused_with_a_seed_that_fills_it(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no picture in val") as refused:
        divided(tmp_path, PICTURES[:4])
    (seed,) = re.findall(r"split\.seed = (\d+)", str(refused.value))
    found, _ = divided(tmp_path, PICTURES[:4], seed=int(seed))
    assert set(found.values()) == {"train", "val", "test"}


def test_a_better_seed_is_suggested_when_a_class_is_missing_in_a_split(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The nucleus occurs in three groups of forty."""
    rows = [row(f"p{n}", mask_HW=mask_of(cell=12 if n < 3 else 4)) for n in range(40)]
    _, summary = divided(tmp_path, rows)
    assert summary["missing"]["nucleus"]
    gain = "put all classes of at least 3 groups in every split"
    assert summary["suggestion"] == f"split.seed = {summary['suggested_seed']} would {gain}"
    assert summary["suggestion"] in caplog.text
    assert "the class nucleus is in no picture of" in caplog.text
    _, better = divided(tmp_path, rows, seed=summary["suggested_seed"])
    assert not better["missing"]
    assert better["suggested_seed"] is None


def test_a_good_division_needs_no_suggestion(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, summary = divided(tmp_path, PICTURES, seed=1)
    assert summary["suggestion"] is None
    assert not caplog.text


GIVEN = [row(f"p{n:02}", given_split=part) for n, part in enumerate(["train"] * 30 + ["val"] * 5 + ["test"] * 5)]


def test_a_given_split_is_kept(tmp_path: Path) -> None:
    found, _ = divided(tmp_path, GIVEN)
    assert found == {one.id: one.given_split for one in GIVEN}
    assert set(reasons(tmp_path).values()) == {"given by the source"}


def test_a_given_split_is_not_kept_when_not_respected(tmp_path: Path) -> None:
    anew, _ = divided(tmp_path, [*PICTURES[:20], *GIVEN], respect_given=False)
    assert anew == divided(tmp_path / "b", [*PICTURES[:20], *[row(one.id) for one in GIVEN]])[0]
    assert set(reasons(tmp_path).values()) == {"hash of the group"}


def test_a_missing_test_split_is_carved_from_train_only(tmp_path: Path) -> None:
    rows = GIVEN[:35]
    found, _ = divided(tmp_path, rows, train=0.6, val=0.2, test=0.2, seed=1)
    for one in rows:
        carved = "train" if place(1, one.group) < 0.75 else "test"  # 0.6 / (0.6 + 0.2)
        assert found[one.id] == ("val" if one.given_split == "val" else carved)
    assert set(found.values()) == {"train", "val", "test"}


def test_pictures_without_a_given_split_are_divided_like_given_train(tmp_path: Path) -> None:
    found, _ = divided(tmp_path, [*GIVEN, row("new one")])
    assert found["new one"] == "train"


def test_a_group_divided_between_given_splits_is_refused_by_name(tmp_path: Path) -> None:
    rows = [*GIVEN, row("variant", group="p00", given_split="test")]
    with pytest.raises(ArtifactError, match="between its splits: p00;"):
        divided(tmp_path, rows)
    assert divided(tmp_path, rows, respect_given=False)[0]["variant"]


def test_near_duplicates_give_way_towards_the_test_split(tmp_path: Path) -> None:
    """Train gives way to val and test, val to test; what is excluded makes nobody else give way."""
    like = {"phash": GIVEN[0].phash}
    extra = [row("v", given_split="val", **like), row("e", given_split="test", **like)]
    other = {"phash": GIVEN[1].phash}
    extra += [row("v2", given_split="val", **other), row("t2", given_split="train", **other)]
    found, summary = divided(tmp_path, [*GIVEN, *extra])
    assert {name for name, part in found.items() if part == "excluded"} == {"p00", "v", "p01", "t2"}
    assert reasons(tmp_path)["v"] == "near-duplicate of e in test"
    assert reasons(tmp_path)["t2"] == "near-duplicate of v2 in val"
    assert summary["pictures"]["excluded"] == 4
    assert summary["near_duplicate_pairs"] == 6  # three among p00, v, e; three among p01, v2, t2


def test_near_duplicates_in_one_split_stay(tmp_path: Path) -> None:
    rows = [*GIVEN, row("t", given_split="train", phash=GIVEN[0].phash)]
    assert divided(tmp_path, rows)[0]["t"] == "train"


def test_the_test_digest_is_of_the_test_pictures_alone(tmp_path: Path) -> None:
    digest = divided(tmp_path / "a", GIVEN)[1]["test_digest"]
    assert divided(tmp_path / "b", [*reversed(GIVEN), row("new", given_split="train")])[1]["test_digest"] == digest
    relabelled = [*GIVEN[:-1], row("p39", mask_HW=mask_of(cell=10), given_split="test")]
    assert divided(tmp_path / "c", relabelled)[1]["test_digest"] != digest
    lines = sorted(json.dumps([one.id, one.sha256, hashlib.sha256(one.mask or b"").hexdigest()]) for one in GIVEN[35:])
    assert digest == hashlib.sha256("\n".join(lines).encode()).hexdigest()


def test_the_files_are_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        divided(tmp_path / name, PICTURES)
    for file in ("splits.csv", "splits.json", "statistics.png"):
        assert (tmp_path / "a/splits" / file).read_bytes() == (tmp_path / "b/splits" / file).read_bytes()
