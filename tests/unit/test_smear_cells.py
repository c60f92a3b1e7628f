from pathlib import Path

import numpy as np
import pytest

import cytoloop.smear
from cytoloop.smear import read_protocol
from cytoloop.smear.cells import SUPERSAMPLING, draw_cell
from cytoloop.smear.protocol import CELLS

PROTOCOL = read_protocol(Path(cytoloop.smear.__file__).with_name("protocol.yaml"))
WHITE_CELLS = ("eosinophil", "basophil", "neutrophil", "lymphocyte", "monocyte")


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_as_large_as_the_protocol_says(name: str) -> None:
    low, high = PROTOCOL.diameters_um[name]
    slack = 0.3 if name == "platelet_clump" else 0.05  # a clump's outline is that of its platelets
    for seed in range(4):
        cell = draw_cell(PROTOCOL, name, np.random.default_rng(seed))
        um = PROTOCOL.pixel_um / SUPERSAMPLING
        by_area = 2 * np.sqrt(cell.layers_HW4[..., 3].sum() / np.pi) * um
        assert by_area == pytest.approx(cell.diameter_um, rel=0.01)
        assert low * (1 - slack) <= cell.diameter_um <= high * (1 + slack)


@pytest.mark.parametrize("name", CELLS)
def test_edges_are_feathered(name: str) -> None:
    patch = draw_cell(PROTOCOL, name, np.random.default_rng(1)).turned(0.3, mirrored=False)
    coverage = patch[..., 3]
    assert coverage.max() > 0.97
    assert ((coverage > 0.1) & (coverage < 0.9)).sum() > np.sqrt((coverage >= 0.5).sum())
    assert coverage[[0, -1]].max() < 0.02
    assert coverage[:, [0, -1]].max() < 0.02


@pytest.mark.parametrize("name", CELLS)
def test_the_same_stream_draws_the_same_cell(name: str) -> None:
    once, again = (draw_cell(PROTOCOL, name, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(once.layers_HW4, again.layers_HW4)
    other = draw_cell(PROTOCOL, name, np.random.default_rng(6))
    assert once.layers_HW4.tobytes() != other.layers_HW4.tobytes()


def test_turning_moves_light_and_loses_none() -> None:
    cell = draw_cell(PROTOCOL, "neutrophil", np.random.default_rng(2))
    still = cell.turned(0.0, mirrored=False)
    for angle, mirrored in ((0.7, False), (2.1, True), (4.0, False)):
        turned = cell.turned(angle, mirrored)
        np.testing.assert_allclose(turned.sum((0, 1)), still.sum((0, 1)), rtol=0.01)


def test_a_half_turn_is_a_half_turn() -> None:
    cell = draw_cell(PROTOCOL, "monocyte", np.random.default_rng(3))
    np.testing.assert_allclose(cell.turned(np.pi, False), cell.turned(0.0, False)[::-1, ::-1], atol=1e-3)


def test_a_mirrored_cell_is_mirrored() -> None:
    cell = draw_cell(PROTOCOL, "eosinophil", np.random.default_rng(3))
    np.testing.assert_allclose(cell.turned(0.0, True), cell.turned(0.0, False)[:, ::-1], atol=1e-3)


def test_white_cells_have_a_nucleus_that_absorbs_more_than_a_red_cell() -> None:
    red = draw_cell(PROTOCOL, "healthy_rbc", np.random.default_rng(0)).layers_HW4[..., 1].max()
    for name in WHITE_CELLS:
        green = draw_cell(PROTOCOL, name, np.random.default_rng(0)).layers_HW4[..., 1]
        assert np.percentile(green, 90) > 2 * red


def test_an_infected_cell_holds_a_parasite_and_a_healthy_one_does_not() -> None:
    for seed in range(6):
        infected = draw_cell(PROTOCOL, "infected_rbc", np.random.default_rng(seed)).layers_HW4
        healthy = draw_cell(PROTOCOL, "healthy_rbc", np.random.default_rng(seed)).layers_HW4
        assert infected[..., 0].max() > 0.4 > healthy[..., 0].max()


def test_a_healthy_red_cell_is_paler_in_the_middle() -> None:
    for seed in range(6):
        green = draw_cell(PROTOCOL, "healthy_rbc", np.random.default_rng(seed)).layers_HW4[..., 1]
        y, x = (side // 2 for side in green.shape)
        assert green[y - 3 : y + 4, x - 3 : x + 4].mean() < 0.9 * np.percentile(green, 90)
