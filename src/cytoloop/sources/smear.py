"""Layout smear: the embedded generator of blood smears; the source is its protocol."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cytoloop.artifacts import CARD, read_card, sha256_file
from cytoloop.errors import SourceError
from cytoloop.sources.layout import Composed, Entry, Found, Layout, Mask, Picture, Source

if TYPE_CHECKING:
    from cytoloop.smear import Smears

log = logging.getLogger("cytoloop")


class SmearEntries(Composed):
    """The composed pictures as entries; `protocol` is the name of the file that they are composed by."""

    def __init__(self, protocol: str, smears: "Smears") -> None:
        self.protocol, self.smears = protocol, smears

    @property
    def made_of(self) -> Any:
        params = self.smears.params
        cells = [_digests(Path(folder)) for folder in params.cells_from]
        return [self.smears.protocol.model_dump(mode="json"), params.model_dump(mode="json"), cells]

    def share(self, folder: Path) -> None:
        self.smears.shared = folder

    def __len__(self) -> int:
        return len(self.smears)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[k] for k in range(len(self))[place]]
        smear = self.smears[place]
        name = f"{self.protocol}#{smear.id}"
        return Entry(smear.id, smear.id, "", name, (name,), given_split=smear.split, arrays=smear)


def _digests(folder: Path) -> Any:
    """Of a folder that cells come from: its table's rows, or its files."""
    if (folder / CARD).is_file():
        return read_card(folder).digest
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in sorted(folder.glob("*/*"))}


def _find(names: Sequence[str]) -> Found:
    protocols = [name for name in names if name.lower().endswith((".yaml", ".yml"))]
    entries = [Entry(name, name, "", name, (name,)) for name in protocols[:1]]
    return Found(entries, [name for name in names if name not in protocols], protocols[1:])


def _unfold(source: Source, found: Found) -> SmearEntries:
    from cytoloop.smear import Smears, read_protocol

    (entry,) = found.entries
    with source.tree.local(str(entry.picture)) as path:
        smears = Smears(read_protocol(path), source.params.smear)
    if source.params.smear.cells_from and smears.drawn():
        lacking = [f"{name} ({', '.join(splits)})" for name, splits in smears.drawn().items()]
        log.warning("ingest.smear.cells_from has no cells of these classes, which are drawn: %s", "; ".join(lacking))
    return SmearEntries(str(entry.picture), smears)


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
