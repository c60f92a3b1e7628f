"""Where pictures come from: dataset layouts, over folders, zip archives, single files and S3.

Each layout is a module of this package with a `LAYOUT`; adding one is adding a file. The layout of a
source is declared, never guessed: what does not fit is refused, with what would.
"""

import importlib
import os
import pkgutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cytoloop.errors import SourceError
from cytoloop.images.codec import LabelCodec
from cytoloop.params import IngestParams
from cytoloop.sources.archive import ZipTree
from cytoloop.sources.layout import Entry, Found, Layout, Mask, Picture, Source
from cytoloop.sources.pairing import shown
from cytoloop.sources.tree import FolderTree, Tree

__all__ = [
    "LAYOUTS",
    "Entry",
    "Found",
    "Layout",
    "Mask",
    "Picture",
    "Source",
    "find",
    "layout_named",
    "open_source",
    "open_tree",
]


def _layouts() -> dict[str, Layout]:
    modules = (importlib.import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__))
    return {module.LAYOUT.name: module.LAYOUT for module in modules if hasattr(module, "LAYOUT")}


LAYOUTS: dict[str, Layout] = _layouts()
"""Name -> layout, in alphabetical order."""


def layout_named(name: str) -> Layout:
    """A layout by its name; raises SourceError naming those that there are."""
    if name not in LAYOUTS:
        raise SourceError(f"ingest.layout = {name!r}: no such layout; allowed: {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def open_tree(source: str) -> Tree:
    """The files of a folder, a zip archive, a single file, or an s3:// or dvc+s3:// address (fetched first).

    Raises:
        SourceError: there is nothing, or it is hostile or damaged.
    """
    path = _fetched(source) if source.startswith(("s3://", "dvc+")) else Path(source)
    if not path.exists():
        raise SourceError(f"ingest.source = {source!r}: no such folder or file; give a folder, a zip or s3://...")
    if path.is_file() and path.suffix.lower() == ".zip":
        return ZipTree(path)
    return FolderTree(path)


def _fetched(uri: str) -> Path:
    from cytoloop import storage  # boto3 takes a while to import

    return storage.fetch(uri, Path(os.environ.get("CYTOLOOP_WORK", "work")) / "s3")


@contextmanager
def open_source(params: IngestParams, codec: LabelCodec) -> Iterator[Source]:
    """The declared source, open while the context lasts; raises SourceError as `open_tree`."""
    with open_tree(params.source) as tree:
        yield Source(tree, params, codec)


def find(source: Source) -> Found:
    """What the declared layout finds in the source.

    Raises:
        SourceError: the source is empty or not of this layout (with what was expected, what was
            found and which layouts would fit), files claim the same place, or the declared classes
            and thresholds cannot serve the layout.
    """
    layout = layout_named(source.params.layout)
    if not source.tree.names:
        raise SourceError(f"ingest.source = {source.params.source!r}: holds no files")
    found = layout.find(source.tree.names)
    if not found.fits:
        raise SourceError(_misfit(source, layout))
    if found.doubles:
        raise SourceError(
            f"{len(found.doubles)} files claim the place of another, as pictures or masks of the same stem: "
            f"{shown(found.doubles)}; keep one of each"
        )
    layout.check(source, found)
    return found


def _misfit(source: Source, layout: Layout) -> str:
    names = source.tree.names
    fitting = [other.name for other in LAYOUTS.values() if other is not layout and _may_fit(other, names)]
    tree = "\n".join(f"    {line}" for line in layout.expects.splitlines())
    advice = f"declare ingest.layout: {' or '.join(fitting)}" if fitting else "no other layout fits either"
    return (
        f"ingest.source = {source.params.source!r} is not in layout {layout.name}: no picture with its mask was found\n"
        f"  expected:\n{tree}\n  found: {len(names)} files: {shown(names, 3)}\n  {advice}"
    )


def _may_fit(layout: Layout, names: Sequence[str]) -> bool:
    try:
        return layout.suggested(names) and layout.find(names).fits
    except SourceError:
        return False
