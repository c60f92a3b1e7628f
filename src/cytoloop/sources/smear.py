"""Layout smear: the embedded generator of blood smears; the source is its protocol."""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace

from cytoloop.errors import SourceError
from cytoloop.sources.layout import Entry, Found, Layout, Mask, Picture, Source

log = logging.getLogger("cytoloop")


def _find(names: Sequence[str]) -> Found:
    protocols = [name for name in names if name.lower().endswith((".yaml", ".yml"))]
    entries = [Entry(name, name, "", name, (name,)) for name in protocols[:1]]
    return Found(entries, [name for name in names if name not in protocols], protocols[1:])


def _unfold(source: Source, found: Found) -> Iterator[Entry]:
    from cytoloop.smear import cell_facts, compose_smears, make_cells, read_protocol

    (entry,) = found.entries
    with source.tree.local(str(entry.picture)) as path:
        protocol = read_protocol(path)
    cells = make_cells(protocol, source.params.smear)
    drawn = [name for name, count in cell_facts(cells).items() if name.startswith("drawn_") and count]
    if source.params.smear.cells_from and drawn:
        names = ", ".join(name.removeprefix("drawn_") for name in drawn)
        log.warning("%s has too few cells of these classes, which are drawn: %s", source.params.smear.cells_from, names)
    for smear in compose_smears(protocol, source.params.smear, cells=cells):
        place = f"{entry.picture}#{smear.id}"
        yield replace(
            entry, id=smear.id, stem=smear.id, picture=place, masks=(place,), given_split=smear.split, arrays=smear
        )


def _read_picture(source: Source, entry: Entry) -> Picture:
    rgb_HW3 = entry.arrays.image_HW3
    return Picture(hashlib.sha256(rgb_HW3.tobytes()).hexdigest(), rgb_HW3, "RGB")


def _read_mask(source: Source, entry: Entry) -> Mask:
    return Mask(entry.arrays.ids_HW, instances_HW=entry.arrays.instances_HW)


def _check(source: Source, found: Found) -> None:
    from cytoloop.smear.protocol import CLASSES

    if source.codec.names != CLASSES:
        raise SourceError(
            f"classes: {', '.join(source.codec.names)}; layout smear draws, in this order: {', '.join(CLASSES)}"
        )


LAYOUT = Layout(
    name="smear",
    description="pictures composed by the embedded generator, from cells that train, val and test do not share",
    expects="protocol.yaml",
    licence="Apache 2.0",
    citation="drawn by cytoloop; protocol after abhanjac, blood_cell_image_segmentation",
    find=_find,
    read_picture=_read_picture,
    read_mask=_read_mask,
    check=_check,
    unfold=_unfold,
)
