"""What is drawn: as often and as far as the params say, from (seed, key) alone."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from cytoloop.images.augment import Sample, Variant
from cytoloop.images.warps import Displacement, Lens
from cytoloop.params import AugmentParams
from cytoloop.variation import chance, draw, strengthened, vary

NEVER: dict[str, Any] = {"horizontal_flip": None, "vertical_flip": None, "quarter_turns": None}


def drawn(times: int = 400, size: tuple[int, int] = (60, 60), **params: Any) -> list[Variant]:
    told = AugmentParams.model_validate(params)
    return [draw(told, *size, chance(0, "picture", number)) for number in range(times)]


def test_by_default_all_symmetries_of_a_square_are_alike_frequent() -> None:
    counts = Counter(tuple(variant.matrix_22.ravel().tolist()) for variant in drawn(1600))
    assert len(counts) == 8
    assert min(counts.values()) > 150
    assert max(counts.values()) < 250


def test_a_rectangle_keeps_its_sides() -> None:
    matrices = {tuple(variant.matrix_22.ravel().tolist()) for variant in drawn(size=(60, 80))}
    assert matrices == {(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1)}


def test_an_operation_happens_as_often_as_it_should() -> None:
    variants = drawn(1000, **NEVER, barrel={"probability": 0.2})
    assert 160 < sum(variant.changes for variant in variants) < 240


def test_rotations_stay_within_the_largest() -> None:
    variants = drawn(**NEVER, rotation={"probability": 1, "degrees": 20})
    degrees = [np.degrees(np.arctan2(v.matrix_22[1, 0], v.matrix_22[0, 0])) for v in variants]
    assert -20 <= min(degrees) < -19
    assert 19 < max(degrees) <= 20


def test_sizes_stay_between_the_factor_and_one() -> None:
    sizes = [1 / v.matrix_22[0, 0] for v in drawn(**NEVER, shrink={"probability": 1, "factor": 0.7})]
    assert 0.7 <= min(sizes) < 0.71
    assert 0.99 < max(sizes) <= 1


def test_slopes_are_drawn_for_both_axes() -> None:
    slopes = np.array([v.matrix_22[[0, 1], [1, 0]] for v in drawn(**NEVER, shear={"probability": 1, "slope": 0.1})])
    assert (slopes.min(axis=0) < -0.095).all()
    assert (slopes.max(axis=0) > 0.095).all()
    assert np.abs(slopes).max() <= 0.1


@pytest.mark.parametrize(("name", "sign"), [("barrel", 1), ("pincushion", -1)])
def test_discs_are_where_and_as_strong_as_they_may(name: str, sign: int) -> None:
    section = {"probability": 1, "amount": 0.4, "radius": 0.25, "centers": [[0.2, 0.4], [1, 0]]}
    lenses = [v.bends[0] for v in drawn(size=(61, 101), **NEVER, **{name: section})]
    assert all(isinstance(lens, Lens) for lens in lenses)
    assert {(lens.x, lens.y) for lens in lenses} == {(20, 24), (100, 0)}
    assert {lens.radius for lens in lenses} == {0.25 * 61}
    strengths = [sign * lens.amount for lens in lenses]
    assert 0 <= min(strengths) < 0.01
    assert 0.39 < max(strengths) <= 0.4


@pytest.mark.parametrize("name", ["elastic", "distortion"])
def test_displacements_are_in_fractions_of_the_longer_side(name: str) -> None:
    section = {"probability": 1, "displacement": 0.02, "sigma": 0.05}
    (variant,) = drawn(1, (100, 200), **NEVER, **{name: section})
    (bend,) = variant.bends
    assert isinstance(bend, Displacement)
    assert bend.sigma == 10
    assert 3.9 < np.abs(bend.coefficients_2NM).max() <= 4


def test_the_last_to_happen_is_the_first_to_be_asked() -> None:
    """Params say barrel, pincushion, distortion, elastic."""
    names = ("barrel", "pincushion", "distortion", "elastic")
    (variant,) = drawn(1, **NEVER, **{name: {"probability": 1} for name in names})
    elastic, distortion, pincushion, barrel = variant.bends
    assert elastic.length < distortion.length
    assert isinstance(pincushion, Lens)
    assert isinstance(barrel, Lens)
    assert pincushion.amount < 0 < barrel.amount


def test_light_is_drawn_from_nothing_to_the_most() -> None:
    light = {"sharpening": {"probability": 1, "amount": 2}, "brightening": {"probability": 1, "gain": 0.5, "offset": 8}}
    variants = drawn(**NEVER, **light)
    assert 1.95 < max(v.sharpening for v in variants) <= 2
    assert 0.5 <= min(v.gain for v in variants) < 0.51
    assert all(v.offset == pytest.approx(16 * (1 - v.gain)) for v in variants)


def test_chance_depends_on_each_part_of_the_key() -> None:
    keys = [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a1"), (0, "a", 1, "epoch")]
    assert len({chance(*key).integers(2**62) for key in keys}) == len(keys)
    assert chance(0, "a", 1).integers(2**62) == chance(0, "a", 1).integers(2**62)


def test_a_sure_variant_is_not_the_original() -> None:
    image_HWC = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    sample = Sample(image_HWC, image_HWC[..., 0])
    params = AugmentParams.model_validate({**NEVER, "horizontal_flip": {"probability": 0.05}})
    for surely in (True, False):
        variants = [vary(sample, params, chance(0, number), surely=surely) for number in range(100)]
        assert any(np.array_equal(variant.mask_HW, sample.mask_HW) for variant in variants) != surely


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({**NEVER}, "no operation may happen"),
        ({**NEVER, "copies": 0, "online": True}, "no operation may happen"),
        ({"elastic": {"displacement": 0.02, "sigma": 0.02}}, "could fold"),
        ({"distortion": {"displacement": 0.1}}, "at most 0.846 sigma = 0.06599"),
        ({"brightening": {"gain": 1, "offset": 0}}, "changes nothing"),
        ({"rotation": {"degrees": 0}}, "greater than 0"),
        ({"rotation": {"angle": 3}}, "Extra inputs"),
        ({"barrel": {"centers": []}}, "at least 1 item"),
        ({"border": "wrap"}, "'reflect' or 'constant'"),
        ({"flips": True}, "Extra inputs"),
    ],
)
def test_what_cannot_be_meant_is_refused(told: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        AugmentParams.model_validate(told)


def test_without_copies_nothing_needs_to_happen() -> None:
    assert AugmentParams.model_validate({**NEVER, "copies": 0}).operations == {}
    assert list(AugmentParams().operations) == ["horizontal_flip", "vertical_flip", "quarter_turns"]


def test_strength_multiplies_probabilities_and_largest_changes_as_far_as_allowed() -> None:
    told = {
        "horizontal_flip": {"probability": 0.3},
        "quarter_turns": None,
        "rotation": {"probability": 0.4, "degrees": 30},
        "shrink": {"probability": 0.8, "factor": 0.8},
        "brightening": {"probability": 0.2, "gain": 0.9, "offset": -10},
        "elastic": {},
    }
    weak, strong = (strengthened(AugmentParams.model_validate(told | {"strength": s})) for s in (0.5, 2))
    assert (weak.horizontal_flip.probability, strong.horizontal_flip.probability) == (0.15, 0.5)
    assert (weak.rotation.probability, strong.rotation.probability) == (0.2, 0.8)
    assert (weak.rotation.degrees, strong.rotation.degrees) == (15, 60)
    assert (weak.shrink.factor, strong.shrink.factor) == pytest.approx((0.9, 0.6))
    assert strong.shrink.probability == 1
    assert (strong.brightening.gain, strong.brightening.offset) == pytest.approx((0.8, -20))
    assert strong.elastic.displacement == pytest.approx(0.846 * strong.elastic.sigma)
    assert strong.quarter_turns is None
    assert strengthened(AugmentParams()) == AugmentParams()


def test_strength_0_changes_nothing() -> None:
    assert not any(variant.changes for variant in drawn(strength=0, copies=0, online=True, rotation={}, brightening={}))
    with pytest.raises(ValidationError, match="strength = 0 would make copies that are no variants"):
        AugmentParams(strength=0, copies=1)
