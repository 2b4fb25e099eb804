"""Every operation in every connection state of a custom key store."""

from typing import Any

import pytest
from emulator_support import CREDENTIAL, SERVICE, Harness, refused

STATES = ("DISCONNECTED", "CONNECTING", "CONNECTED", "DISCONNECTING", "FAILED")
CKSIS = "CustomKeyStoreInvalidStateException"
KIS = "KMSInvalidStateException"
OK = ""

OF_THE_STORE: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "connect": ("ConnectCustomKeyStore", {}, (OK, OK, OK, CKSIS, CKSIS)),
    "disconnect": ("DisconnectCustomKeyStore", {}, (CKSIS, OK, OK, CKSIS, OK)),
    "delete": ("DeleteCustomKeyStore", {}, (OK, CKSIS, CKSIS, CKSIS, CKSIS)),
    "describe": ("DescribeCustomKeyStores", {}, (OK, OK, OK, OK, OK)),
    "update name": ("UpdateCustomKeyStore", {"NewCustomKeyStoreName": "other"}, (OK, CKSIS, OK, CKSIS, CKSIS)),
    "update credential": (
        "UpdateCustomKeyStore",
        {"XksProxyAuthenticationCredential": {**CREDENTIAL, "RawSecretAccessKey": "t" * 43}},
        (OK, CKSIS, OK, CKSIS, CKSIS),
    ),
    "update path": ("UpdateCustomKeyStore", {"XksProxyUriPath": "/kms/xks/v1"}, (OK, CKSIS, OK, CKSIS, CKSIS)),
    "update endpoint": (
        "UpdateCustomKeyStore",
        {"XksProxyUriEndpoint": "https://new.example.com"},
        (OK, CKSIS, CKSIS, CKSIS, CKSIS),
    ),
    "update connectivity": (
        "UpdateCustomKeyStore",
        {
            "XksProxyConnectivity": "VPC_ENDPOINT_SERVICE",
            "XksProxyUriEndpoint": "https://new.example.com",
            "XksProxyVpcEndpointServiceName": SERVICE,
        },
        (OK, CKSIS, CKSIS, CKSIS, CKSIS),
    ),
    "update free and restricted together": (
        "UpdateCustomKeyStore",
        {"NewCustomKeyStoreName": "other", "XksProxyUriEndpoint": "https://new.example.com"},
        (OK, CKSIS, CKSIS, CKSIS, CKSIS),
    ),
    "create a key": (
        "CreateKey",
        {"Origin": "EXTERNAL_KEY_STORE", "XksKeyId": "another-key"},
        (CKSIS, CKSIS, OK, CKSIS, CKSIS),
    ),
}

OF_ITS_KEYS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "Encrypt": ({"Plaintext": b"x"}, (KIS, KIS, OK, KIS, KIS)),
    "GenerateDataKey": ({"KeySpec": "AES_256"}, (KIS, KIS, OK, KIS, KIS)),
    "GenerateDataKeyWithoutPlaintext": ({"NumberOfBytes": 64}, (KIS, KIS, OK, KIS, KIS)),
    "DescribeKey": ({}, (OK,) * 5),
    "EnableKey": ({}, (OK,) * 5),
    "DisableKey": ({}, (OK,) * 5),
    "UpdateKeyDescription": ({"Description": "text"}, (OK,) * 5),
    "ScheduleKeyDeletion": ({}, (OK,) * 5),
    "TagResource": ({"Tags": [{"TagKey": "a", "TagValue": "b"}]}, (OK,) * 5),
    "UntagResource": ({"TagKeys": ["a"]}, (OK,) * 5),
    "ListResourceTags": ({}, (OK,) * 5),
    "ListAliases": ({}, (OK,) * 5),
    "GetKeyPolicy": ({}, (OK,) * 5),
}


def _cells(table: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (row, state, expected)
        for row, (*_, column) in table.items()
        for state, expected in zip(STATES, column, strict=True)
    ]


@pytest.mark.parametrize(("row", "state", "expected"), _cells(OF_THE_STORE))
async def test_operations_on_a_key_store(kms: Harness, row: str, state: str, expected: str) -> None:
    operation, parameters, _ = OF_THE_STORE[row]
    store_id = await kms.connected_store()
    await kms.bring(store_id, state)
    before = await kms.entry(store_id)

    async with refused(expected):
        await kms.call(operation, CustomKeyStoreId=store_id, **parameters)

    if expected:
        assert await kms.entry(store_id) == before


