"""The reasons why an HSM that serves is DEGRADED, as text."""

import time
from collections.abc import Iterator
from typing import Final

from xksproxy.hsm.instance.connector import Connector
from xksproxy.hsm.instance.session_pool import SessionPool

_SLOW_CONNECT_SECONDS: Final = 1.0


def degraded_reasons(configured: int, pool: SessionPool, connector: Connector, *, failed: bool) -> Iterator[str]:
    """Yield the reasons. ``configured`` is the number of sessions; ``failed``: a call failed since the last success."""
    sessions = f"{pool.free} of {configured} sessions"
    if pool.stuck:
        yield f"sessions stuck in calls that do not return: {pool.stuck}"
    if connector.shortage:
        why = "; ".join((connector.shortage, *connector.announced))
        yield f"{sessions}: the token gives no more ({why})"
    elif slow := slow_attempt(connector):
        yield f"{sessions}: {slow}"
    elif connector.failure is not None:
        yield f"{sessions}: {connector.failure}"
    if failed:
        yield "a call has failed since the last success"


def slow_attempt(connector: Connector) -> str:
    """The attempt to connect, if it has taken at least 1 s; otherwise empty."""
    attempt = connector.attempt
    if attempt is None or time.monotonic() - attempt.since < _SLOW_CONNECT_SECONDS:
        return ""
    return attempt.describe()


def too_slow_to_verify(call_seconds: float, deadline_seconds: float) -> str:
    """A message if two calls take longer than the deadline of a request; otherwise empty."""
    if 2 * call_seconds <= deadline_seconds:
        return ""
    return (
        f"a call takes {1000 * call_seconds:.0f} ms, and two exceed the deadline of {1000 * deadline_seconds:.0f} ms:"
        " Encrypt requests with an integrity value cannot succeed"
    )
