"""One measurement from the first connection to the figures."""

import asyncio
import gc
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from enum import Enum
from typing import Any, Final, Protocol, TypeVar

import msgspec
import uvloop

from xksproxy.client.target import Target
from xksproxy.spec.uri import Operation
from xksproxy_tools.load.arrivals import schedule
from xksproxy_tools.load.connections import connect_failure
from xksproxy_tools.load.dispatch import Dispatcher
from xksproxy_tools.load.figures import Figures, figures_of
from xksproxy_tools.load.load import Load
from xksproxy_tools.load.plan import Destination, Plan
from xksproxy_tools.load.requests import OK, DecryptRequest, EncryptRequest, Request, RequestMaker, Verdict
from xksproxy_tools.load.signing import SignedPool

_POOL: Final = 2048
_CIPHERTEXTS: Final = 512
_POOL_BYTES: Final = 32 * 1024 * 1024
_LARGEST_REQUEST_BYTES: Final = 28 * 1024
_SWITCH_INTERVAL_SECONDS: Final = 0.0001
_START_DELAY_SECONDS: Final = 0.05
_SLACK_SECONDS: Final = 30.0
_SAMPLE_SECONDS: Final = 10.0
"""What cannot be decrypted in this time is left: a proxy that went away would cost each of them its time-out."""
_LAG_LIMIT_MS: Final = 1.0
_LAG_SHARE: Final = 0.25
_CPU_LIMIT: Final = 0.9
_NOT_ITS_OWN: Final = Verdict("400 InvalidCiphertextException")

Result = TypeVar("Result")


class BenchError(Exception):
    """The proxy cannot be measured; the text says why."""


class Phase(Enum):
    """The steps of a measurement, as they are shown."""

    PREPARATION = "preparing"
    WARM_UP = "warm-up"
    LOAD = "load"
    SAMPLE = "round trips"


class Watcher(Protocol):
    """Who is told how far it has come."""

    def phase(self, phase: Phase, seconds: float, load: Load | None) -> None:
        """A phase begins, and the last one has ended; ``seconds`` is how long it should take."""


class Generator(msgspec.Struct, frozen=True):
    """What the generator itself took, and whether that was the limit."""

    cpu_seconds: float
    cpu_microseconds_a_request: float
    cpu_share: float
    """Of one core."""

    limit: str | None
    """Why the figures may be the generator's and not the proxy's; None where they are the proxy's."""


class Measurement(msgspec.Struct, frozen=True):
    """A phase under load."""

    figures: Figures
    generator: Generator
    connections_made: int
    """During the phase, in place of lost ones."""

    connection_errors: dict[str, int]
    round_trips: int
    """Encrypts of the phase that were decrypted after it, and gave their plaintext back."""

    round_trip_findings: dict[str, int]
    """Those that did not give their plaintext back, by what came instead."""

    @property
    def wrong(self) -> dict[str, int]:
        """Answers 200 that were false: the gravest findings."""
        return {item.name: item.count for item in self.figures.wrong} | self.round_trip_findings


class Bench:
    """A proxy with connections to it and requests for it."""

    def __init__(self, plan: Plan, dispatcher: Dispatcher, pool: SignedPool, watcher: Watcher) -> None:
        self._plan = plan
        self._dispatcher = dispatcher
        self._pool = pool
        self._watcher = watcher

    async def measure(self, rate: float | None = None, seconds: float | None = None) -> Measurement:
        """Warm up, load, and look what Encrypts are worth; by default as the plan says."""
        plan = self._plan
        rate, seconds = rate or plan.rate, seconds or plan.duration
        if plan.warm_up:
            await self._load(Phase.WARM_UP, rate, min(plan.warm_up, seconds))
        connections = self._dispatcher.connections
        made, errors = connections.made, connections.errors.copy()
        cpu = time.process_time()
        with _without_collections():
            load = await self._load(Phase.LOAD, rate, seconds)
        cpu = time.process_time() - cpu
        if not len(load.recording):
            raise BenchError("no request was sent in so short a time; raise the rate or the duration")
        figures = figures_of(load.recording, seconds)
        decrypted = await self._decrypt_sample(load.sample)
        return Measurement(
            figures=figures,
            generator=_generator(cpu, figures, closed=plan.closed),
            connections_made=connections.made - made,
            connection_errors=dict(connections.errors - errors),
            round_trips=decrypted[OK],
            round_trip_findings={verdict.name: count for verdict, count in decrypted.items() if verdict.wrong},
        )

    async def _load(self, phase: Phase, rate: float, seconds: float) -> Load:
        plan = self._plan
        due = None if plan.closed else schedule(plan.arrivals, rate, seconds, plan.seed)
        load = Load(self._dispatcher, self._pool, time.monotonic() + (0 if due is None else _START_DELAY_SECONDS))
        self._watcher.phase(phase, seconds, load)
        try:
            async with asyncio.timeout(seconds + 2 * plan.give_up_after + _SLACK_SECONDS):
                await (load.run_closed(plan.connections, seconds) if due is None else load.run_open(due))
        except TimeoutError:
            raise BenchError("the load does not end: this machine has no time for it") from None
        return load

    async def _decrypt_sample(self, sample: Sequence[tuple[EncryptRequest, bytes]]) -> "Counter[Verdict]":
        """What Encrypts of the phase answered must decrypt to their plaintexts.

        Other errors are no finding here: a key may be for encryption only, a proxy still be out of breath or gone.
        """
        self._watcher.phase(Phase.SAMPLE, 1, None)
        verdicts = Counter[Verdict]()
        with suppress(TimeoutError):
            async with asyncio.timeout(_SAMPLE_SECONDS):
                for request, answer in sample:
                    verdict, _ = await _asked(self._dispatcher, request.inverse(answer))
                    if verdict == _NOT_ITS_OWN:
                        verdict = Verdict("decrypt: A CIPHERTEXT THAT ENCRYPT GAVE IS REFUSED", wrong=True)
                    verdicts[verdict] += 1
        return verdicts


