"""Puts load on several servers in turn, so that disturbances of the machine affect them all."""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Final

from xksproxy_tools.load import measure
from xksproxy_tools.load.load import Load
from xksproxy_tools.load.measure import Bench, Measurement, Phase
from xksproxy_tools.load.plan import Plan, Weighted, parse_mix
from xksproxy_tools.load.requests import Request
from xksproxy_tools.load.signing import SignedPool

from benchmarks.results import Sample
from benchmarks.servers import Server
from xksproxy.spec.uri import Operation

ENCRYPTS: Final = Plan(
    closed=True,
    connections=32,
    duration=4,
    warm_up=1,
    mix=parse_mix("encrypt"),
    plaintext_bytes=Weighted(((236, 1),)),
    aad_bytes=Weighted(((160, 1),)),
)
"""As many Encrypts as possible, each of a data key, with AAD and integrity value."""

_UNCHECKED: Final = 256


@dataclass(frozen=True, slots=True)
class Variant:
    """A server with a name, and its load."""

    name: str
    server: Server
    plan: Plan = ENCRYPTS
    checked: bool = True
    """Whether responses are checked. If not, the server gets Encrypts, and may return any JSON."""


class Meter:
    """Measures the processor time of the server during the load phase only."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._before = 0.0
        self.seconds = 0.0

    def phase(self, phase: Phase, _seconds: float, _load: Load | None) -> None:
        """Called by the bench."""
        if phase is Phase.LOAD:
            self._before = self._server.cpu_seconds()
        elif phase is Phase.SAMPLE:
            self.seconds = self._server.cpu_seconds() - self._before


def measure_in_turn(
    variants: Sequence[Variant],
    rounds: int,
    report_sample: Callable[[Sample], None],
    before: Callable[[str], None] = lambda _: None,
) -> list[Sample]:
    """Measure all variants in each round. ``before`` is called with the name of the next variant."""

    async def main() -> list[Sample]:
        samples = []
        async with AsyncExitStack() as stack:
            opened = [(item, *await _opened(stack, item)) for item in variants]
            for number in range(rounds):
                for item, bench, meter in opened:
                    before(item.name)
                    measurement = await bench.measure()
                    samples.append(sample_of(item.name, number, measurement, meter.seconds))
                    report_sample(samples[-1])
        return samples

    return measure.run(main())


def measure_once(variant: Variant, number: int, report_sample: Callable[[Sample], None]) -> tuple[Sample, Measurement]:
    """Measure one variant once. ``number`` is that of the round."""

    async def main() -> tuple[Sample, Measurement]:
        async with AsyncExitStack() as stack:
            bench, meter = await _opened(stack, variant)
            measurement = await bench.measure()
            return sample_of(variant.name, number, measurement, meter.seconds), measurement

    found = measure.run(main())
    report_sample(found[0])
    return found


async def _opened(stack: AsyncExitStack, variant: Variant) -> tuple[Bench, Meter]:
    meter = Meter(variant.server)
    plan, destinations = variant.plan, variant.server.destinations
    if variant.checked:
        return await stack.enter_async_context(measure.open_bench(plan, destinations, meter)), meter
    dispatcher = await stack.enter_async_context(measure.open_dispatcher(destinations[0].target, plan))
    return Bench(plan, dispatcher, SignedPool(_unchecked(variant)), meter), meter


def _unchecked(variant: Variant) -> list[Request]:
    """Encrypts like those of :data:`ENCRYPTS` with any JSON as response."""
    random = Random(1)  # noqa: S311 - plaintexts of a measurement
    destination = variant.server.destinations[0]
    return [
        Request(
            destination,
            Operation.ENCRYPT,
            {
                "plaintext": random.randbytes(236),
                "additionalAuthenticatedData": random.randbytes(160),
                "encryptionAlgorithm": "AES_GCM",
                "ciphertextDataIntegrityValueAlgorithm": "SHA_256",
            },
            Any,
        )
        for _ in range(_UNCHECKED)
    ]


def sample_of(variant: str, number: int, measurement: Measurement, server_seconds: float) -> Sample:
    """The sample of a measurement."""
    figures = measurement.figures
    return Sample(
        variant=variant,
        round=number,
        throughput=figures.throughput,
        requests=figures.requests,
        failed=figures.requests - figures.ok,
        late=figures.late,
        p50=figures.latency.p50,
        p99=figures.latency.p99,
        p99_9=figures.latency.p99_9,
        maximum=figures.latency.maximum,
        server_cpu=1e6 * server_seconds / figures.requests,
        generator_cpu=measurement.generator.cpu_microseconds_a_request,
        generator_limit=measurement.generator.limit,
        wrong=measurement.wrong,
        failures={outcome.name: outcome.count for outcome in figures.outcomes},
    )


def shortened(plan: Plan, share: float) -> Plan:
    """The same load for a share of the time, at least half a second."""
    return replace(plan, duration=max(0.5, plan.duration * share), warm_up=min(plan.warm_up, plan.duration * share))
