"""Searches for the highest rate with a bounded latency."""

from typing import Final

import msgspec

from xksproxy_tools.load.measure import Bench, Measurement
from xksproxy_tools.load.plan import MAXIMUM_RATE

_GOOD: Final = 0.999
_PRECISION: Final = 1.05
_MAXIMUM_TRIALS: Final = 16


class Trial(msgspec.Struct, frozen=True):
    """One rate, and the reason why it is too high; None if it passed."""

    rate: float
    measurement: Measurement
    refusal: str | None


class Search(msgspec.Struct, frozen=True):
    """The trials in order, and the highest rate that passed; 0 if none did."""

    p99_bound_ms: float
    rate: float
    trials: list[Trial]


async def find_maximum(bench: Bench, start_rate: float, seconds: float, p99_bound_ms: float) -> Search:
    """Double the rate until a trial of ``seconds`` fails, or halve it until one passes; then halve the gap until 5 %.

    A trial passes if its p99 is within the bound, the wait for a connection included, and 99.9 % of its requests were
    answered well. There are at most 16.
    """
    trials: list[Trial] = []
    passed, failed, rate = 0.0, float("inf"), start_rate
    while len(trials) < _MAXIMUM_TRIALS and failed > passed * _PRECISION and 1 <= rate <= MAXIMUM_RATE:
        measurement = await bench.measure(rate, seconds)
        trials.append(Trial(rate, measurement, _refusal(measurement, p99_bound_ms)))
        if trials[-1].refusal is None:
            passed = rate
        else:
            failed = rate
        rate = 2 * passed if failed == float("inf") else (passed + failed) / 2 if passed else failed / 2
    return Search(p99_bound_ms, passed, trials)


def _refusal(measurement: Measurement, p99_bound_ms: float) -> str | None:
    figures = measurement.figures
    if figures.latency.p99 > p99_bound_ms:
        return f"p99 is {figures.latency.p99:.1f} ms"
    if figures.ok < _GOOD * figures.requests:
        return f"{figures.requests - figures.ok} of {figures.requests} requests failed"
    return None
