"""A measurement, from the first connection to the statistics."""

import asyncio
import gc
import math
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
from xksproxy_tools.load.requests import OK, DecryptRequest, EncryptRequest, Request, RequestMaker, RequestResult
from xksproxy_tools.load.signing import SignedPool

_POOL: Final = 2048
_SMALLEST_POOL: Final = 100
"""Enough for the shares of a mix in per cent."""

_CIPHERTEXTS: Final = 512
_POOL_BYTES: Final = 32 * 1024 * 1024
_LARGEST_REQUEST_BYTES: Final = 28 * 1024
_SWITCH_INTERVAL_SECONDS: Final = 0.0001
_START_DELAY_SECONDS: Final = 0.05
_SLACK_SECONDS: Final = 30.0
_SAMPLE_SECONDS: Final = 10.0
"""The time limit for decrypting the sample. Without it, a lost proxy would cost one timeout for each request."""
_LAG_LIMIT_MS: Final = 1.0
_LAG_SHARE: Final = 0.25
_CPU_LIMIT: Final = 0.9
_NOT_ITS_OWN: Final = RequestResult("400 InvalidCiphertextException")

Result = TypeVar("Result")


class BenchError(Exception):
    """The proxy cannot be measured; the text gives the reason."""


class Phase(Enum):
    """The steps of a measurement, as they are shown."""

    PREPARATION = "preparing"
    WARM_UP = "warm-up"
    LOAD = "load"
    SAMPLE = "round trips"


class ProgressListener(Protocol):
    """Is notified about the progress of a measurement."""

    def phase(self, phase: Phase, seconds: float, load: Load | None) -> None:
        """A phase begins, and the previous one has ended. ``seconds`` is its expected duration."""


class Generator(msgspec.Struct, frozen=True):
    """The processor time of the generator, and whether the generator was the bottleneck."""

    cpu_seconds: float
    cpu_microseconds_a_request: float
    cpu_share: float
    """Of one core."""

    limit: str | None
    """Why the generator may have limited the result, or None."""


class Measurement(msgspec.Struct, frozen=True):
    """The results of a phase under load."""

    figures: Figures
    generator: Generator
    connections_made: int
    """Connections that replaced lost ones during the phase."""

    connection_errors: dict[str, int]
    round_trips: int
    """Encrypts of the phase that were decrypted to the right plaintext after it."""

    round_trip_findings: dict[str, int]
    """False responses when Encrypts of the phase were decrypted, by their result."""

    @property
    def wrong(self) -> dict[str, int]:
        """Answers 200 that were false: the false_answers findings."""
        return {item.name: item.count for item in self.figures.wrong} | self.round_trip_findings


class Bench:
    """Connections to a proxy, and requests for it."""

    def __init__(self, plan: Plan, dispatcher: Dispatcher, pool: SignedPool, listener: ProgressListener) -> None:
        self._plan = plan
        self._dispatcher = dispatcher
        self._pool = pool
        self._listener = listener

    async def measure(self, rate: float | None = None, seconds: float | None = None) -> Measurement:
        """Warm up, apply the load, and decrypt a sample. Rate and duration default to those of the plan."""
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
            raise BenchError("no request was sent; increase the rate or the duration")
        figures = figures_of(load.recording, seconds)
        decrypted = await self._decrypt_sample(load.sample)
        return Measurement(
            figures=figures,
            generator=_generator(cpu, figures, closed=plan.closed),
            connections_made=connections.made - made,
            connection_errors=dict(connections.errors - errors),
            round_trips=decrypted[OK],
            round_trip_findings={result.name: count for result, count in decrypted.items() if result.wrong},
        )

    async def _load(self, phase: Phase, rate: float, seconds: float) -> Load:
        plan = self._plan
        due = None if plan.closed else schedule(plan.arrivals, rate, seconds, plan.seed)
        load = Load(self._dispatcher, self._pool, time.monotonic() + (0 if due is None else _START_DELAY_SECONDS))
        self._listener.phase(phase, seconds, load)
        try:
            async with asyncio.timeout(seconds + 2 * plan.give_up_after + _SLACK_SECONDS):
                await (load.run_closed(plan.connections, seconds) if due is None else load.run_open(due))
        except TimeoutError:
            raise BenchError("the load did not end in time; this machine is overloaded") from None
        return load

    async def _decrypt_sample(self, sample: Sequence[tuple[EncryptRequest, bytes]]) -> "Counter[RequestResult]":
        """Decrypt a sample of the Encrypts of the phase, and check the plaintexts.

        Other errors are ignored here: the key may be for encryption only, or the proxy still overloaded.
        """
        self._listener.phase(Phase.SAMPLE, 1, None)
        results = Counter[RequestResult]()
        with suppress(TimeoutError):
            async with asyncio.timeout(_SAMPLE_SECONDS):
                for request, answer in sample:
                    result, _ = await _exchange(self._dispatcher, request.inverse(answer))
                    if result == _NOT_ITS_OWN:
                        result = RequestResult("decrypt: A CIPHERTEXT OF ENCRYPT IS REFUSED", wrong=True)
                    results[result] += 1
        return results


