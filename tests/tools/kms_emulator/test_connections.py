"""Connecting and disconnecting: transitions, their failures, and a restart in the middle."""

import asyncio
from pathlib import Path

import pytest
from emulator_support import VPC, Harness
from xksproxy_tools.kms_emulator.cloudhsm import ClusterOutcome
from xksproxy_tools.kms_emulator.durations import Durations
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome, ProxyFailure


async def test_connecting_answers_immediately_and_takes_time(kms: Harness) -> None:
    store_id = await kms.create_store()
    kms.gate.hold()

    assert await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id) == {}

    assert await kms.state(store_id) == "CONNECTING"
    await kms.settle()
    assert await kms.state(store_id) == "CONNECTING"
    kms.gate.release()
    await kms.settle()
    assert await kms.state(store_id) == "CONNECTED"


async def test_connecting_calls_the_health_api_once_with_the_id_of_the_request(kms: Harness) -> None:
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


async def test_disconnecting_does_not_call_the_proxy(kms: Harness) -> None:
    store_id = await kms.connected_store()
    kms.proxy.calls.clear()
    kms.gate.hold()

    assert await kms.call("DisconnectCustomKeyStore", CustomKeyStoreId=store_id) == {}

    assert await kms.state(store_id) == "DISCONNECTING"
    kms.gate.release()
    await kms.settle()
    assert await kms.state(store_id) == "DISCONNECTED"
    assert kms.proxy.calls == []


async def test_disconnecting_cancels_a_connection_in_progress(kms: Harness) -> None:
    store_id = await kms.create_store()
    kms.gate.hold()
    await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.settle()

    await kms.call("DisconnectCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.settle()

    assert (len(kms.gate.waits), kms.gate.waiting) == (2, 1)
    kms.gate.release()
    await kms.settle()
    assert await kms.state(store_id) == "DISCONNECTED"


async def test_the_failure_of_a_cancelled_connection_is_not_shown(
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


async def test_a_failed_store_shows_its_error_code_at_once_and_until_it_is_disconnected(kms: Harness) -> None:
    store_id = await kms.create_store()
    kms.gate.hold()
    kms.proxy.failure = Outcome.ACCESS_DENIED

    await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.settle()

    entry = await kms.entry(store_id)
    assert (entry["ConnectionState"], entry["ConnectionErrorCode"]) == ("FAILED", "XKS_PROXY_ACCESS_DENIED")
    await kms.call("DisconnectCustomKeyStore", CustomKeyStoreId=store_id)
    assert "ConnectionErrorCode" not in await kms.entry(store_id)
    kms.gate.release()
    kms.proxy.failure = None
    await kms.settle()
    await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.settle()
    assert await kms.state(store_id) == "CONNECTED"


async def test_health_checks_leave_a_connected_store_connected_in_an_outage(kms: Harness) -> None:
    store_id = await kms.connected_store()
    kms.proxy.calls.clear()
    kms.proxy.failure = Outcome.NO_TCP

    await kms.emulator.health_checks.check()

    ((_, _, metadata),) = kms.proxy.calls
    assert metadata.kms_operation == "KmsHealthCheck"
    assert await kms.state(store_id) == "CONNECTED"
    await kms.bring(store_id, "DISCONNECTED")
    await kms.emulator.health_checks.check()
    assert len(kms.proxy.calls) == 1, "only connected stores are checked"


async def test_an_unexpected_exception_is_an_internal_error(kms: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("a fault")

    store_id = await kms.create_store()
    monkeypatch.setattr(kms.proxy, "health", fail)

    await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.settle()

    assert (await kms.entry(store_id))["ConnectionErrorCode"] == "INTERNAL_ERROR"


async def test_a_vpc_endpoint_service_that_no_longer_exists_is_not_found(tmp_path: Path) -> None:
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
async def test_a_transition_continues_for_the_rest_of_its_time_after_a_restart(
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


async def test_an_overdue_connection_is_checked_after_a_restart(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("outcome", [None, ClusterOutcome.NO_ACTIVE_HSM])
async def test_connected_stores_stay_connected_after_a_restart_that_logs_in_to_clusters_again(
    tmp_path: Path, outcome: ClusterOutcome | None
) -> None:
    first = Harness(tmp_path / "state")
    store_ids = [await first.connected_store(), await first.connected_cluster_store()]
    await first.close()
    kms = Harness(tmp_path / "state")
    kms.cluster.failure = outcome

    await kms.emulator.connections.resume()

    assert kms.cluster.connected == (outcome is None)
    assert [await kms.state(store_id) for store_id in store_ids] == ["CONNECTED"] * 2
    assert kms.proxy.calls == []
    await kms.close()
