"""Layout leukemia: smears of acute lymphoblastic leukaemia with thresholded colour masks."""

from collections.abc import Sequence
from dataclasses import replace

from cytoloop.errors import SourceError
from cytoloop.sources.layout import Found, Layout, Source
from cytoloop.sources.pairing import SUFFIX, pair, role_by
from cytoloop.sources.reading import check_two_classes, mask_by_threshold, read_picture

_role = role_by(
    rf"(?P<folder>(?:.*/)?)Original/(?P<category>[^/]+)/(?P<stem>[^/]+){SUFFIX}",
    rf"(?P<folder>(?:.*/)?)Segmented/(?P<category>[^/]+)/(?P<stem>[^/]+){SUFFIX}",
)


def _find(names: Sequence[str]) -> Found:
    found = pair(names, _role)
    return replace(found, entries=[replace(e, label=e.folder.split("/")[-1].lower()) for e in found.entries])


def _check(source: Source, found: Found) -> None:
    check_two_classes(source, found)
    if source.params.mask_threshold is None:
        raise SourceError(
            "ingest.mask_threshold: is not declared, and the masks of layout leukemia are colour JPEGs without exact "
            "colours; declare the grey value from which on a pixel is foreground (the seed project: 150, "
            "with ingest.mask_blur: 3)"
        )


LAYOUT = Layout(
    name="leukemia",
    description="colour JPEG masks on black, one category a folder; foreground from ingest.mask_threshold on",
    expects="""\
[Acute-Lymphoblastic-Leukemia/]
  Original/   Benign/ Early/ Pre/ Pro/  WBC-Malignant-Early-001.jpg
  Segmented/  Benign/ Early/ Pre/ Pro/  WBC-Malignant-Early-001.jpg""",
    licence="not stated by the source; cite the authors",
    citation="Aria et al. 2021, Acute Lymphoblastic Leukemia (ALL) image dataset, Kaggle, "
    "doi 10.34740/KAGGLE/DSV/2175623",
    find=_find,
    read_picture=read_picture,
    read_mask=mask_by_threshold,
    check=_check,
)
