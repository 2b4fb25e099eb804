"""Nothing is lost when a proxy stops or replaces its workers: `python -m benchmarks.drains` in short."""

import re
from functools import partial

import pytest
import uvloop
from server_support import OwnProxy
from support import REGION, Proxy

from benchmarks.drains import Load, Tally, replace_workers, stop, under_load
from benchmarks.servers import Server
from xksproxy.client.target import Target

pytestmark = pytest.mark.slow


def load(proxy: Proxy, *, kept: bool) -> Load:
    target = Target("localhost", proxy.port, "/dev", REGION, proxy.credential)
    return Load(target, proxy.context(), 40, kept=kept)


def with_sessions(text: str) -> str:
    return re.sub(r"(?m)^sessions = .*\n", "", text).replace("[[hsm]]\n", "[[hsm]]\nsessions = 3\n")


def assert_nothing_lost(tally: Tally) -> None:
    assert tally.lost == {}
    assert tally.answered > 0


@pytest.mark.parametrize("kept", [False, True])
def test_no_request_is_lost_when_the_proxy_stops(own_proxy: OwnProxy, *, kept: bool) -> None:
    proxy = own_proxy.start()

    tally = uvloop.run(under_load(load(proxy, kept=kept), partial(stop, proxy.process.pid)))

    assert_nothing_lost(tally)
    assert tally.refused > 0, "it never stopped to listen"


@pytest.mark.parametrize("kept", [False, True])
def test_no_request_is_lost_when_workers_are_replaced(own_proxy: OwnProxy, *, kept: bool) -> None:
    proxy = own_proxy.start(edit=with_sessions)
    replace = partial(replace_workers, Server((), proxy.process.pid), proxy.environment.config)

    tally = uvloop.run(under_load(load(proxy, kept=kept), replace))

    assert_nothing_lost(tally)
    assert tally.refused == 0
