"""Facts of a picture and its mask, as the table's columns have them."""

from typing import Any

import cv2
import numpy as np

from cytoloop.images.codec import LabelCodec
from cytoloop.images.decode import encode_instances_png, encode_rgb_png
from cytoloop.images.hashes import perceptual_hash

Array = np.ndarray[Any, Any]


def picture_facts(rgb_HW3: Array) -> dict[str, Any]:
    """Size, PNG bytes, perceptual hash, and mean and standard deviation of each channel (0..255)."""
    return {
        "height": rgb_HW3.shape[0],
        "width": rgb_HW3.shape[1],
        "image": encode_rgb_png(rgb_HW3),
        "phash": perceptual_hash(rgb_HW3),
        **channel_facts(rgb_HW3),
    }


def channel_facts(rgb_HW3: Array) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel (0..255)."""
    mean, std = cv2.meanStdDev(rgb_HW3)
    return {
        "mean_rgb": [round(float(value), 4) for value in mean.ravel()],
        "std_rgb": [round(float(value), 4) for value in std.ravel()],
    }


def mask_facts(ids_HW: Array, instances_HW: Array | None, codec: LabelCodec) -> dict[str, Any]:
    """Size, PNG bytes of class ids and instances, and the pixels of each class."""
    return {
        "mask_height": ids_HW.shape[0],
        "mask_width": ids_HW.shape[1],
        "mask": codec.encode_png(ids_HW),
        "instances": None if instances_HW is None else encode_instances_png(instances_HW),
        "class_pixels": np.bincount(ids_HW.ravel(), minlength=len(codec.classes)).tolist(),
    }
