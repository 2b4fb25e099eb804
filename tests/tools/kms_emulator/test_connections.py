"""Connecting and disconnecting: transitions, their failures, and a restart in the middle."""

import asyncio
from pathlib import Path

import pytest
from emulator_support import VPC, Harness
from xksproxy_tools.kms_emulator.cloudhsm import ClusterOutcome
from xksproxy_tools.kms_emulator.durations import Durations
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome, ProxyFailure


async def test_connecting_answers_at_once_and_takes_its_time(kms: Harness) -> None:
    store_id = await kms.create_store()
    kms.gate.hold()

    assert await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id) == {}

    assert await kms.state(store_id) == "CONNECTING"
    await kms.settle()
    assert await kms.state(store_id) == "CONNECTING"
    kms.gate.release()
    await kms.settle()
    assert await kms.state(store_id) == "CONNECTED"


async def test_one_health_request_proves_a_connection_under_the_id_of_the_request(kms: Harness) -> None:
    store_id = await kms.create_store()
    kms.proxy.calls.clear()

    await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
    connection = kms.database.key_store(store_id).connection
    await kms.settle()
    await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.settle()

    ((api, _, metadata),) = kms.proxy.calls
    assert (api, metadata.kms_operation) == ("health", "ConnectCustomKeyStore")
    assert metadata.kms_request_id == connection.request_id


async def test_disconnecting_asks_the_proxy_nothing(kms: Harness) -> None:
    store_id = await kms.connected_store()
    kms.proxy.calls.clear()
    kms.gate.hold()

    assert await kms.call("DisconnectCustomKeyStore", CustomKeyStoreId=store_id) == {}

    assert await kms.state(store_id) == "DISCONNECTING"
    kms.gate.release()
    await kms.settle()
    assert await kms.state(store_id) == "DISCONNECTED"
    assert kms.proxy.calls == []


async def test_a_connection_under_way_can_be_given_up(kms: Harness) -> None:
    store_id = await kms.create_store()
    kms.gate.hold()
    await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.settle()

    await kms.call("DisconnectCustomKeyStore", CustomKeyStoreId=store_id)
    kms.gate.release()
    await kms.settle()

    assert await kms.state(store_id) == "DISCONNECTED"


async def test_a_transition_that_is_replaced_waits_no_longer(kms: Harness) -> None:
    store_id = await kms.create_store()
    kms.gate.hold()
    await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.settle()

    await kms.call("DisconnectCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.settle()

    assert (len(kms.gate.waits), kms.gate.waiting) == (2, 1)


async def test_a_connection_that_fails_while_it_is_given_up_does_not_show(
    kms: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail_when_cancelled(*_: object) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ProxyFailure(Outcome.CONNECTION_LOST, "cancelled") from None

    store_id = await kms.create_store()
    monkeypatch.setattr(kms.proxy, "health", fail_when_cancelled)
    await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.settle()
    kms.gate.hold()

    await kms.call("DisconnectCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.settle()

    assert await kms.state(store_id) == "DISCONNECTING"


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome.AUTHENTICATION_FAILED, "INVALID_CREDENTIALS"),
        (Outcome.ACCESS_DENIED, "XKS_PROXY_ACCESS_DENIED"),
        (Outcome.INVALID_URI_PATH, "XKS_PROXY_INVALID_CONFIGURATION"),
        (Outcome.MALFORMED, "XKS_PROXY_INVALID_RESPONSE"),
        (Outcome.NO_TLS, "XKS_PROXY_INVALID_TLS_CONFIGURATION"),
        (Outcome.NO_TCP, "XKS_PROXY_NOT_REACHABLE"),
        (Outcome.ALL_UNAVAILABLE, "XKS_PROXY_NOT_REACHABLE"),
        (Outcome.TIMED_OUT, "XKS_PROXY_TIMED_OUT"),
    ],
)
async def test_a_failure_shows_its_code_until_the_store_is_disconnected(
    kms: Harness, outcome: Outcome, code: str
) -> None:
    store_id = await kms.create_store()
    kms.gate.hold()
    kms.proxy.failure = outcome

    await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.settle()

    entry = await kms.entry(store_id)
    assert (entry["ConnectionState"], entry["ConnectionErrorCode"]) == ("FAILED", code)
    await kms.call("DisconnectCustomKeyStore", CustomKeyStoreId=store_id)
    assert "ConnectionErrorCode" not in await kms.entry(store_id)
    kms.gate.release()
    kms.proxy.failure = None
    await kms.settle()
    await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.settle()
    assert await kms.state(store_id) == "CONNECTED"


