"""What every variant must keep, whatever is drawn."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import maximum_filter, minimum_filter

from cytoloop.images.augment import Geometry, Sample, Variations
from tables import picture_of

Array = np.ndarray[Any, Any]

sides = st.integers(2, 24)
masks = st.tuples(sides, sides).flatmap(lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 2)))
exact = st.builds(Geometry, mirrored=st.booleans(), quarter_turns=st.integers(0, 3))
any_geometry = st.builds(Geometry, st.booleans(), st.integers(0, 3), st.floats(-180, 180))
variations = st.builds(Variations, st.booleans(), st.floats(0, 180), st.booleans())


def sample_of(mask_HW: Array) -> Sample:
    return Sample(picture_of(mask_HW), mask_HW, mask_HW.astype(np.uint16) * 300)


@given(masks, exact)
def test_exact_variants_keep_the_picture_a_function_of_the_mask(mask_HW: Array, geometry: Geometry) -> None:
    variant = geometry.apply(sample_of(mask_HW))
    np.testing.assert_array_equal(variant.image_HW3, picture_of(variant.mask_HW))
    np.testing.assert_array_equal(np.bincount(variant.mask_HW.ravel()), np.bincount(mask_HW.ravel()))


@given(masks, any_geometry)
def test_mask_and_instances_never_part_and_gain_no_label(mask_HW: Array, geometry: Geometry) -> None:
    variant = geometry.apply(sample_of(mask_HW))
    assert set(np.unique(variant.mask_HW)) <= set(np.unique(mask_HW))
    assert variant.mask_HW.dtype == np.uint8
    assert variant.image_HW3.dtype == np.uint8
    assert variant.instances_HW is not None
    assert variant.instances_HW.dtype == np.uint16
    np.testing.assert_array_equal(variant.instances_HW, variant.mask_HW.astype(np.uint16) * 300)


@given(masks.map(lambda mask_HW: np.kron(mask_HW, np.ones((6, 6), np.uint8))), any_geometry)
def test_inside_a_region_the_picture_stays_a_function_of_the_mask(mask_HW: Array, geometry: Geometry) -> None:
    """Linear and nearest sampling may differ only where regions meet, be it just outside the frame."""
    variant = geometry.apply(sample_of(mask_HW))
    inside_HW = maximum_filter(variant.mask_HW, 5) == minimum_filter(variant.mask_HW, 5)
    inside_HW[:3], inside_HW[-3:], inside_HW[:, :3], inside_HW[:, -3:] = False, False, False, False
    np.testing.assert_array_equal(variant.image_HW3[inside_HW], picture_of(variant.mask_HW)[inside_HW])


@settings(max_examples=50)
@given(masks, variations, st.integers(0, 2**32))
def test_what_is_drawn_keeps_the_shape_and_is_repeatable(mask_HW: Array, may: Variations, seed: int) -> None:
    square = mask_HW.shape[0] == mask_HW.shape[1]
    once, again = (may.draw(square, np.random.default_rng(seed)) for _ in range(2))
    assert once == again
    variant = once.apply(sample_of(mask_HW))
    assert variant.image_HW3.shape == (*mask_HW.shape, 3)
    assert variant.mask_HW.shape == mask_HW.shape
