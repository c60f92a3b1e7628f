"""The answers to a view that is laid in several ways are laid back and averaged."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from cytoloop.model.predict import ask_views
from cytoloop.model.preprocess import lay, lay_back
from cytoloop.params import ModelParams

Array = np.ndarray[Any, Any]
VIEW = np.random.default_rng(0).integers(0, 256, (6, 6, 3), np.uint8)


def test_the_eight_ways_differ_and_are_laid_back() -> None:
    assert len({lay(VIEW, way).tobytes() for way in range(8)}) == 8
    assert all(np.array_equal(lay_back(lay(VIEW, way), way), VIEW) for way in range(8))
    assert {lay(VIEW[:4], way).shape for way in range(4)} == {(4, 6, 3)}


@pytest.mark.parametrize("turns", [1, 4, 8])
def test_a_network_that_looks_at_each_pixel_alone_answers_the_same(turns: int) -> None:
    views = [VIEW, VIEW[::-1], VIEW[:, ::-1]]
    answers = list(ask_views(lambda views: views[..., :1].astype(np.float32) / 255, views, turns))
    for view, answer in zip(views, answers, strict=True):
        np.testing.assert_allclose(answer, view[..., :1] / 255, atol=1e-6)


@pytest.mark.parametrize(("turns", "expected"), [(1, [1, 0, 0, 0]), (4, [0.25] * 4), (8, [0.25] * 4)])
def test_a_network_with_a_favourite_corner_is_averaged(turns: int, expected: list[float]) -> None:
    def upper_left(views: Array) -> Array:
        answers = np.zeros((*views.shape[:3], 1), np.float32)
        answers[:, 0, 0] = 1
        return answers

    (answer,) = ask_views(upper_left, [VIEW], turns)
    assert [float(answer[y, x, 0]) for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1))] == expected


def test_quarter_turns_need_a_square() -> None:
    with pytest.raises(ValidationError, match="turns = 8 needs"):
        ModelParams(num_classes=1, image_width=64, image_height=32, turns=8)
    assert ModelParams(num_classes=1, image_width=64, image_height=32, turns=4).turns == 4
