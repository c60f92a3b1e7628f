"""Ingest: from a source in its declared layout to the table.

Ingest records, validate judges: a picture that is missing, damaged or does not match its mask has a
row with its `problem`. Only what makes the whole source unusable is an error here.
"""

import hashlib
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cytoloop.ahead import ahead
from cytoloop.artifacts import Card, Row, Shard, TableWriter, read_json, write_json, write_shard
from cytoloop.door import Numbers, Output
from cytoloop.errors import SourceError
from cytoloop.images.codec import LabelCodec
from cytoloop.images.decode import UnreadablePicture
from cytoloop.images.facts import mask_facts, picture_facts
from cytoloop.params import ClassParams, IngestParams
from cytoloop.sources import Entry, Found, Layout, Mask, Picture, Source, find, layout_named, open_source
from cytoloop.sources.layout import Composed
from cytoloop.sources.pairing import shown
from cytoloop.sources.tree import FolderTree
from cytoloop.workers import shared
from cytoloop.workspace import unfinished

PACKAGE = Path(__file__).parents[1]


def ingest(raw: Output, ingest_params: IngestParams, classes_params: tuple[ClassParams, ...]) -> Numbers:
    """Read a source and write its table.

    Composed pictures are made by all processors, and finished shards outlive a killed run: the next
    one with the same params goes on from them. The table is the same in any case.

    Raises:
        SourceError: the source is missing, hostile, empty, or not in its declared layout.
    """
    codec = LabelCodec.from_json(classes_params)
    layout = layout_named(ingest_params.layout)
    with open_source(ingest_params, codec) as source:
        found = find(source)
        _report_strangers(layout, found)
        entries = layout.unfold(source, found)
        with TableWriter(raw, _card(layout, source), ingest_params.rows_per_shard) as table:
            if isinstance(entries, Composed):
                _compose(layout, source, entries, table)
                defects = {"problems": 0.0, "overlapping_pixels": 0.0}
            else:
                _refuse_ungrouped(entries, ingest_params.group_pattern)
                defects = _read_all(layout, source, entries, table)
    counts = {"pictures": float(table.rows), **defects, "groups": float(table.groups)}
    return {**counts, "strangers": float(len(found.strangers))}


def _read_all(layout: Layout, source: Source, entries: Iterable[Entry], table: TableWriter) -> Numbers:
    """Read entries one after another; returns what is wrong with them."""
    defects = {"problems": 0.0, "overlapping_pixels": 0.0}
    for row, overlap in ahead(lambda entry: _row(layout, source, entry), _progress(entries)):
        table.write(row)
        defects["problems"] += row.problem is not None
        defects["overlapping_pixels"] += overlap
    return defects


