"""(j) The proxy's parser of HTTP beside another one."""

from typing import Final

from benchmarks.framing import compare
from benchmarks.results import Finding, Goal, Table
from benchmarks.workbench import Scenario, Workbench

_INPUTS: Final = 100_000
_SEED: Final = 1


def _run(workbench: Workbench) -> Finding:
    counts, faults = compare(round(_INPUTS * workbench.share), _SEED)
    rows = [(name, f"{number:,}") for name, number in counts.most_common()]
    goal = Goal("no request that h11 does not see", f"{len(faults)} of {counts.total():,} inputs", reached=not faults)
    return Finding([Table(("", "inputs"), rows)], [goal], notes=[f"`{stream!r}`" for stream in faults[:5]])


SCENARIO: Final = Scenario(
    "framing",
    "Reading HTTP",
    "Streams of requests, changed where parsers are known to differ, are read by the proxy's parser and by h11. That"
    " the proxy refuses what h11 reads is no fault; the reverse would be.",
    _run,
)
