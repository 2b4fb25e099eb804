"""One stub proxy for a run, and an examination that may use all it offers."""

from collections.abc import Iterator

import pytest
from stub_proxy.behaviour import Behaviour
from stub_proxy.server import StubProxy
from xksproxy_tools.conformance.subject import Keys, Limits, Outage, Subject

from xksproxy.client.target import Target

UNHURRIED = Limits(timeout_seconds=20.0, answer_milliseconds=20_000.0, freshness_seconds=20.0, timed_requests=3)
"""A loaded machine does not make the stub wrong."""


@pytest.fixture(scope="session")
def running_stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubProxy]:
    """The stub that all tests share."""
    with StubProxy(tmp_path_factory.mktemp("stub")) as made:
        yield made


@pytest.fixture
def stub(running_stub: StubProxy) -> Iterator[StubProxy]:
    """The stub, which is right again afterwards."""
    yield running_stub
    running_stub.behave(Behaviour())
    crashes = running_stub.world.crashes[:]
    running_stub.world.crashes.clear()
    assert not crashes, "the stub, or a defect of it, is broken in a way that was not meant"


@pytest.fixture
def subject(stub: StubProxy) -> Iterator[Subject]:
    """All that a check can ask for is there."""
    first, other = stub.world.stores
    files = stub.certificates

    def target(prefix: str, credential: object) -> Target:
        return Target(
            "localhost", stub.port, prefix, "us-east-1", credential, files.authority, files.of("client"), None
        )

    keys = Keys(
        "usable",
        encrypt_only="encrypt-only",
        decrypt_only="decrypt-only",
        impotent="impotent",
        disabled="disabled",
    )
    with Subject(
        target(first.prefix, first.credentials[0]),
        keys,
        second_credential=first.credentials[1],
        other_store=target(other.prefix, other.credentials[0]),
        wrong_client=(files.of("wrong-client"), None),
        outage=Outage(("touch", str(first.outage)), ("rm", "-f", str(first.outage))),
        limits=UNHURRIED,
    ) as made:
        yield made
