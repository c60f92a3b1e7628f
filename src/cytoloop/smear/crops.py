"""Cells cropped from the pictures of an ingested table.

A picture's light is divided away: what is left is absorbance, as of the drawn cells, so that both
can be laid on the same plasma. The table does not say how large its pixels are; therefore a cell is
as large, of its class' range in the protocol, as it is among the table's cells of that class.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy import ndimage

from cytoloop.artifacts import Row, read_card, read_facts, read_rows
from cytoloop.images.decode import decode_ids, decode_instances, decode_rgb
from cytoloop.smear.cells import SUPERSAMPLING, Cell, trimmed
from cytoloop.smear.protocol import CELLS, RED_CELLS, Protocol

Array = np.ndarray[Any, Any]

MARGIN = 4  # pixels kept around a cell, for its feathered edge
ALONE = 0.9  # part of the pixels around a whole cell that must be background
SMALLEST = 5.0  # diameter below which nothing of a cell can be recognised, pixels
ODD = 1.7  # cells this many times larger or smaller than their class' median are clusters or fragments


@dataclass(frozen=True)
class Crop:
    """A cell as its picture shows it: absorbance and coverage (h, w, 4), and the diameter in its pixels."""

    name: str
    layers_HW4: Array
    diameter: float
    source: str


def crop_cells(
    folder: Path, protocol: Protocol, shares: dict[str, int], rng: np.random.Generator
) -> dict[str, dict[str, tuple[Cell, ...]]]:
    """split -> class -> cells of a table, whose classes are matched by name.

    A picture's cells all go to the split of the picture's group, so that the splits share no patient.

    Args:
        folder: the table.
        shares: split -> cells of a class wanted, at most.
        rng: divides the groups, in the ratio of the shares.

    Raises:
        ArtifactError: the folder is no finished table.
    """
    names = read_card(folder).codec.names
    split_of = divide_groups(sorted(set(read_facts(folder, ["group"])["group"])), shares, rng)
    crops: dict[tuple[str, str], list[Crop]] = {(split, name): [] for split in shares for name in CELLS}
    for row in read_rows(folder):
        for crop in crops_of(row, names):
            here = crops[split_of[row.group], crop.name]
            if crop.diameter >= SMALLEST and len(here) < shares[split_of[row.group]]:
                here.append(crop)
    cells: dict[str, dict[str, tuple[Cell, ...]]] = {split: {} for split in shares}
    for name in CELLS:
        sizes = [crop.diameter for split in shares for crop in crops[split, name]]
        for split in shares:
            cells[split][name] = tuple(scaled(crops[split, name], float(np.median(sizes or [1])), protocol))
    return cells


def divide_groups(groups: list[str], shares: dict[str, int], rng: np.random.Generator) -> dict[str, str]:
    """group -> split, at random; with fewer groups than splits the first split has them all."""
    rest, total = list(shares)[1:], sum(shares.values())
    order = [groups[n] for n in rng.permutation(len(groups))]
    split_of = dict.fromkeys(order, next(iter(shares)))
    if len(groups) > len(rest):
        for split in rest:
            count = max(1, round(len(groups) * shares[split] / total))
            split_of |= dict.fromkeys(order[:count], split)
            order = order[count:]
    return split_of


def crops_of(row: Row, names: tuple[str, ...]) -> Iterator[Crop]:
    """The whole cells of one picture; none where it has a problem or no mask.

    The objects of a class are its instances, where the table has them, or else its connected
    components. Where the whole picture has a label that is a cell, its foreground is that cell.
    """
    if row.problem or row.image is None or row.mask is None:
        return
    image, ids = decode_rgb(row.image), decode_ids(row.mask)
    absorbance = absorbance_of(image, ids == 0)
    instances = None if row.instances is None else decode_instances(row.instances)
    labelled = {row.label: ids > 0} if row.label in CELLS else {n: ids == k for k, n in enumerate(names) if n in CELLS}
    for name, where in labelled.items():
        objects = ndimage.label(where)[0] if instances is None else np.where(where, instances, 0)
        for number, box in enumerate(ndimage.find_objects(objects), 1):
            if box is not None and not touches_border(box, ids.shape):
                window = tuple(slice(max(side.start - MARGIN, 0), side.stop + MARGIN) for side in box)
                mask = (objects[window] == number).astype(np.uint8)
                if name not in RED_CELLS or stands_alone(mask, ids[window]):
                    yield cut(str(name), absorbance[window], mask, row.id)


def absorbance_of(image_HW3: Array, background_HW: Array) -> Array:
    """float32 (H, W, 3), by the light of the picture's brightest background (that of its upper fifth)."""
    pixels = image_HW3[background_HW] if background_HW.any() else image_HW3.reshape(-1, 3)
    light = np.median(pixels[pixels[:, 1] >= np.percentile(pixels[:, 1], 80)], axis=0)
    return np.asarray(-np.log(np.clip((image_HW3 + 1.0) / (light + 1.0), 0.02, 1.1)), np.float32)


def touches_border(box: tuple[slice, slice], shape: tuple[int, ...]) -> bool:
    """Whether an object may go on outside its picture."""
    return any(side.start == 0 or side.stop == length for side, length in zip(box, shape, strict=True))


def stands_alone(mask_HW: Array, ids_HW: Array) -> bool:
    """Whether background lies around an object: a red cell lies lowest, and another could cover a part of it."""
    around_HW = cv2.dilate(mask_HW, np.ones((3, 3), np.uint8)) > mask_HW
    return bool(np.mean(ids_HW[around_HW] == 0) >= ALONE)


def cut(name: str, absorbance_HW3: Array, mask_HW: Array, source: str) -> Crop:
    """A crop with a feathered edge."""
    covered = cv2.GaussianBlur(mask_HW.astype(np.float32), (0, 0), 0.8)
    layers = cv2.merge([*(part * covered for part in cv2.split(absorbance_HW3)), covered])
    return Crop(name, layers, 2 * float(np.sqrt(mask_HW.sum() / np.pi)), source)


def scaled(crops: list[Crop], median: float, protocol: Protocol) -> Iterator[Cell]:
    """Cells of the protocol's size; those whose size is odd for their class are left out."""
    for crop in crops:
        if not 1 / ODD <= crop.diameter / median <= ODD:
            continue
        low, high = protocol.diameters_um[crop.name]
        diameter = float(np.clip((low + high) / 2 * crop.diameter / median, low, high))
        factor = diameter / crop.diameter / (protocol.pixel_um / SUPERSAMPLING)
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
        layers = cv2.resize(crop.layers_HW4, None, fx=factor, fy=factor, interpolation=how)
        layers[..., 3] = np.clip(layers[..., 3], 0, 1)
        yield Cell(crop.name, trimmed(layers), diameter, crop.source)
