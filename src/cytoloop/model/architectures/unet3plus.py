"""UNet3Plus: a U-Net whose every decoder level sees all scales, for sharp boundaries with fewer weights.

The network is Huang et al. 2020, arXiv:2004.08790. Where a U-Net's decoder level takes one skip, here it
takes the encoder's maps of its own and all finer levels and the decoder's of all coarser ones, brought
to its size, each by a convolution of base_filters filters, and joins them by one of
num_layers * base_filters. Encoder level i has base_filters * 2**i filters. A dropout of dropout_rate * i
stands between its two convolutions, and ends a decoder's level. The paper has `normalization: batch`; its
deep supervision and its classification of whole pictures are left out: there is one output.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cytoloop.model.architectures.layers import convolution, double_convolution, dropout, head, picture_input, scaled
from cytoloop.params import ModelParams

if TYPE_CHECKING:
    import keras


def build(model: ModelParams) -> "keras.Model":
    """A UNet3Plus with `num_layers` levels, the bridge included."""
    import keras

    picture = picture_input(model)
    maps = _encoder(scaled(picture, model, 1 / 255, 0), model)
    for level in reversed(range(model.num_layers - 1)):
        # finer maps are still the encoder's, coarser ones already the decoder's
        decoded = _full_scale(maps, model, level, f"decoder{level}")
        maps = [*maps[:level], decoded, *maps[level + 1 :]]
    return keras.Model(picture, head(maps[0], model.num_classes), name="unet3plus")


def _encoder(x: Any, model: ModelParams) -> list[Any]:
    """The maps of all levels, fine to coarse."""
    import keras

    maps = [double_convolution(x, model, 0, "encoder0")]
    for level in range(1, model.num_layers):
        x = keras.layers.MaxPooling2D(name=f"encoder{level - 1}_pool")(maps[-1])
        maps.append(double_convolution(x, model, level, f"encoder{level}"))
    return maps


def _full_scale(maps: Sequence[Any], model: ModelParams, level: int, name: str) -> Any:
    """The decoder's map of a level, from the maps of all levels."""
    import keras

    scales = []
    for source, x in enumerate(maps):
        x = _resized(x, source - level, f"{name}_from{source}")
        scales.append(convolution(x, model.base_filters, model.normalization, f"{name}_from{source}"))
    x = keras.layers.Concatenate(name=f"{name}_scales")(scales)
    x = convolution(x, model.num_layers * model.base_filters, model.normalization, name)
    return dropout(x, model, level, name)


def _resized(x: Any, doublings: int, name: str) -> Any:
    """Enlarged (bilinear) by 2**doublings, or made smaller (largest of each square) where that is negative."""
    import keras

    if doublings > 0:
        return keras.layers.UpSampling2D(2**doublings, interpolation="bilinear", name=f"{name}_up")(x)
    if doublings < 0:
        return keras.layers.MaxPooling2D(2**-doublings, name=f"{name}_pool")(x)
    return x