def _compose(layout: Layout, source: Source, entries: Composed, table: TableWriter) -> None:
    """Make entries shard by shard, on all processors; finished shards wait in the workspace until all are."""
    sections = [source.params.model_dump(mode="json"), source.codec.to_json()]
    with unfinished("ingest", [*sections, entries.made_of, _versions()]) as work:
        entries.share(work)
        # the entries need no files; a tree that was opened here could not be sent to another process
        maker = _ShardMaker(work, layout.name, replace(source, tree=FolderTree(work)), entries)
        numbers = range(-(-len(entries) // source.params.rows_per_shard))
        shards = []
        with closing(shared(maker, numbers)) as made, _progress(total=len(entries)) as progress:
            for shard in made:
                shards.append(shard)
                progress.update(len(shard.ids))
        for number, shard in zip(numbers, shards, strict=True):
            table.adopt(maker.path(number), shard)


@dataclass(frozen=True)
class _ShardMaker:
    """Makes a shard in the workspace, unless it is there; its facts are written last."""

    work: Path
    layout: str
    source: Source
    entries: Composed

    def path(self, number: int) -> Path:
        return self.work / f"part-{number:05d}.parquet"

    def __call__(self, number: int) -> Shard:
        path = self.path(number)
        facts = path.with_suffix(".json")
        if not (path.is_file() and facts.is_file()):
            size = self.source.params.rows_per_shard
            places = range(len(self.entries))[number * size : (number + 1) * size]
            layout = layout_named(self.layout)
            rows = [_row(layout, self.source, self.entries[place])[0] for place in places]
            write_json(facts, asdict(write_shard(path, rows)))
        return Shard(**read_json(facts))


def _versions() -> list[str]:
    """Of the code and the packages that composed pictures are made and written by."""
    files = [PACKAGE / "artifacts.py", *sorted(PACKAGE.glob("images/*.py")), *sorted(PACKAGE.glob("smear/*.py"))]
    code = hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()
    return [code, *(version(name) for name in ("numpy", "opencv-python-headless", "pillow", "pyarrow"))]


def _card(layout: Layout, source: Source) -> Card:
    params = source.params
    return Card(
        name=layout.name,
        classes=source.codec.to_json(),
        licence=params.licence or layout.licence or "",
        citation=params.citation or layout.citation or "",
    )


def _report_strangers(layout: Layout, found: Found) -> None:
    if found.strangers:
        print(
            f"ingest: {len(found.strangers)} files have no place in layout {layout.name} and were left out: "
            f"{shown(found.strangers)}",
            file=sys.stderr,
        )


def _refuse_ungrouped(entries: Iterable[Entry], pattern: str | None) -> None:
    """Stems that the pattern does not match, all at once where the entries are known beforehand."""
    if pattern is not None and isinstance(entries, list):
        stems = [entry.stem for entry in entries if not re.search(pattern, entry.stem)]
        if stems:
            raise SourceError(_without_group(stems, pattern))


def _without_group(stems: Sequence[str], pattern: str) -> str:
    return (
        f"ingest.group_pattern = {pattern!r}: finds no group in {len(stems)} stems: {shown(stems)}; "
        "write a pattern that matches all of them, or null for the layout's own rule"
    )


def _group(entry: Entry, pattern: str | None) -> str:
    """By the pattern if there is one, else by the layout's rule, else the picture is its own group."""
    if pattern is None:
        return entry.group or entry.id
    match = re.search(pattern, entry.stem)
    if match is None:
        raise SourceError(_without_group([entry.stem], pattern))
    return match["group"] or entry.id


def _progress(entries: Iterable[Entry] | None = None, total: int | None = None) -> Any:
    """A progress bar on stderr, around entries or moved by hand."""
    return tqdm(entries, total=total, desc="ingest", unit=" pictures", mininterval=1, file=sys.stderr)


def _row(layout: Layout, source: Source, entry: Entry) -> tuple[Row, int]:
    """The row of an entry, and its overlapping mask pixels."""
    picture, mask, problems = _read(layout, source, entry)
    row = Row(
        id=entry.id,
        group=_group(entry, source.params.group_pattern),
        source_file=entry.source_file,
        mask_file=entry.mask_file,
        label=entry.label,
        given_split=entry.given_split,
        **(_picture_facts(picture) if picture else {}),
        **(_mask_facts(mask, source.codec) if mask else {}),
    )
    if row.image and row.mask and (row.width, row.height) != (row.mask_width, row.mask_height):
        problems.append(f"the picture is {row.width} x {row.height}, the mask {row.mask_width} x {row.mask_height}")
    return replace(row, problem="; ".join(problems) or None), mask.overlap_pixels if mask else 0


def _read(layout: Layout, source: Source, entry: Entry) -> tuple[Picture | None, Mask | None, list[str]]:
    """Picture and mask as far as they are there and can be read, and what is wrong."""
    picture, mask = None, None
    problems = [] if entry.picture else ["the mask has no picture"]
    problems += [] if entry.masks else ["the picture has no mask"]
    try:
        picture = layout.read_picture(source, entry) if entry.picture else None
        problems += [f"the picture {picture.problem}"] if picture and picture.problem else []
    except UnreadablePicture as error:
        problems.append(f"the picture {error}")
    try:
        mask = layout.read_mask(source, entry) if entry.masks else None
    except UnreadablePicture as error:
        problems.append(f"the mask {error}")
    return picture, mask, problems


def _picture_facts(picture: Picture) -> dict[str, Any]:
    if picture.rgb_HW3 is None:
        return {"sha256": picture.sha256}
    return {"sha256": picture.sha256, "mode": picture.mode, **picture_facts(picture.rgb_HW3)}


def _mask_facts(mask: Mask, codec: LabelCodec) -> dict[str, Any]:
    unknown = {"unknown_pixels": mask.unknown_pixels, "unknown_colors": mask.unknown_colors}
    return {**mask_facts(mask.ids_HW, mask.instances_HW, codec), **unknown}
