"""Real cells for the bank: cropped from the pictures of ingested tables, or from pictures of single cells.

A picture's light is divided away: what is left is absorbance, as of the drawn cells, so that both
can be laid on the same plasma. Nobody tells how large a picture's pixels are; therefore a cell is
as large, of its class' range in the protocol, as it is among its folder's cells of that class.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cytoloop.artifacts import CARD, Row, read_card, read_facts, read_rows
from cytoloop.errors import SourceError
from cytoloop.images.decode import SUFFIXES, UnreadablePicture, decode_ids, decode_instances, decode_rgb
from cytoloop.smear.cells import SUPERSAMPLING, Cell, trimmed
from cytoloop.smear.protocol import CELLS, RED_CELLS, Protocol
from cytoloop.smear.threshold import cell_mask

Array = np.ndarray[Any, Any]

MARGIN = 4  # pixels kept around a cell, for its feathered edge
ALONE = 0.9  # part of the pixels around a whole cell that must be background
SMALLEST = 5.0  # diameter below which nothing of a cell can be recognised, pixels
ODD = 1.7  # cells this many times larger or smaller than their class' median are clusters or fragments
MOST_PIXELS = 16_000_000  # of a picture of a single cell


@dataclass(frozen=True)
class Crop:
    """A cell as its picture shows it: absorbance and coverage (h, w, 4), and the diameter in its pixels."""

    name: str
    layers_HW4: Array
    diameter: float
    source: str


Crops = dict[tuple[str, str], list[Crop]]  # (split, class) -> crops


def crop_cells(
    folders: Sequence[Path], protocol: Protocol, shares: dict[str, int], rng: np.random.Generator
) -> dict[str, dict[str, tuple[Cell, ...]]]:
    """split -> class -> cells of all folders, as many from each as there are.

    A picture's cells all go to the split of the picture's group, so that the splits share no patient.

    Args:
        folders: ingested tables, whose classes (or labels of pictures) are matched by name, or
            pictures of single cells without masks, in a sub-folder for each class.
        protocol: how large the cells of a class are.
        shares: split -> cells of a class wanted, at most.
        rng: divides the groups, in the ratio of the shares.

    Raises:
        SourceError: a folder is neither.
    """
    cells: dict[tuple[str, str], list[list[Cell]]] = defaultdict(list)
    for folder in folders:
        of_folder = crops_of_table if (folder / CARD).is_file() else crops_of_singles
        for place, found in scaled(of_folder(folder, protocol, shares, rng), protocol).items():
            cells[place].append(found)
    return {
        split: {name: tuple(islice(in_turn(cells[split, name]), share)) for name in CELLS}
        for split, share in shares.items()
    }


def in_turn(lists: list[list[Cell]]) -> Iterator[Cell]:
    """The first of each list, then the second of each, ..."""
    return (cell for cell in chain.from_iterable(zip_longest(*lists)) if cell is not None)


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


def crops_of_table(folder: Path, protocol: Protocol, shares: dict[str, int], rng: np.random.Generator) -> Crops:
    """The crops of an ingested table; where its pictures have labels, each label is divided by itself."""
    names = read_card(folder).codec.names
    facts = read_facts(folder, ["group", "label"]).fillna("").drop_duplicates("group").sort_values("group")
    split_of: dict[str, str] = {}
    for _, alike in facts.groupby("label"):
        split_of |= divide_groups(alike["group"].tolist(), shares, rng)
    crops: Crops = defaultdict(list)
    for row in read_rows(folder):
        split = split_of[row.group]
        if len(crops[split, str(row.label)]) < shares[split]:
            for crop in crops_of(row, names):
                if crop.diameter >= SMALLEST and len(crops[split, crop.name]) < shares[split]:
                    crops[split, crop.name].append(crop)
    return crops


def crops_of(row: Row, names: tuple[str, ...]) -> Iterator[Crop]:
    """The whole cells of one picture; none where it has a problem or no mask.

    The objects of a class are its instances, where the table has them, or else its connected
    components. Where the whole picture has a label that is a cell, its foreground is that cell.
    """
    from scipy import ndimage  # takes half a second to import

    if row.problem or row.image is None or row.mask is None:
        return
    image, ids = decode_rgb(row.image), decode_ids(row.mask)
    absorbance = absorbance_of(image, light_of(image, ids == 0))
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


def crops_of_singles(folder: Path, protocol: Protocol, shares: dict[str, int], rng: np.random.Generator) -> Crops:
    """The crops of pictures of single cells, found by a threshold; files are divided class by class.

    Raises:
        SourceError: the folder holds no folders, or others than those named for classes.
    """
    classes = sorted(path.name for path in folder.glob("*/") if path.is_dir())
    if not classes or set(classes) - set(CELLS):
        raise SourceError(
            f"ingest.smear.cells_from: {folder} is neither an ingested table ({CARD}) nor a folder of pictures with a "
            f"sub-folder for each class (found: {', '.join(classes) or 'none'}; allowed: {', '.join(CELLS)})"
        )
    crops: Crops = defaultdict(list)
    for name in classes:
        files = sorted(path.name for path in (folder / name).iterdir() if path.suffix.lower() in SUFFIXES)
        split_of = divide_groups(files, shares, rng)
        for split, share in shares.items():
            paths = (folder / name / file for file in files if split_of[file] == split)
            found = (crop_of_single(path, protocol) for path in paths)
            crops[split, name] = list(islice((crop for crop in found if crop), share))
    return crops


def crop_of_single(path: Path, protocol: Protocol) -> Crop | None:
    """The one cell of a picture, of the class that its folder is named for; None where nothing is to be seen."""
    try:
        image = decode_rgb(path.read_bytes(), MOST_PIXELS)
    except UnreadablePicture as error:
        raise SourceError(f"{path}: the picture {error}; repair or remove it") from None
    sides = [(MARGIN, MARGIN), (MARGIN, MARGIN)]  # pictures are often cut close to their cell
    mask = np.pad(cell_mask(image), sides)
    image = np.pad(image, [*sides, (0, 0)], mode="edge")
    if mask.sum() < np.pi / 4 * SMALLEST**2:
        return None
    light = light_of(image, mask == 0)
    if light.mean() < image[mask > 0].mean():  # cells on black: their light is nowhere in the picture
        light = 255 * np.array(protocol.picture.plasma_light)
    return cut(path.parent.name, absorbance_of(image, light), mask, f"{path.parent.name}/{path.name}")


def light_of(image_HW3: Array, background_HW: Array) -> Array:
    """(3,): the light of the picture's brightest background, that of its upper fifth."""
    pixels = image_HW3[background_HW] if background_HW.any() else image_HW3.reshape(-1, 3)
    return np.asarray(np.median(pixels[pixels[:, 1] >= np.percentile(pixels[:, 1], 80)], axis=0))


