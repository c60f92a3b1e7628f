"""Who trains, who chooses and who judges.

How it works: a group's place in [0, 1) is a hash of the seed and the group's name, and the fractions
divide [0, 1) between the splits. A picture's split thus depends on its own group alone, so that
adding pictures never moves old ones, and the test set of last year is still unseen today. Any rule
that looks at other pictures (shuffling, balancing classes, filling quotas) would break this. Classes
are therefore balanced in expectation only; what came of it is measured, and where it came out badly
a better seed is suggested: a choice for people, once, at the start.

Others matter in two places only: a near-duplicate of a val or test picture is excluded, which moves
nothing between the splits, and a source that later brings a val or test split of its own is
another source.
"""

import csv
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cytoloop.artifacts import (
    EXCLUDED,
    RECEIPT,
    SPLITS,
    SPLITS_SUMMARY,
    TEST,
    TRAIN,
    VAL,
    Row,
    read_card,
    read_json,
    read_rows,
    write_json,
)
from cytoloop.door import Input, Numbers, Output
from cytoloop.errors import ArtifactError
from cytoloop.images.hashes import near_duplicates
from cytoloop.params import SplitParams
from cytoloop.report import charts

STATISTICS_PNG = "statistics.png"
PARTS = (TRAIN, VAL, TEST)
FACTS = ("sha256", "phash", "given_split", "class_pixels")
SEEDS = 1000  # tried for a suggestion, fewer where there are so many groups that
HASHES = 2_000_000  # would be passed, some seconds of work
SPREAD = 3  # fewest groups with which a class can be in every split

Array = np.ndarray[Any, Any]
Shares = Mapping[str, float]

log = logging.getLogger("cytoloop")


def split(raw: Input, validated: Input, splits: Output, split_params: SplitParams) -> Numbers:
    """Divide the pictures by group, keeping near-duplicates from facing each other.

    Writes `splits.csv` (id, group, split, reason, in the table's order); `splits.json`: counts, presence
    and pixels of the classes, the seed and perhaps a better one, and `test_digest`, which identifies
    the frozen test set; and the counts as a chart, statistics.png.

    A split that came with the source is kept when `respect_given` is set: groups given as val or
    test stay there; a val or test that the source does not have is carved by the hash from the
    groups given as train or not given, with the fractions of the parts concerned rescaled to 1.

    Returns:
        Counts: pictures of train, val, test and excluded, and groups.

    Raises:
        ArtifactError: the data did not pass validation, or the receipt is another table's; a group
            is divided between given splits; or a split would be empty.
    """
    card = read_card(raw)
    _check_receipt(read_json(validated / RECEIPT), card.digest)
    pictures = list(read_rows(raw, columns=FACTS))
    groups = Groups.of(pictures, split_params.respect_given, len(card.classes))
    shares = groups.shares(split_params)
    pairs = _look_alikes(pictures, split_params.near_duplicate_bits)
    parts, reasons = _exclude(pictures, groups.placed(shares, split_params.seed), pairs)
    better = _better_seed(groups, shares, split_params.seed)
    _check_filled(parts, groups, better)
    _write_splits(splits / SPLITS, pictures, parts, reasons)
    summary = {
        **_census(pictures, parts, card.codec.names),
        "raw_digest": card.digest,
        "test_digest": _test_digest(raw, [p.id for p, part in zip(pictures, parts, strict=True) if part == TEST]),
        "seed": split_params.seed,
        "suggested_seed": better[0] if better else None,
        "suggestion": f"split.seed = {better[0]} would {better[1]}" if better else None,
        "near_duplicate_pairs": len(pairs),
    }
    write_json(splits / SPLITS_SUMMARY, summary)
    names = card.codec.names
    (splits / STATISTICS_PNG).write_bytes(charts.png(charts.statistics(summary, names), *charts.statistics_size(names)))
    _warn(summary)
    return {**summary["pictures"], "groups": len(groups.names)}


def _check_receipt(receipt: dict[str, Any], digest: str) -> None:
    if receipt["raw_digest"] != digest:
        raise ArtifactError("the validation receipt is of other data than this table; run `cytoloop validate` again")
    if not receipt["passed"]:
        raise ArtifactError("the data did not pass validation; see its list of offending files, and validate again")


def place(seed: int, group: str) -> float:
    """A group's place in [0, 1): the first 53 bits of SHA-256 of the seed and the group's name."""
    digest = hashlib.sha256(f"{seed}\0{group}".encode()).digest()
    return (int.from_bytes(digest[:8]) >> 11) / 2**53


