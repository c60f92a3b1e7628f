"""What a network costs: the count is exact, memory is an estimate, and a limit is told with both numbers."""

import keras
import pytest

from cytoloop.params import LimitParams, TrainParams
from cytoloop.tuning.limits import COMPILED_MIB, Cost, memory_mib

PARAMS = TrainParams(ema_momentum=None)


@pytest.fixture
def network() -> keras.Model:
    """A picture of 64 x 64 x 1 to 64 x 64 x 2: 20 parameters."""
    picture = keras.Input((64, 64, 1))
    return keras.Model(picture, keras.layers.Conv2D(2, 3, padding="same")(picture))


def numbers_mib(network: keras.Model, batch_size: int, params: TrainParams) -> float:
    return memory_mib(network, batch_size, params) - COMPILED_MIB


def test_memory_is_what_the_formula_says(network: keras.Model) -> None:
    activations = 64 * 64 * (1 + 2) + 64 * 64 * 2  # all answers, and the largest once more
    expected = 4 * (8 * activations + 4 * 20) / 2**20
    assert memory_mib(network, 8, PARAMS) == pytest.approx(COMPILED_MIB + expected, abs=0.05)


def test_memory_grows_with_the_batch_and_the_average(network: keras.Model) -> None:
    assert numbers_mib(network, 64, PARAMS) == pytest.approx(2 * numbers_mib(network, 32, PARAMS), rel=0.05)
    numbers = keras.Input((64,))
    large = keras.Model(numbers, keras.layers.Dense(8192)(numbers))
    averaged = PARAMS.model_copy(update={"ema_momentum": 0.9})
    assert numbers_mib(large, 1, averaged) / numbers_mib(large, 1, PARAMS) == pytest.approx(5 / 4, rel=0.02)


def test_a_cost_is_beyond_a_limit_above_it_and_not_at_it() -> None:
    cost = Cost(parameters=300, memory_mib=10.0, latency_ms=4.0)
    assert cost.beyond(LimitParams(parameters=300, memory_mib=10, latency_ms=4)) == ""
    assert cost.beyond(LimitParams()) == ""
    assert cost.beyond(LimitParams(parameters=200, latency_ms=5)) == "parameters 300 is beyond 200"
    assert cost.excess(LimitParams(parameters=200, memory_mib=20)) == {"parameters": 0.5, "memory_mib": -0.5}
