"""What a network costs, and whether that is within the declared limits.

The count of parameters is exact. Peak memory is an estimate by formula, the same on every machine. Latency is
measured, on the machine that searches: two searches with a limit on it may judge a network at the limit
differently.
"""

from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np

from cytoloop.model.predict import ask_views
from cytoloop.model.training import Ask, Training
from cytoloop.params import LimitParams, ModelParams, TrainParams
from cytoloop.timing import median_ms

FLOAT = 4
"""Bytes of a number in a network."""
MIB = 2**20
COMPILED_MIB = 110
"""What a compiled step and the room of its convolutions take beside its numbers: of seven networks 62 to 141 MiB, the
fewer the larger the network (tests/benchmarks/memory_limit.py)."""


@dataclass(frozen=True)
class Cost:
    """What a network costs."""

    parameters: int
    memory_mib: float
    latency_ms: float | None = None
    """None: not measured."""

    def excess(self, limits: LimitParams) -> dict[str, float]:
        """How far each cost that has a limit is beyond it, as a part of it; 0 or below: within."""
        allowed = limits.model_dump(exclude_none=True)
        return {name: float(asdict(self)[name]) / limit - 1 for name, limit in allowed.items()}

    def beyond(self, limits: LimitParams) -> str:
        """Why a network with this cost is not trained; empty when it may be."""
        costs, allowed = asdict(self), limits.model_dump()
        over = [name for name, excess in self.excess(limits).items() if excess > 0]
        return "; ".join(f"{name} {costs[name]:.6g} is beyond {allowed[name]:.6g}" for name in over)


def cost_of(training: Training, batch_size: int, timed: bool) -> Cost:
    """The cost of a network whose training has not begun.

    Args:
        training: fresh.
        batch_size: pictures in a step of it.
        timed: whether to measure the latency, which differs from time to time.
    """
    latency = latency_ms(training.ask, training.model) if timed else None
    return Cost(training.network.count_params(), memory_mib(training.network, batch_size, training.params), latency)


def memory_mib(network: Any, batch_size: int, params: TrainParams) -> float:
    """Peak memory that training takes, MiB, by an estimate; TensorFlow itself, once loaded, is not counted.

    Every operation's answer is kept for the way back, for every picture of the batch, and the largest is there
    once more as a gradient. Of every parameter there are the value, its gradient, two moments (Adam) and, where
    asked for, its average. Measured on the CPU, networks took 0.9 to 1.2 times this (tests/benchmarks/memory_limit.py).
    """
    kept: list[int] = [prod(answer.shape[1:]) for operation in network.operations for answer in _answers(operation)]
    copies = 4 + (params.ema_momentum is not None)
    numbers: int = batch_size * (sum(kept) + max(kept)) + copies * network.count_params()
    return round(FLOAT * numbers / MIB + COMPILED_MIB, 1)


def _answers(operation: Any) -> list[Any]:
    answers = operation.output
    return list(answers) if isinstance(answers, list | tuple) else [answers]


def latency_ms(ask: Ask, model: ModelParams) -> float:
    """Median time of the compiled network's answer to one picture of its own size, ms, here and now."""
    picture = np.zeros((model.image_height, model.image_width, model.image_channels), np.uint8)
    return round(median_ms(lambda: list(ask_views(ask, [picture], model.turns))), 3)