@dataclass(frozen=True)
class Groups:
    """The groups in the order of their names, and what the splitting needs to know of them."""

    names: list[str]
    given: list[str | None]
    """The split that each came with."""
    present_GN: Array
    """bool (groups, classes): which classes occur in which group."""

    @classmethod
    def of(cls, pictures: Sequence[Row], respect_given: bool, classes: int) -> "Groups":
        names = sorted({picture.group for picture in pictures})
        at = {name: index for index, name in enumerate(names)}
        present_GN = np.zeros((len(names), classes), bool)
        for picture in pictures:
            present_GN[at[picture.group]] |= np.array(picture.class_pixels or [0] * classes) > 0
        given = _given(pictures) if respect_given else {}
        return cls(names, [given.get(name) for name in names], present_GN)

    def shares(self, params: SplitParams) -> Shares:
        """Fractions of the splits between which the hash divides; the others came with the source."""
        asked = {TRAIN: params.train, VAL: params.val, TEST: params.test}
        carved = {part: share for part, share in asked.items() if part == TRAIN or part not in self.given}
        return {part: share / sum(carved.values()) for part, share in carved.items()}

    @cached_property
    def hashed(self) -> Array:
        """bool (groups): those that the hash divides, the others stay where they were given."""
        return np.array([given in (None, TRAIN) for given in self.given])

    def assign(self, shares: Shares, seed: int) -> list[str]:
        """The split of each group."""
        parts = list(shares)
        places_G = np.array([place(seed, name) for name in self.names])
        part_G = np.searchsorted(np.cumsum(list(shares.values()))[:-1], places_G, "right")
        return [
            parts[part] if hashed else str(given)
            for part, given, hashed in zip(part_G, self.given, self.hashed, strict=True)
        ]

    def placed(self, shares: Shares, seed: int) -> dict[str, tuple[str, str]]:
        """group -> its split, and why."""
        parts, by_hash = self.assign(shares, seed), self.hashed & (len(shares) > 1)
        whys = ["hash of the group" if hashed else "given by the source" for hashed in by_hash]
        return dict(zip(self.names, zip(parts, whys, strict=True), strict=True))


def _given(pictures: Sequence[Row]) -> dict[str, str]:
    """group -> the split that it came with."""
    found: dict[str, set[str]] = {}
    for picture in pictures:
        if picture.given_split is not None:
            found.setdefault(picture.group, set()).add(picture.given_split)
    divided = sorted(group for group, parts in found.items() if len(parts) > 1)
    if divided:
        shown = ", ".join(divided[:10]) + (f" and {len(divided) - 10} more" if len(divided) > 10 else "")
        raise ArtifactError(
            f"the source divides these groups between its splits: {shown}; a group may be in one split only. "
            "Correct the source or ingest.group_pattern, or set split.respect_given = false to split anew"
        )
    return {group: parts.pop() for group, parts in found.items()}


def _look_alikes(pictures: Sequence[Row], bits: int) -> list[tuple[int, int]]:
    """Pairs of places of near-duplicates."""
    hashed = [at for at, picture in enumerate(pictures) if picture.phash is not None]
    return [(hashed[a], hashed[b]) for a, b in near_duplicates([pictures[at].phash or b"" for at in hashed], bits)]


def _exclude(
    pictures: Sequence[Row], placed: Mapping[str, tuple[str, str]], pairs: Sequence[tuple[int, int]]
) -> tuple[list[str], list[str]]:
    """Split and reason of each picture.

    Of two near-duplicates in different splits the one further from the test split is excluded:
    val gives way to test, and train to both. Test pictures never leave.
    """
    parts = [placed[picture.group][0] for picture in pictures]
    reasons = [placed[picture.group][1] for picture in pictures]
    for weaker, stronger in ((VAL, (TEST,)), (TRAIN, (VAL, TEST))):
        for a, b in (*pairs, *((b, a) for a, b in pairs)):
            if parts[a] == weaker and parts[b] in stronger:
                reasons[a] = f"near-duplicate of {pictures[b].id} in {parts[b]}"
                parts[a] = EXCLUDED
    return parts, reasons


