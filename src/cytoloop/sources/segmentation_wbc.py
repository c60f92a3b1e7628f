"""Layout segmentation_wbc: single white blood cells, grey masks of cytoplasm and nucleus."""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace

from cytoloop.errors import SourceError
from cytoloop.sources.layout import Entry, Found, Layout, Source
from cytoloop.sources.pairing import Role, pair, role_by
from cytoloop.sources.reading import check_colors, mask_by_value, read_picture

LABELS = {"1": "neutrophil", "2": "lymphocyte", "3": "monocyte", "4": "eosinophil", "5": "basophil"}

_by_suffix = role_by(r"(?P<folder>(?:.*/)?)(?P<stem>[^/]+)\.bmp", r"(?P<folder>(?:.*/)?)(?P<stem>[^/]+)\.png")


def _find(names: Sequence[str]) -> Found:
    with_pictures = {name.rpartition("/")[0] for name in names if name.lower().endswith(".bmp")}

    def role(name: str) -> Role | None:
        folder, _, file = name.rpartition("/")
        if file.startswith("Class Labels of ") and file.endswith(".csv"):
            return Role("extra")
        return _by_suffix(name) if folder in with_pictures else None

    return pair(names, role)


def _with_labels(source: Source, found: Found) -> list[Entry]:
    """Labels of the cells from `Class Labels of <folder>.csv` beside the folder, where there is one."""
    tables = {folder: _labels(source, folder) for folder in {entry.folder for entry in found.entries}}
    return [replace(entry, label=tables[entry.folder].get(entry.stem.lstrip("0"))) for entry in found.entries]


def _labels(source: Source, folder: str) -> dict[str, str]:
    parent, _, name = folder.rpartition("/")
    path = f"{parent}/Class Labels of {name}.csv".lstrip("/")
    if path not in source.tree.names:
        return {}
    try:
        lines = list(csv.reader(io.StringIO(source.tree.read(path).decode("utf-8-sig")), strict=True))
        return {number.strip().lstrip("0"): LABELS[label.strip()] for number, label in lines[1:]}
    except (UnicodeDecodeError, csv.Error, ValueError, KeyError) as error:
        raise SourceError(
            f"{path}: not a table of 'image ID,class label' with labels 1 to 5 ({error!r}); correct or remove it"
        ) from None


def _check(source: Source, found: Found) -> None:
    check_colors(source, found)
    missing = [c.name for c in source.codec.classes if c.value is None]
    if missing:
        raise SourceError(
            f"classes: {', '.join(missing)} have no `value`, but the masks of layout segmentation_wbc are grey; "
            "declare each class's grey value (background 0, cytoplasm 128, nucleus 255)"
        )


LAYOUT = Layout(
    name="segmentation_wbc",
    description="bmp picture and grey png mask of the same stem, by the classes' `value`; cell types from a CSV",
    expects="""\
[segmentation_WBC/]
  Class Labels of Dataset 1.csv
  Dataset 1/  001.bmp  001.png  002.bmp  002.png""",
    licence="not stated by the source; cite the authors",
    citation="Zheng et al. 2018, Fast and robust segmentation of white blood cell images by self-supervised "
    "learning, Micron 107, doi 10.1016/j.micron.2018.01.010",
    find=_find,
    read_picture=read_picture,
    read_mask=mask_by_value,
    check=_check,
    unfold=_with_labels,
)
