"""The scenarios, in the order in which they run."""

from typing import Final

from benchmarks.scenarios import (
    drains,
    footprint,
    framing,
    generator,
    growth,
    keys,
    latency,
    mixed,
    others,
    overhead,
    slow_hsm,
    strangers,
    workers,
)
from benchmarks.workbench import Scenario

SCENARIOS: Final[tuple[Scenario, ...]] = (
    generator.SCENARIO,
    overhead.SCENARIO,
    workers.SCENARIO,
    keys.SCENARIO,
    others.SCENARIO,
    mixed.SCENARIO,
    footprint.SCENARIO,
    latency.SCENARIO,
    slow_hsm.SCENARIO,
    framing.SCENARIO,
    strangers.SCENARIO,
    drains.SCENARIO,
    growth.SCENARIO,
)