def _better_seed(groups: Groups, shares: Shares, seed: int) -> tuple[int, str] | None:
    """A seed that divides better and what it would do; None where the present one will do, or none is better."""
    empty, missing, strain = now = _score(groups, shares, seed)
    if len(shares) == 1 or not (empty or missing or strain > 1):
        return None
    tried = min(SEEDS, HASHES // len(groups.names))
    better, best = min((_score(groups, shares, other), other) for other in range(tried))
    if better >= now or better[0]:
        return None
    if better[1] < missing or empty:
        return best, f"put {'more' if better[1] else 'all'} classes of at least {SPREAD} groups in every split"
    return best, "bring the classes closer to the fractions of the splits"


def _score(groups: Groups, shares: Shares, seed: int) -> tuple[int, int, float]:
    """How badly a seed divides, the least being the best.

    Returns:
        Empty splits; classes missing in a split, of those in at least SPREAD groups; and the worst
        deviation from a fraction over the classes and the size, where 1 is as far as is tolerated:
        0.2 of the groups concerned, or one group and a half.
    """
    part_G = np.array(groups.assign(shares, seed))
    # all groups are one more class, so that the size is judged like the classes
    counted_GN = np.concatenate([groups.present_GN, np.ones((len(part_G), 1), bool)], 1) & groups.hashed[:, None]
    counts_SN = np.stack([counted_GN[part_G == part].sum(0) for part in shares])
    totals_N = counts_SN.sum(0)
    expected_SN = np.outer(list(shares.values()), totals_N)
    strain_SN = np.abs(counts_SN - expected_SN) / np.maximum(0.2 * totals_N, 1.5)
    spread_N = totals_N >= SPREAD
    missing = int((counts_SN[:, spread_N] == 0).sum())
    return int((counts_SN[:, -1] == 0).sum()), missing, float(strain_SN[:, spread_N].max(initial=0))


def _check_filled(parts: Sequence[str], groups: Groups, better: tuple[int, str] | None) -> None:
    empty = [part for part in PARTS if part not in parts]
    if not empty:
        return
    what = f"no picture in {', '.join(empty)}: the table has {len(parts)} picture(s) in {len(groups.names)} group(s)"
    if len(groups.names) < len(PARTS):
        raise ArtifactError(f"{what}; at least {len(PARTS)} groups are needed, one for each split: ingest more")
    if better:
        raise ArtifactError(f"{what}; set split.seed = {better[0]}, which places groups in all three")
    excluded = list(parts).count(EXCLUDED)
    raise ArtifactError(
        f"{what}, of which {excluded} were excluded as near-duplicates; ingest more groups, raise the fractions of "
        f"{', '.join(empty)} in `split`, lower split.near_duplicate_bits, or set split.respect_given = false"
    )


def _write_splits(path: Path, pictures: Sequence[Row], parts: Sequence[str], reasons: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "group", "split", "reason"])
        for picture, part, reason in zip(pictures, parts, reasons, strict=True):
            table.writerow([picture.id, picture.group, part, reason])


def _census(pictures: Sequence[Row], parts: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """What came of it: pictures and groups of each split, overall and by class, and the pixels of each class."""
    placed = list(zip(pictures, parts, strict=True))
    by_class = {name: _count_class(placed, label) for label, name in enumerate(names)}
    return {
        **_count(placed),
        "classes": by_class,
        "missing": {
            name: [part for part in PARTS if not count["pictures"][part]]
            for name, count in by_class.items()
            if 0 in [count["pictures"][part] for part in PARTS]
        },
    }


def _count_class(placed: Sequence[tuple[Row, str]], label: int) -> dict[str, Any]:
    having = [(picture, part) for picture, part in placed if picture.class_pixels and picture.class_pixels[label]]
    pixels = {part: sum((p.class_pixels or [])[label] for p, there in having if there == part) for part in PARTS}
    return {**_count(having), "pixels": pixels}


def _count(placed: Sequence[tuple[Row, str]]) -> dict[str, Any]:
    pictures = {part: sum(there == part for _, there in placed) for part in (*PARTS, EXCLUDED)}
    groups = {part: len({p.group for p, there in placed if there == part}) for part in PARTS}
    fractions = {part: groups[part] / max(sum(groups.values()), 1) for part in PARTS}
    return {"pictures": pictures, "groups": groups, "fractions_of_groups": fractions}


def _test_digest(raw: Path, ids: Sequence[str]) -> str:
    """SHA-256 over the test pictures in the order of their ids: id, picture's SHA-256, mask's SHA-256."""
    rows = read_rows(raw, ids, ["sha256", "mask"])
    lines = sorted(json.dumps([row.id, row.sha256, hashlib.sha256(row.mask or b"").hexdigest()]) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _warn(summary: dict[str, Any]) -> None:
    for name, parts in summary["missing"].items():
        log.warning("the class %s is in no picture of %s", name, ", ".join(parts))
    if summary["suggestion"]:
        log.warning(summary["suggestion"])