@asynccontextmanager
async def opened(plan: Plan, destinations: Sequence[Destination], watcher: Watcher) -> AsyncIterator[Bench]:
    """Connect, encrypt what will be decrypted, and sign. All destinations are of one proxy.

    Raises:
        BenchError: the proxy cannot be reached, or does not answer as it should.
    """
    watcher.phase(Phase.PREPARATION, 2, None)
    async with connected(destinations[0].target, plan) as dispatcher:
        pool = SignedPool(await _make_requests(plan, destinations, dispatcher))
        fresh = asyncio.create_task(pool.keep_fresh())
        try:
            yield Bench(plan, dispatcher, pool, watcher)
        finally:
            fresh.cancel()


@asynccontextmanager
async def connected(target: Target, plan: Plan) -> AsyncIterator[Dispatcher]:
    """Connections, as many as the plan says, and who hands requests to them.

    Raises:
        BenchError: the proxy cannot be reached.
    """
    dispatcher = Dispatcher(target, plan.connections, plan.give_up_after)
    time_keeper = asyncio.create_task(dispatcher.keep_time())
    try:
        await _connect(dispatcher)
        yield dispatcher
    finally:
        time_keeper.cancel()
        dispatcher.close()


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run on uvloop. The thread that shows progress gets the interpreter for a tenth of a millisecond at a time."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)
    finally:
        sys.setswitchinterval(interval)


async def _connect(dispatcher: Dispatcher) -> None:
    try:
        await dispatcher.connections.open()
    except* OSError as group:
        error = group.exceptions[0]
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise BenchError(connect_failure(error) if isinstance(error, OSError) else str(error)) from None


async def _make_requests(plan: Plan, destinations: Sequence[Destination], dispatcher: Dispatcher) -> list[Request]:
    largest = max(size for sizes in (plan.plaintext_bytes, plan.aad_bytes) for size, weight in sizes.items if weight)
    count = max(len(destinations), min(_POOL, _POOL_BYTES // (2 * largest + 1024)))
    maker = RequestMaker(plan, destinations)
    decrypts: list[DecryptRequest] = []
    if any(weight for operation, weight in plan.mix.items if operation is Operation.DECRYPT):
        decrypts = await _encrypted(maker.encrypts(max(len(destinations), min(count, _CIPHERTEXTS))), dispatcher)
    return maker.mixed(count, decrypts)


async def _encrypted(requests: Sequence[EncryptRequest], dispatcher: Dispatcher) -> list[DecryptRequest]:
    """The Decrypts of what they are encrypted to."""
    made: list[DecryptRequest] = []
    for request in requests:
        verdict, body = await _asked(dispatcher, request)
        if verdict is not OK:
            raise BenchError(f"nothing to decrypt: Encrypt meets with {verdict}")
        made.append(request.inverse(body))
    return made


async def _asked(dispatcher: Dispatcher, request: Request) -> tuple[Verdict, bytes]:
    """One request by itself: what becomes of it, and the body of the answer."""
    request.sign()
    try:
        response = await dispatcher.ask(request)
    except ConnectionError as error:
        return Verdict(str(error)), b""
    return request.judge(response.status, response.body), response.body


@contextmanager
def _without_collections() -> Iterator[None]:
    """No garbage collection meanwhile: its pauses would count as the proxy's."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def _generator(cpu_seconds: float, figures: Figures, *, closed: bool) -> Generator:
    share = cpu_seconds / figures.seconds
    limit = None
    if share > _CPU_LIMIT:
        limit = f"the generator used {share:.0%} of a core"
    elif not closed and figures.lag.p99 > max(_LAG_LIMIT_MS, _LAG_SHARE * figures.latency.p99):
        limit = f"the generator came {figures.lag.p99:.1f} ms too late to a hundredth of the requests"
    return Generator(
        cpu_seconds=cpu_seconds,
        cpu_microseconds_a_request=1e6 * cpu_seconds / figures.requests,
        cpu_share=share,
        limit=limit,
    )