@pytest.mark.parametrize("state", STATES)
async def test_operations_on_its_keys(kms: Harness, state: str) -> None:
    """Each operation has its own key. The proxy is called only for cryptography that the state allows."""
    store_id = await kms.connected_store()
    keys = {operation: await kms.create_key(store_id, f"external-{operation}") for operation in OF_ITS_KEYS}
    await kms.bring(store_id, state)

    results = {}
    for operation, (parameters, _) in OF_ITS_KEYS.items():
        kms.proxy.calls.clear()
        error = await kms.error_of(operation, KeyId=keys[operation], **parameters)
        results[operation] = (error, bool(kms.proxy.calls))

    expected = {operation: row[STATES.index(state)] for operation, (_, row) in OF_ITS_KEYS.items()}
    assert results == {
        operation: (error, error == OK and KIS in OF_ITS_KEYS[operation][1]) for operation, error in expected.items()
    }


@pytest.mark.parametrize(("state", "expected"), list(zip(STATES, (KIS, KIS, OK, KIS, KIS), strict=True)))
async def test_decrypt_and_re_encrypt_with_its_keys(kms: Harness, state: str, expected: str) -> None:
    store_id = await kms.connected_store()
    key_id, other = await kms.create_key(store_id), await kms.create_key()
    blob = (await kms.call("Encrypt", KeyId=key_id, Plaintext=b"x"))["CiphertextBlob"]
    other_blob = (await kms.call("Encrypt", KeyId=other, Plaintext=b"x"))["CiphertextBlob"]
    await kms.bring(store_id, state)

    async with refused(expected):
        await kms.call("Decrypt", CiphertextBlob=blob)
    async with refused(expected):
        await kms.call("ReEncrypt", CiphertextBlob=blob, DestinationKeyId=other)
    async with refused(expected):
        await kms.call("ReEncrypt", CiphertextBlob=other_blob, DestinationKeyId=key_id)


@pytest.mark.parametrize(
    ("state", "shown"), list(zip(STATES, ("Unavailable", "Unavailable", "Enabled", *["Unavailable"] * 2), strict=True))
)
async def test_keys_are_unavailable_unless_the_store_is_connected(kms: Harness, state: str, shown: str) -> None:
    store_id = await kms.connected_store()
    key_id, doomed = await kms.create_key(store_id), await kms.create_key(store_id, "second-key")
    await kms.call("ScheduleKeyDeletion", KeyId=doomed)

    await kms.bring(store_id, state)

    metadata = (await kms.call("DescribeKey", KeyId=key_id))["KeyMetadata"]
    assert (metadata["KeyState"], metadata["Enabled"]) == (shown, shown == "Enabled")
    assert await kms.key_state(doomed) == "PendingDeletion"


async def test_a_store_with_keys_is_not_deleted_and_those_pending_deletion_count(kms: Harness) -> None:
    store_id = await kms.connected_store()
    key_id = await kms.create_key(store_id)
    await kms.call("ScheduleKeyDeletion", KeyId=key_id, PendingWindowInDays=7)
    await kms.bring(store_id, "DISCONNECTED")

    async with refused("CustomKeyStoreHasCMKsException"):
        await kms.call("DeleteCustomKeyStore", CustomKeyStoreId=store_id)

    kms.clock.now += 7 * 24 * 60 * 60
    assert await kms.call("DeleteCustomKeyStore", CustomKeyStoreId=store_id) == {}


async def test_the_state_comes_before_the_keys(kms: Harness) -> None:
    store_id = await kms.connected_store()
    await kms.create_key(store_id)

    async with refused(CKSIS):
        await kms.call("DeleteCustomKeyStore", CustomKeyStoreId=store_id)


@pytest.mark.parametrize(
    "operation",
    [
        "ConnectCustomKeyStore",
        "DisconnectCustomKeyStore",
        "DeleteCustomKeyStore",
        "UpdateCustomKeyStore",
        "DescribeCustomKeyStores",
    ],
)
async def test_an_unknown_store_is_not_found(kms: Harness, operation: str) -> None:
    async with refused("CustomKeyStoreNotFoundException"):
        await kms.call(operation, CustomKeyStoreId="cks-00000000000000000")
