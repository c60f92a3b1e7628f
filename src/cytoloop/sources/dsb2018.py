"""Layout dsb2018: the Data Science Bowl of 2018, a folder a picture and a mask a nucleus."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from cytoloop.images.decode import UnreadablePicture, open_picture
from cytoloop.sources.layout import Array, Entry, Found, Layout, Mask, Source
from cytoloop.sources.pairing import SUFFIX, pair, role_by
from cytoloop.sources.reading import check_two_classes, file_bytes, read_picture

_role = role_by(
    rf"(?P<folder>(?:.*/)?)(?P<stem>[^/]+)/images/(?P=stem){SUFFIX}",
    rf"(?P<folder>(?:.*/)?)(?P<stem>[^/]+)/masks/[^/]+{SUFFIX}",
)


def _find(names: Sequence[str]) -> Found:
    return pair(names, _role, many_masks=True)


def _read_mask(source: Source, entry: Entry) -> Mask:
    """All nuclei of a picture; where two overlap, the first keeps the pixels."""
    instances_HW: Array | None = None
    overlap = 0
    for label, name in enumerate(entry.masks, 1):
        nucleus = open_picture(file_bytes(source, name), source.max_pixels)
        if instances_HW is None:
            instances_HW = np.zeros((nucleus.height, nucleus.width), np.uint16)
        if (nucleus.height, nucleus.width) != instances_HW.shape:
            raise UnreadablePicture(
                f"is {nucleus.width} x {nucleus.height} in {name}, but "
                f"{instances_HW.shape[1]} x {instances_HW.shape[0]} in {entry.masks[0]}"
            )
        overlap += _add(instances_HW, nucleus, label)
    assert instances_HW is not None, "an entry that is read has masks"
    return Mask((instances_HW > 0).astype(np.uint8), instances_HW=instances_HW, overlap_pixels=overlap)


def _add(instances_HW: Array, nucleus: Image.Image, label: int) -> int:
    """Give a nucleus its label where nobody was before; returns the pixels where somebody was."""
    if nucleus.mode not in ("1", "L", "I;16"):
        nucleus = nucleus.convert("RGB")
    box = nucleus.getbbox()
    if box is None:
        return 0
    left, top, right, bottom = box
    crop = np.asarray(nucleus.crop(box))
    inside_HW = (crop if crop.ndim == 2 else crop.max(-1)) > 0
    region_HW = instances_HW[top:bottom, left:right]
    taken_HW = inside_HW & (region_HW > 0)
    region_HW[inside_HW & ~taken_HW] = label
    return int(taken_HW.sum())


LAYOUT = Layout(
    name="dsb2018",
    description="a folder for each picture, a mask file for each nucleus; instance labels are kept",
    expects="""\
[stage1_train/]
  <id>/images/  <id>.png
  <id>/masks/   one.png  another.png  ...""",
    licence="CC0 1.0",
    citation="Caicedo et al. 2019, Nucleus segmentation across imaging experiments: the 2018 Data Science Bowl, "
    "Nature Methods 16, doi 10.1038/s41592-019-0612-7; image set BBBC038v1",
    find=_find,
    read_picture=read_picture,
    read_mask=_read_mask,
    check=check_two_classes,
)
