"""Which files belong together: picture and mask by folder and stem, variants by their origin."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from cytoloop.errors import SourceError
from cytoloop.images.decode import SUFFIXES
from cytoloop.sources.layout import Entry, Found

SUFFIX = rf"(?:{'|'.join(re.escape(suffix) for suffix in SUFFIXES)})"

SPLITS = {"train": "train", "valid": "val", "val": "val", "test": "test"}
"""Names of folders and files that mean a split -> the split."""

_VARIANTS = re.compile(
    r"""^(?:(?:
        (?:barr|pinc)distorted (?:_-?[\d.]+){3}
      | distorted_[\d.]+_rsigma[\d.]+_sigma[\d.]+
      | deformed_alpha_[\d.]+_sigmoid_[\d.]+
      | rotated_-?[\d.]+
      | (?:shrinked|resized)_(?:0_)?[\d.]+
      | [hv]{0,2}flipped | mirrored | sharpened | blurred
    )_)+(?P<origin>.+)$""",
    re.VERBOSE,
)
"""How the seed projects' generators name augmented files: operation, its settings, origin."""


Kind = Literal["picture", "mask", "extra"]


class Role(NamedTuple):
    """What a file is to a layout; picture and mask of one folder and stem are a pair."""

    kind: Kind
    folder: str = ""
    stem: str = ""


def role_by(picture: str, mask: str) -> Callable[[str], Role | None]:
    """A role from two regular expressions, ignoring case.

    Both have the groups `folder` (what comes before the part that tells pictures from masks) and
    `stem`, and may have `category` (a folder after that part).
    """
    patterns: dict[Kind, re.Pattern[str]] = {
        "picture": re.compile(picture, re.IGNORECASE),
        "mask": re.compile(mask, re.IGNORECASE),
    }

    def role(name: str) -> Role | None:
        for kind, pattern in patterns.items():
            if match := pattern.fullmatch(name):
                folder = match["folder"] + match.groupdict().get("category", "")
                return Role(kind, folder.rstrip("/"), match["stem"])
        return None

    return role


def pair(names: Sequence[str], role: Callable[[str], Role | None], many_masks: bool = False) -> Found:
    """Entries of all pictures and masks, in the order of folder and stem.

    Args:
        names: all files of a source.
        role: what a file is; None: it does not belong.
        many_masks: an entry may have several masks, one an object.
    """
    roles = {name: role(name) for name in names}
    pictures: dict[tuple[str, str], list[str]] = defaultdict(list)
    masks: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, found in roles.items():
        if found and found.kind != "extra":
            (pictures if found.kind == "picture" else masks)[found.folder, found.stem].append(name)
    entries, doubles = [], []
    for folder, stem in sorted(pictures.keys() | masks.keys()):
        some, theirs = pictures[folder, stem], masks[folder, stem]
        if len(some) > 1 or (len(theirs) > 1 and not many_masks):
            doubles += some + theirs
        else:
            entries.append(Entry(stem, stem, folder, some[0] if some else None, tuple(theirs)))
    return Found(with_ids(entries), [name for name, found in roles.items() if found is None], doubles)


def with_ids(entries: Sequence[Entry]) -> list[Entry]:
    """Unique ids: the stem; where stems repeat, with the name of the folder; else with its path.

    Raises:
        SourceError: two entries have the same folder and stem.
    """
    for folder_of in (_last_folder, _whole_folder):
        count = Counter(entry.id for entry in entries)
        entries = [
            replace(entry, id=f"{folder_of(entry)}_{entry.stem}".lstrip("_")) if count[entry.id] > 1 else entry
            for entry in entries
        ]
    twice = [name for name, times in Counter(entry.id for entry in entries).items() if times > 1]
    if twice:
        raise SourceError(f"pictures with the same id: {shown(twice)}; rename their files so that stems differ")
    return list(entries)


def _last_folder(entry: Entry) -> str:
    return entry.folder.split("/")[-1]


def _whole_folder(entry: Entry) -> str:
    return entry.folder.replace("/", "_")


def origin_of(stem: str) -> str:
    """The stem of the picture that an augmented file was made from; other stems stay.

    >>> origin_of("barrdistorted_1001_0.3_0.3_1198")
    '1198'
    >>> origin_of("hflipped_rotated_90_slide_7")
    'slide_7'
    >>> origin_of("slide_7")
    'slide_7'
    """
    match = _VARIANTS.match(stem)
    return match["origin"] if match else stem


def with_origins(found: Found) -> Found:
    """Entries in the group of their origin, so that a variant is never divided from its picture."""
    entries = [
        # where stems repeat, ids have a prefix, and so have the groups
        replace(entry, group=entry.id.removesuffix(entry.stem) + origin_of(entry.stem))
        for entry in found.entries
    ]
    return replace(found, entries=entries)


def with_splits(found: Found, split_of: Callable[[Entry], str | None]) -> Found:
    """Entries with the split that they came in; a source with only one split was not divided."""
    splits = [split_of(entry) for entry in found.entries]
    if len(set(splits)) < 2:
        return found
    return replace(
        found, entries=[replace(entry, given_split=split) for entry, split in zip(found.entries, splits, strict=True)]
    )


def shown(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
