"""The time of responses and the age of the health status (R-TIME-*, R-HLTH-6)."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from xksproxy.spec.limits import MAXIMUM_AAD_BYTES, MINIMUM_PLAINTEXT_BYTES
from xksproxy.spec.uri import Operation
from xksproxy_tools.conformance.check import Check, Level
from xksproxy_tools.conformance.expectations import expect_success
from xksproxy_tools.conformance.messages import decryption, encryption, metadata_only
from xksproxy_tools.conformance.outcome import CheckFailed, CheckNotMade, NotApplicable, expect, required
from xksproxy_tools.conformance.subject import Outage, Subject

_CONNECTIONS: Final = 10
_POLLS: Final = 60
_COMMAND_SECONDS: Final = 60.0


# --- 250 ms


def _answers_in_time(subject: Subject) -> str:
    """The largest messages that every proxy must support, over a persistent connection."""
    aad = bytes(MAXIMUM_AAD_BYTES)
    sealed = subject.seal(bytes(MINIMUM_PLAINTEXT_BYTES), aad)
    messages = {
        Operation.GET_HEALTH_STATUS: metadata_only(Operation.GET_HEALTH_STATUS),
        Operation.GET_KEY_METADATA: metadata_only(Operation.GET_KEY_METADATA),
        Operation.ENCRYPT: encryption(bytes(MINIMUM_PLAINTEXT_BYTES), aad, cdiv=True),
        Operation.DECRYPT: decryption(sealed),
    }
    notes = []
    for operation, message in messages.items():
        taken = [_timed(subject, operation, message) for _ in range(subject.limits.timed_requests)]
        notes.append(f"{operation.value} {_summary(taken)}")
    return ", ".join(notes)


def _timed(subject: Subject, operation: Operation, message: dict[str, object]) -> float:
    response = subject.call(operation, message)
    expect_success(response, operation.value)
    return _within_the_limit(subject, response.milliseconds, operation.value)


def _within_the_limit(subject: Subject, milliseconds: float, what: str) -> float:
    limit = subject.limits.answer_milliseconds
    expect(milliseconds <= limit, f"{what} within {limit:g} ms", f"{milliseconds:.1f} ms")
    return milliseconds


def _summary(taken: list[float]) -> str:
    ordered = sorted(taken)
    return f"median {ordered[len(ordered) // 2]:.1f} ms, highest {ordered[-1]:.1f} ms"


def _new_connections_in_time(subject: Subject) -> str:
    operation = Operation.GET_HEALTH_STATUS
    taken = []
    for _ in range(_CONNECTIONS):
        request = subject.sign(subject.request(subject.path(operation), metadata_only(operation))).encode()
        started = time.perf_counter()
        with subject.connect() as wire:
            expect_success(wire.exchange(request), operation.value)
            milliseconds = 1000 * (time.perf_counter() - started)
        taken.append(_within_the_limit(subject, milliseconds, "TCP, TLS and GetHealthStatus"))
    return _summary(taken)


# --- Freshness


def _health_is_fresh(subject: Subject) -> str:
    outage = required(subject.outage, "--outage-command with --recovery-command")
    if _seconds_until(lambda: _all_active(subject), subject.limits.freshness_seconds) is None:
        raise NotApplicable("an EKM instance is not ACTIVE before the outage")
    with _during(outage):
        noticed = _seconds_until(lambda: not _all_active(subject), subject.limits.freshness_seconds)
    if noticed is None:
        limit = f"{subject.limits.freshness_seconds:g} s"
        raise CheckFailed(f"another health status within {limit} of the outage", "a 200 with every instance ACTIVE")
    recovered = _seconds_until(lambda: _all_active(subject), subject.limits.freshness_seconds)
    after = "not recovered within the same time" if recovered is None else f"recovered after {recovered:.1f} s"
    return f"noticed after {noticed:.1f} s, {after}"


def _all_active(subject: Subject) -> bool:
    response = subject.call(Operation.GET_HEALTH_STATUS, metadata_only(Operation.GET_HEALTH_STATUS))
    if response.status != 200:  # noqa: PLR2004
        return False
    instances = expect_success(response).get("ekmFleetDetails")
    expect(isinstance(instances, list), "a list of ekmFleetDetails", type(instances).__name__)
    return all(isinstance(one, dict) and one.get("healthStatus") == "ACTIVE" for one in instances or ())


@contextmanager
def _during(outage: Outage) -> Iterator[None]:
    _run(outage.begin)
    try:
        yield
    finally:
        _run(outage.end)


def _run(command: tuple[str, ...]) -> None:
    try:
        done = subprocess.run(command, check=False, timeout=_COMMAND_SECONDS, stdin=subprocess.DEVNULL)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CheckNotMade(f"the command {command[0]} cannot be run: {error}") from None
    if done.returncode:
        raise CheckNotMade(f"the command {command[0]} ended with {done.returncode}")


def _seconds_until(condition: Callable[[], bool], limit: float) -> float | None:
    """The seconds until a condition was true, polled at least once a second; None if it did not become true."""
    started = time.monotonic()
    while True:
        if condition():
            return time.monotonic() - started
        if time.monotonic() - started >= limit:
            return None
        time.sleep(min(1.0, limit / _POLLS))


CHECKS: Final[tuple[Check, ...]] = (
    Check("time-answers", ("R-TIME-1",), Level.SHOULD, "Every response takes at most 250 ms", _answers_in_time),
    Check(
        "time-new-connections",
        ("R-TIME-1",),
        Level.SHOULD,
        "A response on a new connection takes at most 250 ms",
        _new_connections_in_time,
    ),
    Check(
        "time-health-freshness",
        ("R-HLTH-6",),
        Level.MUST,
        "A health status is at most 60 s old",
        _health_is_fresh,
    ),
)