def absorbance_of(image_HW3: Array, light_3: Array) -> Array:
    """float32 (H, W, 3): natural logarithms of light to what is left of it."""
    return np.asarray(-np.log(np.clip((image_HW3 + 1.0) / (light_3 + 1.0), 0.02, 1.1)), np.float32)


def touches_border(box: tuple[slice, slice], shape: tuple[int, ...]) -> bool:
    """Whether an object may go on outside its picture."""
    return any(side.start == 0 or side.stop == length for side, length in zip(box, shape, strict=True))


def stands_alone(mask_HW: Array, ids_HW: Array) -> bool:
    """Whether background lies around an object: a red cell lies lowest, and another could cover a part of it."""
    around_HW = cv2.dilate(mask_HW, np.ones((3, 3), np.uint8)) > mask_HW
    return bool(np.mean(ids_HW[around_HW] == 0) >= ALONE)


def cut(name: str, absorbance_HW3: Array, mask_HW: Array, source: str) -> Crop:
    """A crop with a smooth, feathered edge.

    The edge is where the blurred mask is 0.7, a little within the mask: masks have steps, and often
    some of the plasma around the cell, which would be a bright rim on other cells.
    """
    blur = min(1.5, np.sqrt(mask_HW.sum()) / 12)
    inside = cv2.GaussianBlur(mask_HW.astype(np.float32), (0, 0), float(blur))
    covered = np.clip((inside - 0.7) / 0.4 + 0.5, 0, 1)
    layers = cv2.merge([*(part * covered for part in cv2.split(absorbance_HW3)), covered])
    return Crop(name, layers, 2 * float(np.sqrt(covered.sum() / np.pi)), source)


def scaled(crops: Crops, protocol: Protocol) -> dict[tuple[str, str], list[Cell]]:
    """Cells of the protocol's size; those whose size is odd among their class are left out."""
    sizes = {name: [crop.diameter for place in crops if place[1] == name for crop in crops[place]] for _, name in crops}
    cells: dict[tuple[str, str], list[Cell]] = {}
    for (split, name), found in crops.items():
        relative = [crop.diameter / float(np.median(sizes[name])) for crop in found]
        usual = ((crop, size) for crop, size in zip(found, relative, strict=True) if 1 / ODD <= size <= ODD)
        cells[split, name] = [resized(crop, size, protocol) for crop, size in usual]
    return cells


def resized(crop: Crop, relative: float, protocol: Protocol) -> Cell:
    """The cell of a crop, as large in the protocol's range as it is `relative` to its class' median."""
    low, high = protocol.diameters_um[crop.name]
    diameter = float(np.clip((low + high) / 2 * relative, low, high))
    factor = diameter / crop.diameter / (protocol.pixel_um / SUPERSAMPLING)
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    layers = cv2.resize(crop.layers_HW4, None, fx=factor, fy=factor, interpolation=how)
    layers[..., 3] = np.clip(layers[..., 3], 0, 1)
    return Cell(crop.name, trimmed(layers), diameter, crop.source)
