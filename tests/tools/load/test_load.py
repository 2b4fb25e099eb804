import time
from array import array
from typing import Any

import pytest
from xksproxy_tools.load.dispatch import Exchange
from xksproxy_tools.load.http_connection import Response
from xksproxy_tools.load.load import Load
from xksproxy_tools.load.plan import Destination
from xksproxy_tools.load.requests import Request
from xksproxy_tools.load.signing import SignedPool

from xksproxy.client.target import Target
from xksproxy.sigv4.keyring import generate_credential
from xksproxy.spec.uri import Operation

_DESTINATION = Destination(Target("proxy.example", 443, "", "eu-west-1", generate_credential()), "")


class _AnsweredAtOnce:
    """A dispatcher whose proxy takes no time."""

    outstanding = 0

    def submit(self, exchange: Exchange) -> None:
        exchange.sent = time.monotonic()
        exchange.on_end(exchange, exchange.sent, Response(200, b"{}", closes=False), "")


def _load(start: float) -> Load:
    pool = SignedPool([Request(_DESTINATION, Operation.GET_HEALTH_STATUS, {}, dict)])
    dispatcher: Any = _AnsweredAtOnce()
    return Load(dispatcher, pool, start)


async def test_the_delay_of_the_generator_counts_as_latency_and_as_lag() -> None:
    load = _load(time.monotonic() - 0.5)

    await load.run_open(array("d", [0.0, 0.1]))

    recording = load.recording
    assert list(recording.scheduled) == pytest.approx([0.0, 0.1])
    assert min(recording.dispatched) >= 0.5
    assert min(recording.ended) >= 0.5
    assert recording.failed == 0


async def test_no_request_is_sent_before_it_is_due() -> None:
    load = _load(time.monotonic())

    await load.run_open(array("d", [0.0, 0.03, 0.06]))

    assert len(load.recording) == 3
    assert all(sent >= due for sent, due in zip(load.recording.sent, load.recording.scheduled, strict=True))
