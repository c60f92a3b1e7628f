"""Layout image_mask: the layout of the seed projects' own archives, and the simplest for one's own."""

from collections.abc import Sequence

from cytoloop.sources.layout import Entry, Found, Layout, Mask, Source
from cytoloop.sources.pairing import SPLITS, SUFFIX, pair, role_by, with_origins, with_splits
from cytoloop.sources.reading import (
    check_colors,
    check_two_classes,
    mask_by_color,
    mask_by_threshold,
    mask_by_value,
    read_picture,
)

_role = role_by(
    rf"(?P<folder>(?:.*/)?)images/(?P<stem>[^/]+){SUFFIX}", rf"(?P<folder>(?:.*/)?)masks/(?P<stem>[^/]+){SUFFIX}"
)


def find(names: Sequence[str]) -> Found:
    """Pictures with their masks, paired by stem, in the split of the folder above them."""
    return with_splits(with_origins(pair(names, _role)), _split)


def _split(entry: Entry) -> str | None:
    return SPLITS.get(entry.folder.split("/")[-1].lower())


def _read_mask(source: Source, entry: Entry) -> Mask:
    if source.params.mask_threshold is not None:
        return mask_by_threshold(source, entry)
    if all(c.value is not None for c in source.codec.classes):
        return mask_by_value(source, entry)
    return mask_by_color(source, entry)


def _check(source: Source, found: Found) -> None:
    if source.params.mask_threshold is not None:
        check_two_classes(source, found)
    else:
        check_colors(source, found)


LAYOUT = Layout(
    name="image_mask",
    description="pictures and masks in folders of these names, with or without train, valid and test above them "
    "(the split is kept); masks by ingest.mask_threshold if declared, else by the classes' `value` if all have "
    "one, else by their colours",
    expects="""\
[Name/]
  [train/]  images/  1017.png      masks/  1017.png
  [valid/]  images/  1018.png      masks/  1018.png
  [test/]   images/  1019.png      masks/  1019.png""",
    licence=None,
    citation=None,
    find=find,
    read_picture=read_picture,
    read_mask=_read_mask,
    check=_check,
)
