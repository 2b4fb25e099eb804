from itertools import pairwise
from statistics import fmean, stdev

import pytest
from xksproxy_tools.load.arrivals import schedule
from xksproxy_tools.load.plan import Arrivals


def test_fixed_arrivals_are_equally_far_apart() -> None:
    due = schedule(Arrivals.FIXED, 200, 2, seed=1)

    assert list(due[:3]) == [0.0, 0.005, 0.01]
    assert len(due) == 400
    assert due[-1] < 2


def test_poisson_arrivals_have_the_rate_and_the_spread_of_chance() -> None:
    due = schedule(Arrivals.POISSON, 200, 50, seed=1)
    gaps = [later - earlier for earlier, later in pairwise(due)]

    assert len(due) == pytest.approx(10_000, rel=0.05)
    assert fmean(gaps) == pytest.approx(1 / 200, rel=0.05)
    assert stdev(gaps) == pytest.approx(1 / 200, rel=0.05)
    assert list(due) == sorted(due)


def test_the_same_seed_gives_the_same_arrivals() -> None:
    assert schedule(Arrivals.POISSON, 100, 1, seed=7) == schedule(Arrivals.POISSON, 100, 1, seed=7)
    assert schedule(Arrivals.POISSON, 100, 1, seed=7) != schedule(Arrivals.POISSON, 100, 1, seed=8)
