"""How long something takes is told by the median."""

from types import SimpleNamespace

import pytest

from cytoloop import timing


def test_a_slow_first_call_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    now, called = [0.0], []

    def call() -> None:
        now[0] += 0.002 if called else 5
        called.append(now[0])

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    assert timing.median_ms(call) == pytest.approx(2)
    assert len(called) == timing.REPEATS
