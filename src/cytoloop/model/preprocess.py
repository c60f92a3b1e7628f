"""From a picture of any size to what the network sees, and back. One way for training and prediction."""

from typing import Any

import cv2
import numpy as np

from cytoloop.params import ModelParams

Array = np.ndarray[Any, Any]

cv2.setNumThreads(1)  # TensorFlow and our own pool use the cores


def fit_picture(rgb_HW3: Array, model: ModelParams) -> Array:
    """uint8 (image_height, image_width, image_channels): area-averaged when shrunk, linear when grown."""
    size = (model.image_width, model.image_height)
    if rgb_HW3.shape[1::-1] != size:
        shrinks = rgb_HW3.shape[1] * rgb_HW3.shape[0] > size[0] * size[1]
        rgb_HW3 = cv2.resize(rgb_HW3, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    if model.image_channels == 1:
        return np.asarray(cv2.cvtColor(rgb_HW3, cv2.COLOR_RGB2GRAY))[..., None]
    return rgb_HW3


def fit_mask(ids_HW: Array, model: ModelParams) -> Array:
    """uint8 (image_height, image_width): nearest neighbour, so that no class is invented."""
    size = (model.image_width, model.image_height)
    if ids_HW.shape[::-1] != size:
        return np.asarray(cv2.resize(ids_HW, size, interpolation=cv2.INTER_NEAREST_EXACT))
    return ids_HW


def restore_probability(probability_hwC: Array, height: int, width: int) -> Array:
    """float32 (height, width, classes): probabilities at the original picture's size, linear."""
    if probability_hwC.shape[:2] == (height, width):
        return probability_hwC
    restored = np.asarray(cv2.resize(probability_hwC, (width, height), interpolation=cv2.INTER_LINEAR))
    return restored.reshape(height, width, probability_hwC.shape[-1])
