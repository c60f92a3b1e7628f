"""Layout blood_smear: composed smears with colour segments of ten classes."""

import re
from collections.abc import Sequence

from cytoloop.sources.layout import Entry, Found, Layout
from cytoloop.sources.pairing import SPLITS, SUFFIX, Role, pair, role_by, with_splits
from cytoloop.sources.reading import check_colors, mask_by_color, read_picture

_in_folders = role_by(
    rf"(?P<folder>(?:.*/)?)images/(?P<stem>[^/]+){SUFFIX}", rf"(?P<folder>(?:.*/)?)segments/(?P<stem>[^/]+){SUFFIX}"
)
_SPLIT = re.compile(rf"_({'|'.join(SPLITS)})_\d+$")


def _role(name: str) -> Role | None:
    if name.lower().endswith(".json") and "labels" in name.split("/")[:-1]:
        return Role("extra")
    role = _in_folders(name)
    if role and role.kind == "mask":
        return role._replace(stem=role.stem.replace("_seg_", "_", 1))
    return role


def _split(entry: Entry) -> str | None:
    match = _SPLIT.search(entry.stem)
    return SPLITS[match[1]] if match else None


def _find(names: Sequence[str]) -> Found:
    return with_splits(pair(names, _role), _split)


LAYOUT = Layout(
    name="blood_smear",
    description="composed smears with colour segments by the classes' colours; boxes in labels/ are not read; "
    "the split in the names is kept where there are several",
    expects="""\
[blood_smear/]
  images/    Baso_Thro_lisc_ii_train_137.bmp
  segments/  Baso_Thro_seg_lisc_ii_train_137.bmp
  [labels/   Baso_Thro_lisc_ii_train_137.json]""",
    licence="not stated by the source; for comparison only",
    citation="abhanjac, blood_cell_image_segmentation (composed of LISC, IUMC, MAMIC and Kaggle cells)",
    find=_find,
    read_picture=read_picture,
    read_mask=mask_by_color,
    check=check_colors,
)
