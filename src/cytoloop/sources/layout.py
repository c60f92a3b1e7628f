"""What a dataset layout is: how the pictures of a source are found by name, and how they are read."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cytoloop.images.codec import LabelCodec
from cytoloop.params import IngestParams
from cytoloop.sources.tree import Tree

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Entry:
    """A picture of a source: found, not read yet."""

    id: str
    stem: str
    """File name without folder and suffix; what `ingest.group_pattern` is matched with."""
    folder: str = ""
    """Where picture and mask belong together, without the part that tells the two apart."""
    picture: str | None = None
    """Name of the picture's file, or null where a mask has no picture."""
    masks: tuple[str, ...] = ()
    """Names of the mask files: none where it is missing, several where each object has its own."""
    group: str | None = None
    """By the layout's own rule; null: the picture is its own group."""
    label: str | None = None
    given_split: str | None = None
    arrays: Any = None
    """What `Layout.unfold` took out of a file of many pictures."""

    @property
    def source_file(self) -> str:
        return self.picture or self.masks[0]

    @property
    def mask_file(self) -> str | None:
        """The mask's name; where there are several, their folder's."""
        if len(self.masks) > 1:
            return self.masks[0].rpartition("/")[0]
        return self.masks[0] if self.masks else None


class Composed(Sequence[Entry]):
    """Entries that are made, each by its place alone: any process can make any of them, and read it without files."""

    @property
    @abstractmethod
    def made_of(self) -> Any:
        """All that they are made of, as JSON can have it."""

    @abstractmethod
    def share(self, folder: Path) -> None:
        """From now on, processes that make them may leave each other parts in this folder."""


@dataclass(frozen=True)
class Found:
    """What a layout recognises among the names of a source."""

    entries: list[Entry]
    strangers: list[str]
    """Files that the layout has no place for."""
    doubles: list[str]
    """Files that claim the place of another."""

    @property
    def fits(self) -> bool:
        """At least one picture has its mask."""
        return any(entry.picture and entry.masks for entry in self.entries)


@dataclass(frozen=True)
class Picture:
    """A picture read, or why it could not be.

    sha256: of the file, or of the array's bytes where the source has no file a picture.
    rgb_HW3: uint8 (H, W, 3). mode: Pillow's name of the file's mode.
    """

    sha256: str
    rgb_HW3: Array | None = None
    mode: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Mask:
    """A mask read.

    ids_HW: uint8 (H, W) class ids. instances_HW: integer (H, W), 0 = none, or null.
    unknown_pixels: pixels that belong to no class (id 0); unknown_colors names them for people.
    overlap_pixels: pixels that a later object claimed too; the first keeps them.
    """

    ids_HW: Array
    unknown_pixels: int = 0
    unknown_colors: str | None = None
    instances_HW: Array | None = None
    overlap_pixels: int = 0


@dataclass(frozen=True)
class Source:
    """The files of a source, with what was declared about them."""

    tree: Tree
    params: IngestParams
    codec: LabelCodec

    @property
    def max_pixels(self) -> int:
        return int(self.params.max_megapixels * 1e6)


@dataclass(frozen=True)
class Layout:
    """A dataset layout. `find` sees names only; `read_*` see one entry, in any thread.

    Defects of single pictures are raised as UnreadablePicture by `read_*` (or told in the Picture);
    `check` and `unfold` raise SourceError for what makes the whole source unusable.
    """

    name: str
    description: str
    expects: str
    """The files as a small tree, for people."""
    licence: str | None
    citation: str | None
    find: Callable[[Sequence[str]], Found]
    read_picture: Callable[[Source, Entry], Picture]
    read_mask: Callable[[Source, Entry], Mask]
    check: Callable[[Source, Found], None]
    """Raises SourceError when the declared classes or thresholds cannot serve this layout."""
    unfold: Callable[[Source, Found], Iterable[Entry]] = lambda _, found: found.entries
    """Entries as they are read: where a file holds many pictures, one for each of them; or Composed."""
    suggested: Callable[[Sequence[str]], bool] = lambda _: True
    """Whether a source that it fits looks so much like it that people should be told of it."""
