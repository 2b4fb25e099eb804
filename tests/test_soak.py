"""A cut of the soak; `./dev soak` runs it whole."""

import asyncio
from pathlib import Path

import pytest
from soak import problems, report, soak

DEADLINE_MS = 2500
"""Half of it goes by before a call that hangs is made good by the other HSM: most hangs stand longer than that."""


@pytest.mark.slow
def test_faults_and_killed_workers_cost_no_answer(tmp_path: Path) -> None:
    outcome, before, after = asyncio.run(soak(tmp_path, seconds=15, rate=25, seed=7, deadline_ms=DEADLINE_MS))

    assert problems(outcome, before, after, latency_bound_ms=None) == [], report(outcome, before, after)
    assert outcome.kills > 0
    assert sum(outcome.faults.values()) > 1
