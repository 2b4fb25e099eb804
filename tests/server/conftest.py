"""Fixtures of the tests over a real socket."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from server_support import Caller, OwnProxy, RoamingClient, Wire, wait_for_every_worker
from support import Proxy

from xksproxy.client.xks import XksClient
from xksproxy.devkit.environment import DevEnvironment


@pytest.fixture(scope="session", autouse=True)
def every_worker_serves(proxy: Proxy) -> None:
    """Each worker has logged in before the first test: SoftHSM2 fails other calls while a process does."""
    wait_for_every_worker(proxy)


@pytest.fixture
def caller(client: XksClient, request_metadata: dict[str, str]) -> Caller:
    """Encrypt and Decrypt in the key store `dev`."""
    return Caller(client, request_metadata)


@pytest.fixture
def roaming(proxy: Proxy, request_metadata: dict[str, str]) -> Iterator[Caller]:
    """The same over ten connections in turn: enough of them to find every worker."""
    with ExitStack() as stack:
        clients = [stack.enter_context(XksClient(proxy.endpoint(), proxy.context())) for _ in range(10)]
        yield Caller(RoamingClient(clients), request_metadata)


@pytest.fixture
def wire(proxy: Proxy) -> Iterator[Wire]:
    """One TLS connection to the proxy."""
    with Wire(proxy) as made:
        yield made


@pytest.fixture
def own_proxy(environment: DevEnvironment, tmp_path: Path) -> Iterator[OwnProxy]:
    """Starts proxies that the test may stop, break and reload."""
    made = OwnProxy(environment, tmp_path)
    yield made
    made.end()
