"""Drawn pictures whose truth is arithmetic, and writers that lay them out as each dataset layout does."""

import csv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cytoloop.params import Params

Array = np.ndarray[Any, Any]

DISC_PIXELS = (1, 5, 13, 29, 49, 81, 113, 149, 197, 253, 317)
"""Pixels of a disc of radius 0, 1, 2, ...: lattice points in a circle (Gauss; OEIS A000328)."""

CLASSES: dict[str, list[dict[str, Any]]] = {
    "krd_wbc": [
        {"name": "background", "color": (0, 0, 0)},
        {"name": "neutrophil", "color": (0, 255, 0)},
        {"name": "lymphocyte", "color": (0, 0, 255)},
        {"name": "monocyte", "color": (255, 0, 0)},
        {"name": "eosinophil", "color": (0, 255, 255)},
        {"name": "basophil", "color": (255, 255, 0)},
    ],
    "leukemia": [{"name": "background", "color": (0, 0, 0)}, {"name": "blast", "color": (160, 32, 240)}],
    "dsb2018": [{"name": "background", "color": (0, 0, 0)}, {"name": "nucleus", "color": (255, 255, 255)}],
    "deepcell": [{"name": "background", "color": (0, 0, 0)}, {"name": "nucleus", "color": (255, 255, 255)}],
    "image_mask": [{"name": "background", "color": (0, 0, 0)}, {"name": "cell", "color": (255, 255, 255)}],
    "segmentation_wbc": [
        {"name": "background", "color": (0, 0, 0), "value": 0},
        {"name": "cytoplasm", "color": (128, 128, 255), "value": 128},
        {"name": "nucleus", "color": (64, 0, 128), "value": 255},
    ],
    "blood_smear": [
        {"name": "background", "color": (0, 0, 0)},
        {"name": "eosinophil", "color": (0, 255, 255)},
        {"name": "basophil", "color": (0, 128, 128)},
        {"name": "neutrophil", "color": (250, 190, 190)},
        {"name": "lymphocyte", "color": (128, 128, 0)},
        {"name": "monocyte", "color": (0, 0, 128)},
        {"name": "thrombocyte", "color": (255, 225, 0)},
        {"name": "platelet_clump", "color": (255, 0, 255)},
        {"name": "infected_rbc", "color": (255, 0, 0)},
        {"name": "healthy_rbc", "color": (0, 255, 0)},
    ],
}
"""The classes of each layout's real package."""

INGEST: dict[str, dict[str, Any]] = {
    "krd_wbc": {"color_tolerance": 181},
    "leukemia": {"mask_threshold": 150, "mask_blur": 3},
    "blood_smear": {"color_tolerance": 16},
}
"""The `ingest` section of each layout's real package, where it needs more than layout and source."""


@dataclass(frozen=True)
class Drawing:
    """A picture with its truth: uint8 (H, W, 3), uint8 (H, W) class ids, int32 (H, W) instances."""

    image_HW3: Array
    ids_HW: Array
    instances_HW: Array


def params(layout: str, source: object, classes: Sequence[dict[str, Any]] | None = None, **ingest: Any) -> Params:
    """A whole params tree that ingests a source in a layout, by default with its real package's classes."""
    classes = CLASSES[layout] if classes is None else classes
    section = {**INGEST.get(layout, {}), "layout": layout, "source": str(source), **ingest}
    return Params.model_validate({"classes": list(classes), "ingest": section, "model": {"num_classes": len(classes)}})


def disc(side: int, centre: tuple[int, int], radius: int) -> Array:
    """bool (side, side): the pixels at most `radius` from the centre (y, x), DISC_PIXELS[radius] of them."""
    y, x = np.ogrid[:side, :side]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def square(side: int, corner: tuple[int, int], size: int) -> Array:
    """bool (side, side): size * size pixels with the upper left one at the corner (y, x)."""
    mask = np.zeros((side, side), bool)
    mask[corner[0] : corner[0] + size, corner[1] : corner[1] + size] = True
    return mask


