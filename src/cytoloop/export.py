"""A table as plain files, for other tools: pictures, masks and COCO annotations by split."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import cv2
import numpy as np

from cytoloop.ahead import ahead
from cytoloop.artifacts import EXCLUDED, Card, Row, read_card, read_rows, read_splits
from cytoloop.door import Numbers
from cytoloop.errors import ArtifactError
from cytoloop.images.codec import LabelCodec
from cytoloop.images.decode import decode_ids, decode_instances, encode_rgb_png

Array = np.ndarray[Any, Any]
Masks = Literal["color", "ids"]

ANNOTATIONS = "annotations.json"
WHOLE = "all"  # the folder of pictures that no split is known of


@dataclass(frozen=True)
class Sample:
    """A picture as it is exported: its row, its mask as PNG, and its objects as COCO has them, without ids."""

    row: Row
    mask_png: bytes
    objects: list[dict[str, Any]]


def export(table: Path, to: Path, splits: Path | None = None, masks: Masks = "color") -> Numbers:
    """Write a table as folders that other tools read::

        <to>/train/images/<id>.png       RGB
        <to>/train/masks/<id>.png        RGB by the classes' colours, or grey by their ids
        <to>/train/annotations.json      COCO: images, categories, and one annotation an object
        <to>/val/..., <to>/test/...

    So it also divides a dataset's pictures and masks into folders for training, validation and test,
    by groups. An object is an instance, where the table has instances, or else a connected component
    of a class; its area and box are those of its pixels, and its segmentation is a run-length code.
    Pictures go to the split that `splits` gives them, or else to the one that the source came with,
    or else to `all`. What the split excluded, and what has no picture or no mask, is left out.

    Args:
        table: folder of the table, as `data/raw`.
        to: a folder that does not exist yet, or is empty; it appears when all is written.
        splits: folder of the splits, as `data/splits`.
        masks: `color`, or `ids` for grey masks of class ids (0 is background).

    Returns:
        how many `pictures` and `annotations` were written, and how many pictures were `left_out`.

    Raises:
        ArtifactError: there is no table, `to` holds files, or the splits are of another table.
    """
    if to.is_dir() and any(to.iterdir()):
        raise ArtifactError(f"{to}: holds files already; remove it, or name another folder")
    beside = to.with_name(f".{to.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        numbers = _write(table, beside, None if splits is None else read_splits(splits), masks)
        if to.is_dir():
            to.rmdir()
        beside.rename(to)
    except OSError as error:
        raise ArtifactError(f"{to}: could not be written: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return numbers


def _write(table: Path, to: Path, split_of: dict[str, str] | None, masks: Masks) -> Numbers:
    card = read_card(table)
    numbers = {"pictures": 0.0, "annotations": 0.0, "left_out": 0.0}
    to.mkdir(parents=True)

    def kept() -> Iterator[Row]:
        for row in read_rows(table):
            if row.problem or row.image is None or row.mask is None or _split(row, split_of) == EXCLUDED:
                numbers["left_out"] += 1
            else:
                yield row

    with ExitStack() as stack:
        folders: dict[str, SplitFolder] = {}
        for sample in ahead(_sampler(card.codec, masks), kept()):
            split = _split(sample.row, split_of)
            if split not in folders:
                folders[split] = stack.enter_context(SplitFolder(to / split, card))
            folders[split].write(sample)
            numbers["pictures"] += 1
            numbers["annotations"] += len(sample.objects)
    return numbers


def _split(row: Row, split_of: dict[str, str] | None) -> str:
    if split_of is None:
        return row.given_split or WHOLE
    if row.id not in split_of:
        raise ArtifactError(f"{row.id}: the splits do not know this picture; give those of this very table")
    return split_of[row.id]


def _sampler(codec: LabelCodec, masks: Masks) -> Callable[[Row], Sample]:
    def sample(row: Row) -> Sample:
        ids_HW = decode_ids(row.mask or b"")
        instances_HW = components(ids_HW) if row.instances is None else decode_instances(row.instances)
        mask_png = encode_rgb_png(codec.colors(ids_HW)) if masks == "color" else bytes(cv2.imencode(".png", ids_HW)[1])
        return Sample(row, mask_png, coco_objects(ids_HW, instances_HW))

    return sample


class SplitFolder:
    """The folder of one split. Annotations are written as they come; memory holds one line a picture."""

    def __init__(self, folder: Path, card: Card) -> None:
        self._folder, self._card = folder, card
        self._images: list[str] = []
        self._annotations = 0

    def __enter__(self) -> Self:
        for name in ("images", "masks"):
            (self._folder / name).mkdir(parents=True)
        self._file = (self._folder / ANNOTATIONS).open("w", encoding="utf-8")
        self._file.write('{"annotations": [')
        return self

    def write(self, sample: Sample) -> None:
        """Add a picture; raises ArtifactError when its id cannot be a file's name."""
        row = sample.row
        name = f"{row.id}.png"
        if Path(name).name != name:
            raise ArtifactError(f"{row.id!r}: not a name that a file can have; rename the source's pictures")
        (self._folder / "images" / name).write_bytes(row.image or b"")
        (self._folder / "masks" / name).write_bytes(sample.mask_png)
        image = len(self._images) + 1
        size = {"width": row.width, "height": row.height}
        self._images.append(json.dumps({"id": image, "file_name": f"images/{name}", **size, "license": 1}))
        for described in sample.objects:
            self._annotations += 1
            line = {"id": self._annotations, "image_id": image, **described}
            self._file.write(f"{',' if self._annotations > 1 else ''}\n{json.dumps(line)}")

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if kind is None:
            card = self._card
            categories = [
                {"id": number, "name": name, "supercategory": card.name}
                for number, name in enumerate(card.codec.names)
                if number
            ]
            tail = {
                "categories": categories,
                "info": {"description": card.name, "contributor": card.citation},
                "licenses": [{"id": 1, "name": card.licence}],
            }
            images = ",\n".join(self._images)
            self._file.write(f'\n],\n"images": [\n{images}\n],\n{json.dumps(tail, indent=1)[1:]}\n')
        self._file.close()