async def test_an_outage_leaves_a_connected_store_connected(kms: Harness) -> None:
    store_id = await kms.connected_store()
    kms.proxy.calls.clear()
    kms.proxy.failure = Outcome.NO_TCP

    await kms.emulator.health_checks.check()

    ((_, _, metadata),) = kms.proxy.calls
    assert metadata.kms_operation == "KmsHealthCheck"
    assert await kms.state(store_id) == "CONNECTED"


async def test_only_connected_stores_are_watched(kms: Harness) -> None:
    await kms.create_store()
    kms.proxy.calls.clear()

    await kms.emulator.health_checks.check()

    assert kms.proxy.calls == []


async def test_a_fault_of_the_emulator_is_an_internal_error(kms: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("a fault")

    store_id = await kms.create_store()
    monkeypatch.setattr(kms.proxy, "health", fail)

    await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.settle()

    assert (await kms.entry(store_id))["ConnectionErrorCode"] == "INTERNAL_ERROR"


async def test_a_vpc_endpoint_service_that_is_gone_is_not_found(tmp_path: Path) -> None:
    first = Harness(tmp_path / "state")
    store_id = await first.create_store(**VPC)
    await first.close()
    kms = Harness(tmp_path / "state", services=["com.amazonaws.vpce.eu-west-1.vpce-svc-another"])

    await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.settle()

    assert (await kms.entry(store_id))["ConnectionErrorCode"] == "XKS_VPC_ENDPOINT_SERVICE_NOT_FOUND"
    assert kms.proxy.calls == []
    await kms.close()


@pytest.mark.parametrize(("state", "end"), [("CONNECTING", "CONNECTED"), ("DISCONNECTING", "DISCONNECTED")])
async def test_a_transition_goes_on_after_a_restart_for_what_is_left_of_its_time(
    tmp_path: Path, state: str, end: str
) -> None:
    times = Durations(connect=300.0, disconnect=120.0)
    first = Harness(tmp_path / "state", durations=times)
    store_id = await first.connected_store()
    await first.bring(store_id, state)
    total = first.gate.waits[-1]
    await first.close()
    first.clock.now += 100
    kms = Harness(tmp_path / "state", durations=times, clock=first.clock)
    assert await kms.state(store_id) == state

    await kms.emulator.connections.resume()
    await kms.settle()

    assert kms.gate.waits == [total - 100]
    assert await kms.state(store_id) == end
    await kms.close()


async def test_a_connection_that_was_to_be_there_long_ago_is_proven_first(tmp_path: Path) -> None:
    first = Harness(tmp_path / "state")
    store_id = await first.connected_store()
    await first.bring(store_id, "CONNECTING")
    await first.close()
    first.clock.now += 1_000_000
    kms = Harness(tmp_path / "state", clock=first.clock)
    kms.proxy.failure = Outcome.NO_TCP

    await kms.emulator.connections.resume()
    await kms.settle()

    assert await kms.state(store_id) == "FAILED"
    await kms.close()


async def test_what_is_connected_stays_so_over_a_restart(tmp_path: Path) -> None:
    first = Harness(tmp_path / "state")
    store_id = await first.connected_store()
    await first.close()
    kms = Harness(tmp_path / "state")

    await kms.emulator.connections.resume()
    await kms.settle()

    assert await kms.state(store_id) == "CONNECTED"
    assert kms.proxy.calls == []
    await kms.close()


@pytest.mark.parametrize("outcome", [None, ClusterOutcome.NO_ACTIVE_HSM])
async def test_a_cluster_is_logged_in_to_again_before_a_restart_is_over(
    tmp_path: Path, outcome: ClusterOutcome | None
) -> None:
    first = Harness(tmp_path / "state")
    store_id = await first.connected_cluster_store()
    await first.close()
    kms = Harness(tmp_path / "state")
    kms.cluster.failure = outcome

    await kms.emulator.connections.resume()

    assert kms.cluster.connected == (outcome is None)
    assert await kms.state(store_id) == "CONNECTED"
    await kms.close()
