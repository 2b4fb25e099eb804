"""The due times of the requests of an open loop. They are fixed before the first request is sent."""

from array import array
from random import Random

from xksproxy_tools.load.plan import Arrivals


def schedule(arrivals: Arrivals, rate: float, seconds: float, seed: int) -> "array[float]":
    """Seconds after the start at which requests are due, in order; ``rate`` a second, all before ``seconds``."""
    if arrivals is Arrivals.FIXED:
        return array("d", (number / rate for number in range(round(rate * seconds))))
    random = Random(seed)  # noqa: S311 - a reproducible schedule
    times, due = array("d"), random.expovariate(rate)
    while due < seconds:
        times.append(due)
        due += random.expovariate(rate)
    return times
