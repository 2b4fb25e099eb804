"""(b) One worker and two."""

from typing import Final

from benchmarks import servers
from benchmarks.results import Chart, Finding, median_ratio, throughput, usual_table
from benchmarks.servers import Setting
from benchmarks.side_by_side import ENCRYPTS, measure_in_turn
from benchmarks.workbench import Scenario, Workbench

_ONE, _TWO = "1 worker", "2 workers"


def _run(workbench: Workbench) -> Finding:
    with (
        servers.proxy(workbench.tokens, workbench.new_directory(), Setting(workers=1)) as one,
        servers.proxy(workbench.tokens, workbench.new_directory(), Setting(workers=2)) as two,
    ):
        variants = [workbench.variant(_ONE, one, ENCRYPTS), workbench.variant(_TWO, two, ENCRYPTS)]
        samples = measure_in_turn(variants, workbench.rounds(4), workbench.report_sample)
    ratio = median_ratio(samples, _TWO, _ONE)
    return Finding(
        [usual_table(samples, (_ONE, _TWO))],
        charts=[
            Chart("workers", "Encrypts a second", bars=[(name, throughput(samples, name)) for name in (_ONE, _TWO)])
        ],
        samples=samples,
        notes=[f"Two workers did {ratio:.2f} times the work of one."],
    )


SCENARIO: Final = Scenario(
    "workers",
    "One worker and two",
    "Encrypts as above. The load generator needs one core, so that on two cores the second worker shares one"
    " with it; on a larger machine it would have its own.",
    _run,
)
