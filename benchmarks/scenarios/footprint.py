"""(e) Memory and start-up with a thousand keys."""

from statistics import median
from typing import Final

from benchmarks import processes, servers
from benchmarks.results import Finding, Goal, Sample, Table
from benchmarks.servers import Setting
from benchmarks.side_by_side import ENCRYPTS, measure_once
from benchmarks.tokens import key_id
from benchmarks.workbench import Scenario, Workbench

_KEYS: Final = 1000
_IN_USE: Final = 16
_MEMORY_MIB: Final = 90.0
_READY_SECONDS: Final = 2.0


def _run(workbench: Workbench) -> Finding:
    labels = tuple(key_id(number) for number in range(_KEYS))
    setting = Setting(keys_on_token=_KEYS, key_ids=labels[:_IN_USE], exposed=labels, workers=2)
    samples: list[Sample] = []
    starts, before, after = [], [], []
    for number in range(workbench.rounds(3)):
        with servers.proxy(workbench.tokens, workbench.new_directory(), setting) as server:
            starts.append(server.started_in)
            before += [processes.memory(pid) for pid in server.workers()]
            samples.append(
                measure_once(workbench.variant("1,000 keys", server, ENCRYPTS), number, workbench.report_sample)[0]
            )
            after += [processes.memory(pid) for pid in server.workers()]
    rows = [
        ("ready after, s", f"{median(starts):.2f}", f"{max(starts):.2f}"),
        *(
            (f"{kind} MiB a worker, {when}", f"{median(sizes):.0f}", f"{max(sizes):.0f}")
            for when, memories in (("just ready", before), ("after load", after))
            for kind, sizes in (
                ("resident", [item.resident for item in memories]),
                ("proportional", [item.proportional for item in memories]),
            )
        ),
    ]
    most = max(item.resident for item in after)
    goals = [
        Goal("at most 90 MB a worker", f"{most:.0f} MiB resident at most, after load", reached=most <= _MEMORY_MIB),
        Goal("none failed", f"{sum(sample.failed for sample in samples)}", reached=not any(s.failed for s in samples)),
        Goal("ready within 2 s", f"{median(starts):.2f} s, the median", reached=median(starts) <= _READY_SECONDS),
    ]
    return Finding([Table(("", "median", "maximum"), rows)], goals, samples=samples)


SCENARIO: Final = Scenario(
    "footprint",
    "Memory and start-up",
    "A token with 1,000 keys, each of which stands in the configuration, and two workers. Ready is when `/readyz` says"
    " so, counted from the start of the command. Proportional memory divides what the processes share.",
    _run,
)
