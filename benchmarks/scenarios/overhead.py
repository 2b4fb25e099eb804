"""(a) The overhead of the proxy over a baseline."""

from collections.abc import Sequence
from typing import Final

from benchmarks import servers
from benchmarks.results import Chart, Finding, Goal, Sample, median_ratio, server_cpu, throughput, usual_table
from benchmarks.servers import Setting
from benchmarks.side_by_side import ENCRYPTS, measure_in_turn
from benchmarks.workbench import Scenario, Workbench

_GOAL: Final = 0.7
_BASELINE, _NATIVE, _PROXY = "baseline", "baseline with native calls", "xksproxy"


def _run(workbench: Workbench) -> Finding:
    setting = Setting()
    with (
        servers.baseline(workbench.tokens, workbench.new_directory(), setting) as baseline,
        servers.baseline(workbench.tokens, workbench.new_directory(), setting, "native") as native,
        servers.proxy(workbench.tokens, workbench.new_directory(), setting) as proxy,
    ):
        variants = [
            workbench.variant(_BASELINE, baseline, ENCRYPTS, checked=False),
            workbench.variant(_NATIVE, native, ENCRYPTS, checked=False),
            workbench.variant(_PROXY, proxy, ENCRYPTS),
        ]
        samples = measure_in_turn(variants, workbench.rounds(6), workbench.report_sample)
    goals = [_goal(samples, name) for name in (_BASELINE, _NATIVE)]
    names = (_BASELINE, _NATIVE, _PROXY)
    chart = Chart(
        "overhead", "Encrypts a second, one worker", bars=[(name, throughput(samples, name)) for name in names]
    )
    return Finding([usual_table(samples, names)], goals, [chart], samples)


def _goal(samples: Sequence[Sample], baseline_name: str) -> Goal:
    ratio = median_ratio(samples, _PROXY, baseline_name)
    cpu_ratio = server_cpu(samples, baseline_name) / server_cpu(samples, _PROXY)
    return Goal(
        f"at least 0.7 of the throughput of the {baseline_name}",
        f"{ratio:.2f} of its throughput; by processor time of the server {cpu_ratio:.2f}",
        reached=ratio >= _GOAL,
    )


SCENARIO: Final = Scenario(
    "overhead",
    "The proxy and a baseline",
    "The baseline has the same aiohttp, uvloop, gunicorn and TLS, a thread for each session, and for each request one"
    " GCM encryption and one decryption, and nothing else: no SigV4, no JSON, no key store, no log. Its threads call"
    " the module from Python; in the second baseline they are those of the proxy, which call it without the"
    " interpreter. The proxy does Encrypts with SigV4, audit log, metrics and integrity value, which needs a"
    " decryption. Each has one worker and 32 connections that always have a request in progress. They are measured in"
    " turn.",
    _run,
)
