"""Fixtures of the tests over a real socket."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from command_support import spawn
from server_support import Caller, OwnProxy, Wire, roaming_caller
from support import Proxy
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.client.xks import XksClient

__all__ = ["spawn"]


@pytest.fixture
def caller(client: XksClient, request_metadata: dict[str, str]) -> Caller:
    """Encrypt and Decrypt in the key store `dev`."""
    return Caller(client, request_metadata)


@pytest.fixture
def roaming(proxy: Proxy, request_metadata: dict[str, str]) -> Iterator[Caller]:
    """The same over ten connections in turn: enough of them to find every worker."""
    with roaming_caller(proxy, request_metadata) as made:
        yield made


@pytest.fixture
def wire(proxy: Proxy) -> Iterator[Wire]:
    """One TLS connection to the proxy."""
    with Wire(proxy) as made:
        yield made


@pytest.fixture
def own_proxy(environment: DevEnvironment, tmp_path: Path) -> Iterator[OwnProxy]:
    """Starts proxies that the test may stop, break and reload."""
    with OwnProxy(environment, tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def punctual(environment: DevEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy with the bounds of time of production, for tests of these bounds alone."""
    with OwnProxy(environment, tmp_path_factory.mktemp("punctual")) as made:
        yield made.start(server="workers = 1", deadline_ms=None)


@pytest.fixture(scope="session")
def refusing_proxy(environment: DevEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """For tests that replace a key which it has used: its HSM stays DEGRADED."""
    with OwnProxy(environment, tmp_path_factory.mktemp("refusing")) as made:
        yield made.start()


@pytest.fixture
def refusing(refusing_proxy: Proxy, request_metadata: dict[str, str]) -> Iterator[Caller]:
    """Encrypt and Decrypt there, over ten connections in turn."""
    with roaming_caller(refusing_proxy, request_metadata) as made:
        yield made
