"""What every variant must keep, whatever is drawn."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import maximum_filter, minimum_filter

from cytoloop.images.augment import Sample, Variant, mirror, quarter_turn
from cytoloop.params import AugmentParams
from cytoloop.variation import chance, draw, vary
from tables import picture_of

Array = np.ndarray[Any, Any]

GEOMETRY = ("horizontal_flip", "vertical_flip", "quarter_turns", "shear", "shrink", "rotation")
GEOMETRY += ("barrel", "pincushion", "distortion", "elastic")

sides = st.integers(1, 24)
masks = st.tuples(sides, sides).flatmap(lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 2)))
squares = sides.flatmap(lambda side: arrays(np.uint8, (side, side), elements=st.integers(0, 2)))
exact = st.builds(mirror, st.booleans(), st.booleans()), st.builds(quarter_turn, st.integers(0, 3))
seeds = st.integers(0, 2**32)
border = st.sampled_from(["reflect", "constant"])
chosen = st.sets(st.sampled_from(GEOMETRY), min_size=1)


def params_of(operations: set[str], border: str) -> AugmentParams:
    sections = {name: {"probability": 1} if name in operations else None for name in GEOMETRY}
    return AugmentParams.model_validate({"border": border, **sections})


def sample_of(mask_HW: Array) -> Sample:
    return Sample(picture_of(mask_HW), mask_HW, mask_HW.astype(np.uint16) * 300)


@given(squares, *exact)
def test_exact_variants_keep_the_picture_a_function_of_the_mask(mask_HW: Array, flip: Array, turn: Array) -> None:
    variant = Variant(flip @ turn).apply(sample_of(mask_HW))
    np.testing.assert_array_equal(variant.image_HWC, picture_of(variant.mask_HW))
    np.testing.assert_array_equal(np.bincount(variant.mask_HW.ravel()), np.bincount(mask_HW.ravel()))


@settings(deadline=None)
@given(masks, chosen, border, seeds)
def test_mask_and_instances_never_part_and_gain_no_label(
    mask_HW: Array, operations: set[str], border: str, seed: int
) -> None:
    variant = vary(sample_of(mask_HW), params_of(operations, border), chance(seed))
    allowed = set(np.unique(mask_HW)) | ({0} if border == "constant" else set())
    assert set(np.unique(variant.mask_HW)) <= allowed
    assert variant.instances_HW is not None
    assert (variant.mask_HW.dtype, variant.instances_HW.dtype) == (np.uint8, np.uint16)
    np.testing.assert_array_equal(variant.instances_HW, variant.mask_HW.astype(np.uint16) * 300)


@settings(deadline=None)
@given(masks.map(lambda mask_HW: np.kron(mask_HW, np.ones((8, 8), np.uint8))), chosen, seeds)
def test_inside_a_region_the_picture_stays_a_function_of_the_mask(
    mask_HW: Array, operations: set[str], seed: int
) -> None:
    """Linear and nearest sampling may differ only where regions meet, be it just outside the frame."""
    variant = vary(sample_of(mask_HW), params_of(operations, "reflect"), chance(seed))
    inside_HW = maximum_filter(variant.mask_HW, 5) == minimum_filter(variant.mask_HW, 5)
    inside_HW[:3], inside_HW[-3:], inside_HW[:, :3], inside_HW[:, -3:] = False, False, False, False
    np.testing.assert_array_equal(variant.image_HWC[inside_HW], picture_of(variant.mask_HW)[inside_HW])


@settings(deadline=None)
@given(sides.filter(lambda side: side > 8), chosen, seeds)
def test_a_picture_of_the_mask_moves_as_the_mask_does(side: int, operations: set[str], seed: int) -> None:
    """Grey values that rise with x, in picture and mask alike, agree to within half a pixel's rise."""
    ramp_HW = np.repeat(np.arange(side, dtype=np.uint8)[None] * 4, side, 0)
    variant = vary(Sample(ramp_HW[..., None], ramp_HW), params_of(operations, "reflect"), chance(seed))
    apart_HW = np.abs(variant.image_HWC[..., 0].astype(int) - variant.mask_HW)
    assert apart_HW.max() <= 2


@settings(max_examples=50, deadline=None)
@given(masks, chosen, border, seeds)
def test_what_is_drawn_keeps_the_shape_and_is_repeatable(
    mask_HW: Array, operations: set[str], border: str, seed: int
) -> None:
    params, sample = params_of(operations, border), sample_of(mask_HW)
    once, again = (vary(sample, params, chance(seed)) for _ in range(2))
    for one, other, given_ in zip(once, again, sample, strict=True):
        assert one.shape == given_.shape
        np.testing.assert_array_equal(one, other)


@settings(max_examples=30, deadline=None)
@given(chosen, seeds)
def test_only_what_is_named_happens(operations: set[str], seed: int) -> None:
    variant = draw(params_of(operations, "reflect"), 50, 50, chance(seed))
    assert len(variant.bends) == len(operations & {"barrel", "pincushion", "distortion", "elastic"})
    if not operations & {"shear", "shrink", "rotation"}:
        assert set(np.abs(variant.matrix_22).ravel().tolist()) == {0, 1}
    assert (variant.sharpening, variant.gain, variant.offset) == (0, 1, 0)