@asynccontextmanager
async def open_bench(
    plan: Plan, destinations: Sequence[Destination], listener: ProgressListener
) -> AsyncIterator[Bench]:
    """Connect, encrypt data for the Decrypts, and sign the requests. All destinations must be of one proxy.

    Raises:
        BenchError: the proxy cannot be reached, or Encrypt fails.
    """
    listener.phase(Phase.PREPARATION, 2, None)
    async with open_dispatcher(destinations[0].target, plan) as dispatcher:
        pool = SignedPool(await _make_requests(plan, destinations, dispatcher))
        fresh = asyncio.create_task(pool.keep_fresh())
        try:
            yield Bench(plan, dispatcher, pool, listener)
        finally:
            fresh.cancel()


@asynccontextmanager
async def open_dispatcher(target: Target, plan: Plan) -> AsyncIterator[Dispatcher]:
    """Open the connections of a plan.

    Raises:
        BenchError: the proxy cannot be reached.
    """
    dispatcher = Dispatcher(target, plan.connections, plan.give_up_after)
    expiry = asyncio.create_task(dispatcher.expire_overdue_requests())
    try:
        await _connect(dispatcher)
        yield dispatcher
    finally:
        expiry.cancel()
        dispatcher.close()


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on uvloop. The thread that shows progress holds the interpreter for 0.1 ms at most."""
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
    needed = _POOL if plan.closed else max(_SMALLEST_POOL, math.ceil(plan.rate * plan.duration))
    count = max(len(destinations), min(_POOL, needed, _POOL_BYTES // (2 * largest + 1024)))
    maker = RequestMaker(plan, destinations)
    decrypts: list[DecryptRequest] = []
    if any(weight for operation, weight in plan.mix.items if operation is Operation.DECRYPT):
        decrypts = await _encrypted(maker.encrypts(max(len(destinations), min(count, _CIPHERTEXTS))), dispatcher)
    return maker.mixed(count, decrypts)


async def _encrypted(requests: Sequence[EncryptRequest], dispatcher: Dispatcher) -> list[DecryptRequest]:
    """Send Encrypts, and return the Decrypts of their ciphertexts."""
    made: list[DecryptRequest] = []
    for request in requests:
        result, body = await _exchange(dispatcher, request)
        if result is not OK:
            raise BenchError(f"there is no ciphertext to decrypt: Encrypt failed with {result}")
        made.append(request.inverse(body))
    return made


async def _exchange(dispatcher: Dispatcher, request: Request) -> tuple[RequestResult, bytes]:
    """Send one request; its result and the body of the response."""
    request.sign()
    try:
        response = await dispatcher.exchange(request)
    except ConnectionError as error:
        return RequestResult(str(error)), b""
    return request.check_response(response.status, response.body), response.body


@contextmanager
def _without_collections() -> Iterator[None]:
    """Disable garbage collection, whose pauses would be measured as latency of the proxy."""
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
        limit = f"the generator submitted 1 % of the requests at least {figures.lag.p99:.1f} ms late"
    return Generator(
        cpu_seconds=cpu_seconds,
        cpu_microseconds_a_request=1e6 * cpu_seconds / figures.requests,
        cpu_share=share,
        limit=limit,
    )
