"""(a) What this proxy adds to the parts that it is made of."""

from collections.abc import Sequence
from typing import Final

from benchmarks import servers
from benchmarks.results import Chart, Finding, Goal, Sample, median_ratio, server_cpu, throughput, usual_table
from benchmarks.servers import Setting
from benchmarks.side_by_side import ENCRYPTS, measure_in_turn
from benchmarks.workbench import Scenario, Workbench

_GOAL: Final = 0.7
_FLOOR, _CROSSING, _PROXY = "floor", "floor with the crossing", "xksproxy"


def _run(workbench: Workbench) -> Finding:
    setting = Setting()
    with (
        servers.floor(workbench.tokens, workbench.new_directory(), setting) as floor,
        servers.floor(workbench.tokens, workbench.new_directory(), setting, "crossing") as crossing,
        servers.proxy(workbench.tokens, workbench.new_directory(), setting) as proxy,
    ):
        variants = [
            workbench.variant(_FLOOR, floor, ENCRYPTS, checked=False),
            workbench.variant(_CROSSING, crossing, ENCRYPTS, checked=False),
            workbench.variant(_PROXY, proxy, ENCRYPTS),
        ]
        samples = measure_in_turn(variants, workbench.rounds(6), workbench.report_sample)
    goals = [_goal(samples, floor_name) for floor_name in (_FLOOR, _CROSSING)]
    names = (_FLOOR, _CROSSING, _PROXY)
    chart = Chart(
        "overhead", "Encrypts a second, one worker", bars=[(name, throughput(samples, name)) for name in names]
    )
    return Finding([usual_table(samples, names)], goals, [chart], samples)


def _goal(samples: Sequence[Sample], floor_name: str) -> Goal:
    ratio = median_ratio(samples, _PROXY, floor_name)
    cpu_ratio = server_cpu(samples, floor_name) / server_cpu(samples, _PROXY)
    return Goal(
        f"at least 0.7 of the throughput of the {floor_name}",
        f"{ratio:.2f} of its throughput; by processor time of the server {cpu_ratio:.2f}",
        reached=ratio >= _GOAL,
    )


SCENARIO: Final = Scenario(
    "overhead",
    "The whole proxy against the bare floor",
    "The floor is the same aiohttp, uvloop, gunicorn and TLS, with a thread for each session, and for each request"
    " one GCM encryption and one decryption, and nothing else: no SigV4, no JSON, no key store, no log. Its threads"
    " call the module from Python, as the parts come; in the second floor they are the proxy's own, which call it"
    " without the interpreter. The proxy does Encrypts with SigV4, audit log, metrics and integrity value (which is"
    " the decryption). One worker each, 32 connections that always have a request under way, in turn.",
    _run,
)
