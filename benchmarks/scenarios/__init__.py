"""The scenarios, in the order in which they run."""

from typing import Final

from benchmarks.scenarios import footprint, generator, keys, latency, others, overhead, slow_hsm, workers
from benchmarks.workbench import Scenario

SCENARIOS: Final[tuple[Scenario, ...]] = (
    generator.SCENARIO,
    overhead.SCENARIO,
    workers.SCENARIO,
    keys.SCENARIO,
    others.SCENARIO,
    footprint.SCENARIO,
    latency.SCENARIO,
    slow_hsm.SCENARIO,
)
