"""Layout krd_wbc: pictures and colour masks of white blood cells, five classes."""

from collections.abc import Sequence

from cytoloop.sources.layout import Found, Layout
from cytoloop.sources.pairing import SPLITS, SUFFIX, Role, pair, role_by, with_origins
from cytoloop.sources.reading import check_colors, mask_by_color, read_picture

_in_folders = role_by(
    rf"(?P<folder>(?:.*/)?)images/(?P<stem>[^/]+){SUFFIX}", rf"(?P<folder>(?:.*/)?)masks/(?P<stem>[^/]+){SUFFIX}"
)


def _role(name: str) -> Role | None:
    role = _in_folders(name)
    return None if role and role.folder.split("/")[-1].lower() in SPLITS else role


def _find(names: Sequence[str]) -> Found:
    return with_origins(pair(names, _role))


LAYOUT = Layout(
    name="krd_wbc",
    description="RGB pictures with colour masks by the classes' colours, paired by stem; augmented variants "
    "(barrdistorted_1001_0.3_0.3_1198) belong to the group of their origin (1198)",
    expects="""\
[KRD-WBC/]
  images/  1017.png  barrdistorted_1001_0.3_0.3_1198.png
  masks/   1017.png  barrdistorted_1001_0.3_0.3_1198.png""",
    licence="CC BY 4.0",
    citation="Taha et al. 2023, Creating a white blood cell dataset for segmentation, Mendeley Data, "
    "doi 10.17632/jzdj6h7gms.2",
    find=_find,
    read_picture=read_picture,
    read_mask=mask_by_color,
    check=check_colors,
)