def nested_discs(side: int = 32, inner: int = 3, outer: int = 5) -> tuple[Array, Array, float]:
    """Two concentric discs, bool (side, side), and their IoU, DISC_PIXELS[inner] / DISC_PIXELS[outer]."""
    centre = (side // 2, side // 2)
    return disc(side, centre, inner), disc(side, centre, outer), DISC_PIXELS[inner] / DISC_PIXELS[outer]


def disc_and_its_half(side: int = 32, radius: int = 5) -> tuple[Array, Array, float]:
    """A disc, its rows down to the centre's, and their IoU (the centre's row has 2 radius + 1 pixels)."""
    whole = disc(side, (side // 2, side // 2), radius)
    half = whole.copy()
    half[side // 2 + 1 :] = False
    return whole, half, (DISC_PIXELS[radius] + 2 * radius + 1) / 2 / DISC_PIXELS[radius]


def painted(ids_HW: Array, instances_HW: Array | None = None, seed: int = 0) -> Drawing:
    """The picture of class ids: a shade for each class, and grain that is different for each seed."""
    shades = np.linspace(210, 60, max(int(ids_HW.max()) + 1, 2))
    grain = np.random.default_rng(seed).normal(0, 6, (*ids_HW.shape, 3))
    image = np.clip(shades[ids_HW][..., None] * (1, 0.85, 0.95) + grain, 0, 255).astype(np.uint8)
    if instances_HW is None:
        instances_HW = (ids_HW > 0).astype(np.int32)
    return Drawing(image, ids_HW.astype(np.uint8), instances_HW)


def cells(side: int = 48, number: int = 3, classes: int = 2, seed: int = 0) -> Drawing:
    """A few discs at random, of the classes in turn; a later one lies over an earlier one."""
    rng = np.random.default_rng(seed)
    ids, instances = np.zeros((side, side), np.uint8), np.zeros((side, side), np.int32)
    for k in range(number):
        where = disc(side, tuple(rng.integers(6, side - 6, 2)), int(rng.integers(3, 7)))
        ids[where], instances[where] = 1 + (seed + k) % (classes - 1), k + 1
    return painted(ids, instances, seed)


def touching_discs(side: int = 32, radius: int = 5) -> Drawing:
    """Two discs of one class side by side: their pixels adjoin, none is shared."""
    left = disc(side, (side // 2, side // 2 - radius), radius)
    right = disc(side, (side // 2, side // 2 + radius + 1), radius)
    return painted((left | right).astype(np.uint8), left + 2 * right.astype(np.int32))


def empty_picture(side: int = 32) -> Drawing:
    """Background only."""
    return painted(np.zeros((side, side), np.uint8))


def one_pixel_cell(side: int = 32) -> Drawing:
    """One pixel of class 1, in the middle."""
    ids = np.zeros((side, side), np.uint8)
    ids[side // 2, side // 2] = 1
    return painted(ids)


def colored(ids_HW: Array, layout: str) -> Array:
    """uint8 (H, W, 3): class ids in the colours of the layout's classes."""
    return np.array([c["color"] for c in CLASSES[layout]], np.uint8)[ids_HW]


def save(path: Path, pixels: Array, mode: str | None = None) -> Path:
    """Write a picture file, its folders too, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    (picture.convert(mode) if mode else picture).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))
    return path


def zipped(folder: Path, path: Path | None = None) -> Path:
    """A zip archive of a folder's files, names in order."""
    path = path or folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def write(layout: str, root: Path, number: int = 3) -> Path:
    """A tiny dataset of `number` pictures in a layout; returns its folder."""
    drawings = [cells(classes=len(CLASSES[layout]), seed=seed) for seed in range(number)]
    _WRITERS[layout](root, drawings)
    return root


def _krd_wbc(root: Path, drawings: Sequence[Drawing]) -> None:
    for k, drawing in enumerate(drawings):
        stem = "barrdistorted_1001_0.3_0.3_1000" if k == 1 else str(1000 + k)
        save(root / f"KRD-WBC/images/{stem}.png", drawing.image_HW3)
        save(root / f"KRD-WBC/masks/{stem}.png", colored(drawing.ids_HW, "krd_wbc"))


def _leukemia(root: Path, drawings: Sequence[Drawing]) -> None:
    for k, drawing in enumerate(drawings):
        name = f"{'Early' if k % 2 else 'Pro'}/WBC-{k:03d}.jpg"
        save(root / "ALL/Original" / name, drawing.image_HW3)
        save(root / "ALL/Segmented" / name, drawing.ids_HW[..., None] * np.uint8([200, 190, 220]))


def _dsb2018(root: Path, drawings: Sequence[Drawing]) -> None:
    for k, drawing in enumerate(drawings):
        save(root / f"stage1_train/{k:04x}/images/{k:04x}.png", drawing.image_HW3, "RGBA")
        for label in range(1, drawing.instances_HW.max() + 1):
            nucleus = (drawing.instances_HW == label).astype(np.uint8) * 255
            save(root / f"stage1_train/{k:04x}/masks/{label}.png", nucleus)


def _segmentation_wbc(root: Path, drawings: Sequence[Drawing]) -> None:
    values = np.uint8([0, 128, 255])
    for k, drawing in enumerate(drawings, 1):
        save(root / f"WBC/Dataset 1/{k:03d}.bmp", drawing.image_HW3)
        save(root / f"WBC/Dataset 1/{k:03d}.png", values[drawing.ids_HW])
    with (root / "WBC/Class Labels of Dataset 1.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image ID", "class label"), *((k + 1, 1 + k % 5) for k in range(len(drawings)))])


def _blood_smear(root: Path, drawings: Sequence[Drawing]) -> None:
    for k, drawing in enumerate(drawings):
        save(root / f"blood_smear/images/Baso_lisc_ii_train_{k}.bmp", drawing.image_HW3)
        save(root / f"blood_smear/segments/Baso_seg_lisc_ii_train_{k}.bmp", colored(drawing.ids_HW, "blood_smear"))
        (root / "blood_smear/labels").mkdir(exist_ok=True)
        (root / f"blood_smear/labels/Baso_lisc_ii_train_{k}.json").write_text("{}")


def _image_mask(root: Path, drawings: Sequence[Drawing]) -> None:
    for k, drawing in enumerate(drawings):
        folder = root / "Cells" / ("train", "valid", "test")[k % 3]
        save(folder / f"images/{k}.png", drawing.image_HW3)
        save(folder / f"masks/{k}.png", colored(drawing.ids_HW, "image_mask"))


def _deepcell(root: Path, drawings: Sequence[Drawing]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    x = np.stack([drawing.image_HW3[..., :1].astype(np.float32) / 255 for drawing in drawings])
    y = np.stack([drawing.instances_HW[..., None] for drawing in drawings])
    np.savez_compressed(root / "train.npz", X=x[1:], y=y[1:])
    np.savez_compressed(root / "test.npz", X=x[:1], y=y[:1])


_WRITERS = {
    "krd_wbc": _krd_wbc,
    "leukemia": _leukemia,
    "dsb2018": _dsb2018,
    "segmentation_wbc": _segmentation_wbc,
    "blood_smear": _blood_smear,
    "image_mask": _image_mask,
    "deepcell": _deepcell,
}
LAYOUTS = tuple(_WRITERS)
