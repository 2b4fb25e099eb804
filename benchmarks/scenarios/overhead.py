"""(a) What this proxy adds to the parts that it is made of."""

from typing import Final

from benchmarks import servers
from benchmarks.results import Chart, Finding, Goal, median_ratio, server_cpu, throughput, usual_table
from benchmarks.servers import Setting
from benchmarks.side_by_side import ENCRYPTS, interleave
from benchmarks.workbench import Scenario, Workbench

_GOAL: Final = 0.7
_FLOOR, _PROXY = "floor", "xksproxy"


def _run(workbench: Workbench) -> Finding:
    setting = Setting()
    with (
        servers.floor(workbench.tokens, workbench.home(), setting) as floor,
        servers.proxy(workbench.tokens, workbench.home(), setting) as proxy,
    ):
        contenders = [
            workbench.contender(_FLOOR, floor, ENCRYPTS, checked=False),
            workbench.contender(_PROXY, proxy, ENCRYPTS),
        ]
        samples = interleave(contenders, workbench.rounds(6), workbench.say)
    ratio = median_ratio(samples, _PROXY, _FLOOR)
    cpu_ratio = server_cpu(samples, _FLOOR) / server_cpu(samples, _PROXY)
    goal = Goal(
        "at least 0.7 of the floor's throughput",
        f"{ratio:.2f} of its throughput; by processor time of the server {cpu_ratio:.2f}",
        reached=ratio >= _GOAL,
    )
    variants = (_FLOOR, _PROXY)
    chart = Chart(
        "overhead", "Encrypts a second, one worker", bars=[(name, throughput(samples, name)) for name in variants]
    )
    return Finding([usual_table(samples, variants)], [goal], [chart], samples)


SCENARIO: Final = Scenario(
    "overhead",
    "The whole proxy against the bare floor",
    "The floor is the same aiohttp, uvloop, gunicorn and TLS, with the same session threads, and for each request one"
    " GCM encryption and one decryption, and nothing else: no SigV4, no JSON, no key store, no log. The proxy does"
    " Encrypts with SigV4, audit log, metrics and integrity value (which is the decryption). One worker each, 32"
    " connections that always have a request under way, in turn.",
    _run,
)
