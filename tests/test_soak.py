"""A cut of the soak; `./dev soak` runs it whole."""

import asyncio
from pathlib import Path

import pytest
from soak import problems, report, soak


@pytest.mark.slow
def test_faults_and_killed_workers_cost_no_answer(tmp_path: Path) -> None:
    outcome, before, after = asyncio.run(soak(tmp_path, seconds=20, rate=40, seed=7))

    assert problems(outcome, before, after, slack=5) == [], report(outcome, before, after)
    assert outcome.kills > 0
    assert sum(outcome.faults.values()) > 2