def components(ids_HW: Array) -> Array:
    """int32 (H, W): connected components of each class, numbered from 1; 0 is background."""
    from scipy import ndimage  # takes half a second to import

    numbered_HW = np.zeros(ids_HW.shape, np.int32)
    for number in np.unique(ids_HW[ids_HW > 0]):
        parts_HW, _ = ndimage.label(ids_HW == number)
        numbered_HW += np.where(parts_HW > 0, parts_HW + numbered_HW.max(), 0)
    return numbered_HW


def coco_objects(ids_HW: Array, instances_HW: Array) -> list[dict[str, Any]]:
    """category_id, bbox [x, y, width, height], area, segmentation and iscrowd of each instance, in their order.

    An instance is of the class that most of its pixels have; one of background only is none.
    """
    from scipy import ndimage

    boxes = ndimage.find_objects(instances_HW.astype(np.int32))
    codes = run_lengths(instances_HW)
    objects = []
    for number, box in enumerate(boxes, 1):
        if box is None:
            continue
        classes = np.bincount(ids_HW[box][instances_HW[box] == number])
        if len(classes) > 1:
            y, x = box
            described = {"bbox": [x.start, y.start, x.stop - x.start, y.stop - y.start], "area": int(classes.sum())}
            code = {"size": list(ids_HW.shape), "counts": codes[number]}
            category = 1 + int(classes[1:].argmax())
            objects.append({"category_id": category, **described, "segmentation": code, "iscrowd": 0})
    return objects


def run_lengths(instances_HW: Array) -> dict[int, list[int]]:
    """Instance -> its COCO run-length code: pixels outside, inside, outside, ... column by column.

    >>> run_lengths(np.array([[0, 7], [7, 7]]))
    {7: [1, 3]}
    """
    flat = instances_HW.T.ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    ends = np.append(starts[1:], flat.size)
    order = np.argsort(flat[starts], kind="stable")
    labels, firsts = np.unique(flat[starts][order], return_index=True)
    codes = {}
    for label, mine in zip(labels.tolist(), np.split(order, firsts[1:]), strict=True):
        edges = np.column_stack([starts[mine], ends[mine]]).ravel()
        counts = np.diff(edges, prepend=0, append=flat.size).tolist()
        codes[label] = counts if counts[-1] else counts[:-1]
    codes.pop(0, None)
    return codes
