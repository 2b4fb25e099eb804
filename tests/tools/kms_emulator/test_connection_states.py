"""The connection states of a custom key store: the operations that each allows, and the state of its keys."""

from typing import Any

import pytest
from emulator_support import CREDENTIAL, SERVICE, Harness, refused

STATES = ("DISCONNECTED", "CONNECTING", "CONNECTED", "DISCONNECTING", "FAILED")
CKSIS = "CustomKeyStoreInvalidStateException"
OK = ""
FREE = (OK, CKSIS, OK, CKSIS, CKSIS)
RESTRICTED = (OK, CKSIS, CKSIS, CKSIS, CKSIS)
NEW_NAME = {"NewCustomKeyStoreName": "other"}
NEW_ENDPOINT = {"XksProxyUriEndpoint": "https://new.example.com"}
TO_VPC = {"XksProxyConnectivity": "VPC_ENDPOINT_SERVICE", "XksProxyVpcEndpointServiceName": SERVICE}

OF_THE_STORE: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "connect": ("ConnectCustomKeyStore", {}, (OK, OK, OK, CKSIS, CKSIS)),
    "disconnect": ("DisconnectCustomKeyStore", {}, (CKSIS, OK, OK, CKSIS, OK)),
    "delete": ("DeleteCustomKeyStore", {}, (OK, CKSIS, CKSIS, CKSIS, CKSIS)),
    "describe": ("DescribeCustomKeyStores", {}, (OK, OK, OK, OK, OK)),
    "update name": ("UpdateCustomKeyStore", NEW_NAME, FREE),
    "update credential": (
        "UpdateCustomKeyStore",
        {"XksProxyAuthenticationCredential": {**CREDENTIAL, "RawSecretAccessKey": "t" * 43}},
        FREE,
    ),
    "update path": ("UpdateCustomKeyStore", {"XksProxyUriPath": "/kms/xks/v1"}, FREE),
    "update endpoint": ("UpdateCustomKeyStore", NEW_ENDPOINT, RESTRICTED),
    "update connectivity": ("UpdateCustomKeyStore", {**NEW_ENDPOINT, **TO_VPC}, RESTRICTED),
    "update name and endpoint": ("UpdateCustomKeyStore", {**NEW_NAME, **NEW_ENDPOINT}, RESTRICTED),
    "create a key": (
        "CreateKey",
        {"Origin": "EXTERNAL_KEY_STORE", "XksKeyId": "another-key"},
        (CKSIS, CKSIS, OK, CKSIS, CKSIS),
    ),
}

CELLS = [
    (row, state, expected)
    for row, (*_, column) in OF_THE_STORE.items()
    for state, expected in zip(STATES, column, strict=True)
]


@pytest.mark.parametrize(("row", "state", "expected"), CELLS)
async def test_each_connection_state_allows_certain_operations(
    kms: Harness, row: str, state: str, expected: str
) -> None:
    operation, parameters, _ = OF_THE_STORE[row]
    store_id = await kms.connected_store()
    await kms.bring(store_id, state)
    before = await kms.entry(store_id)

    async with refused(expected):
        await kms.call(operation, CustomKeyStoreId=store_id, **parameters)

    if expected:
        assert await kms.entry(store_id) == before


@pytest.mark.parametrize("state", STATES)
async def test_keys_are_unavailable_unless_the_store_is_connected_or_they_are_pending_deletion(
    kms: Harness, state: str
) -> None:
    shown = "Enabled" if state == "CONNECTED" else "Unavailable"
    store_id = await kms.connected_store()
    key_id, doomed = await kms.create_key(store_id), await kms.create_key(store_id, "second-key")
    await kms.call("ScheduleKeyDeletion", KeyId=doomed)

    await kms.bring(store_id, state)

    metadata = (await kms.call("DescribeKey", KeyId=key_id))["KeyMetadata"]
    assert (metadata["KeyState"], metadata["Enabled"]) == (shown, shown == "Enabled")
    assert await kms.key_state(doomed) == "PendingDeletion"
    async with refused("" if state == "CONNECTED" else "KMSInvalidStateException"):
        await kms.call("Encrypt", KeyId=key_id, Plaintext=b"x")


async def test_a_store_is_deleted_once_it_is_disconnected_and_has_no_keys_not_even_pending_deletion(
    kms: Harness,
) -> None:
    store_id = await kms.connected_store()
    key_id = await kms.create_key(store_id)
    async with refused(CKSIS):
        await kms.call("DeleteCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.call("ScheduleKeyDeletion", KeyId=key_id, PendingWindowInDays=7)
    await kms.bring(store_id, "DISCONNECTED")
    async with refused("CustomKeyStoreHasCMKsException"):
        await kms.call("DeleteCustomKeyStore", CustomKeyStoreId=store_id)

    kms.clock.now += 7 * 24 * 60 * 60

    assert await kms.call("DeleteCustomKeyStore", CustomKeyStoreId=store_id) == {}
    async with refused("CustomKeyStoreNotFoundException"):
        await kms.entry(store_id)


@pytest.mark.parametrize(
    "operation", [*dict.fromkeys(row[0] for row in OF_THE_STORE.values() if row[0] != "CreateKey")]
)
async def test_an_unknown_store_is_not_found(kms: Harness, operation: str) -> None:
    async with refused("CustomKeyStoreNotFoundException"):
        await kms.call(operation, CustomKeyStoreId="cks-00000000000000000")
