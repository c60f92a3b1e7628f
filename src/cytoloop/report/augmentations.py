"""The page that shows on one picture what each operation of augmentation does, and what some do together."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cytoloop.images.augment import Sample, Variant
from cytoloop.images.decode import encode_rgb_png
from cytoloop.params import AugmentParams
from cytoloop.report.templates import templates
from cytoloop.variation import chance, draw

Array = np.ndarray[Any, Any]

PAGE, SHEET = "augmentations.html", "augmentations.png"
SIDE = 320
"""Longest side of a shown picture, pixels."""
COLUMNS = 4
"""Pictures in a row of the sheet."""
DRAWS = 24
"""Of so many draws of an operation the one that changes the picture most is shown."""
OUTLINE, LINE = (255, 225, 0), (128, 128, 128)
"""RGB of the outlines of the mask and of the lines that are drawn on the picture."""

MEANING = {
    "horizontal_flip": "Left and right exchanged; moves whole pixels.",
    "vertical_flip": "Top and bottom exchanged; moves whole pixels.",
    "quarter_turns": "Turned by 90, 180 or 270 degrees; moves whole pixels.",
    "shear": "Slanted along both axes: x' = x + k y, y' = y + l x.",
    "shrink": "Made smaller in its frame.",
    "rotation": "Turned about the middle by any angle.",
    "barrel": "The middle of a disc magnified: r' = r (1 - a (1 - r²/R²)²).",
    "pincushion": "The middle of a disc made smaller: r' = r (1 + a (1 - r²/R²)²).",
    "distortion": "Whole regions displaced by a smooth random field.",
    "elastic": "Single cells displaced by a random field on a small scale.",
    "sharpening": "Fine detail emphasised: v' = v + a (v - mean of 3 × 3); the picture alone.",
    "brightening": "Grey values scaled and shifted: v' = g v + o; the picture alone.",
}


@dataclass(frozen=True)
class Tile:
    """One picture of the page."""

    name: str
    meaning: str
    settings: str
    picture_HW3: Array

    @property
    def address(self) -> str:
        """The picture as a `data:` address."""
        jpeg = cv2.imencode(".jpg", self.picture_HW3[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        return f"data:image/jpeg;base64,{base64.b64encode(bytes(jpeg)).decode()}"


def write_augmentation_page(image_HW3: Array, mask_HW: Array, params: AugmentParams, folder: Path) -> None:
    """Write `augmentations.html`, which needs nothing but itself, and the same pictures as `augmentations.png`.

    An operation that the params leave out is shown with its default magnitudes, and marked so.

    Args:
        image_HW3: uint8 RGB.
        mask_HW: uint8 class ids; the outlines of the classes are drawn on every picture.
        params: the section `augment`.
        folder: is made when it is not there.
    """
    tiles = list(_tiles(Sample(image_HW3, mask_HW, _squares(*mask_HW.shape)), params))
    folder.mkdir(parents=True, exist_ok=True)
    page = templates().get_template("augmentations.html").render(tiles=tiles, params=params, draws=DRAWS)
    (folder / PAGE).write_text(page, "utf-8")
    (folder / SHEET).write_bytes(encode_rgb_png(_sheet(tiles)))


def _tiles(sample: Sample, params: AugmentParams) -> Iterator[Tile]:
    """The picture itself, each operation alone, three combinations."""
    height, width = sample.mask_HW.shape
    border = None if params.border == "reflect" else params.border_value
    yield Tile("the picture", "As it is. The lines lie on a grid of squares.", "", _shown(sample))
    for name, meaning in MEANING.items():
        variant = _strongest(sample, _only(params, [name], 1), name)
        yield Tile(name, meaning, _settings(params, name), _shown(variant.apply(sample, border)))
    for number in (1, 2, 3):
        variant = draw(_only(params, list(MEANING), 0.5), height, width, chance(params.seed, "page", number))
        yield Tile(
            f"together {number}", "Each operation with probability 0.5.", "", _shown(variant.apply(sample, border))
        )


def _only(params: AugmentParams, names: list[str], probability: float) -> AugmentParams:
    """The params with these operations and no other; those that they leave out have their default magnitudes."""
    told = params.model_dump(exclude=set(MEANING))
    sections = {name: params.operations[name].model_dump() if name in params.operations else {} for name in names}
    for name in MEANING:
        told[name] = {**sections[name], "probability": probability} if name in names else None
    return AugmentParams.model_validate(told)


def _strongest(sample: Sample, params: AugmentParams, name: str) -> Variant:
    """Of some draws the one that changes the picture most."""

    def change(variant: Variant) -> float:
        return float(cv2.norm(variant.apply(sample).image_HWC, sample.image_HWC, cv2.NORM_L1))

    height, width = sample.mask_HW.shape
    variants = [draw(params, height, width, chance(params.seed, "page", name, k)) for k in range(DRAWS)]
    return max(variants, key=change)


def _settings(params: AugmentParams, name: str) -> str:
    if name not in params.operations:
        return "left out by these params; shown with its defaults"
    settings = params.operations[name].model_dump(exclude={"centers"})
    return ", ".join(f"{key} {value:g}" for key, value in settings.items())


def _squares(height: int, width: int) -> Array:
    """uint16 (H, W): a number for each of 8 squares or so along the longer side."""
    side = max(1, max(height, width) // 8)
    y, x = np.mgrid[:height, :width] // side
    return np.asarray(1 + x + 1000 * y, np.uint16)


def _shown(sample: Sample) -> Array:
    """uint8 (h, w, 3) of SIDE at most: the picture under the lines between squares and the outlines of the mask."""
    height, width = sample.mask_HW.shape
    size = max(1, SIDE * width // max(height, width)), max(1, SIDE * height // max(height, width))
    image_HW3 = cv2.resize(sample.image_HWC, size, interpolation=cv2.INTER_AREA)
    for labels_HW, color, opacity in ((sample.instances_HW, LINE, 0.5), (sample.mask_HW, OUTLINE, 1)):
        edges_HW = _edges(cv2.resize(labels_HW, size, interpolation=cv2.INTER_NEAREST))
        blended = (1 - opacity) * image_HW3[edges_HW] + opacity * np.array(color)
        image_HW3[edges_HW] = np.rint(blended).astype(np.uint8)
    return np.asarray(image_HW3)


def _edges(labels_HW: Array) -> Array:
    """bool (H, W): the right or the lower neighbour is of another label."""
    edges_HW = np.zeros(labels_HW.shape, bool)
    edges_HW[:, :-1] |= labels_HW[:, :-1] != labels_HW[:, 1:]
    edges_HW[:-1] |= labels_HW[:-1] != labels_HW[1:]
    return edges_HW


def _sheet(tiles: list[Tile]) -> Array:
    """uint8 (H, W, 3): all pictures with their names, COLUMNS in a row."""
    height, width, _ = tiles[0].picture_HW3.shape
    rows = -(-len(tiles) // COLUMNS)
    sheet_HW3 = np.full((rows * (height + 34), COLUMNS * (width + 10), 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        y, x = place // COLUMNS * (height + 34), place % COLUMNS * (width + 10)
        name = tile.name.replace("_", " ")
        cv2.putText(sheet_HW3, name, (x + 6, y + 21), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40, 40, 40), 1, cv2.LINE_AA)
        sheet_HW3[y + 30 : y + 30 + height, x + 5 : x + 5 + width] = tile.picture_HW3
    return sheet_HW3
