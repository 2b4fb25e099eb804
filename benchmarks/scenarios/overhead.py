"""(a) The overhead of the proxy over a baseline."""

from typing import Final

from benchmarks import servers
from benchmarks.results import Chart, Finding, Goal, median_ratio, server_cpu, throughput, usual_table
from benchmarks.servers import Setting
from benchmarks.side_by_side import ENCRYPTS, measure_in_turn
from benchmarks.workbench import Scenario, Workbench

_GOAL: Final = 0.8
_BASELINE, _PROXY = "baseline", "xksproxy"


def _run(workbench: Workbench) -> Finding:
    setting = Setting()
    with (
        servers.baseline(workbench.tokens, workbench.new_directory(), setting) as baseline,
        servers.proxy(workbench.tokens, workbench.new_directory(), setting) as proxy,
    ):
        variants = [
            workbench.variant(_BASELINE, baseline, ENCRYPTS, checked=False),
            workbench.variant(_PROXY, proxy, ENCRYPTS),
        ]
        samples = measure_in_turn(variants, workbench.rounds(6), workbench.report_sample)
    ratio = median_ratio(samples, _PROXY, _BASELINE)
    cpu_ratio = server_cpu(samples, _BASELINE) / server_cpu(samples, _PROXY)
    goal = Goal(
        f"at least {_GOAL} of the throughput of the {_BASELINE}",
        f"{ratio:.2f} of its throughput; by processor time of the server {cpu_ratio:.2f}",
        reached=ratio >= _GOAL,
    )
    names = (_BASELINE, _PROXY)
    chart = Chart(
        "overhead", "Encrypts a second, one worker", bars=[(name, throughput(samples, name)) for name in names]
    )
    return Finding([usual_table(samples, names)], [goal], [chart], samples)


SCENARIO: Final = Scenario(
    "overhead",
    "The proxy and a baseline",
    "The baseline has the HTTP, TLS, uvloop and gunicorn of the proxy, its call queue and its native sessions. For each"
    " request it encrypts, hashes the output and decrypts it in one native call, and does nothing else: no SigV4, no"
    " JSON, no key store, no log. The proxy does Encrypts with SigV4, audit log, metrics and integrity value. Each has"
    " one worker and 32 connections that always have a request in progress. They are measured in turn.",
    _run,
)
