"""The key states: the operations that each allows."""

from typing import Any

import pytest
from emulator_support import Harness, refused

STATES = ("Enabled", "Disabled", "PendingDeletion", "Unavailable")
DISABLED = "DisabledException"
KIS = "KMSInvalidStateException"
UNSUPPORTED = "UnsupportedOperationException"
OK = ""

TABLE: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "Encrypt": ({"Plaintext": b"x"}, (OK, DISABLED, KIS, KIS)),
    "GenerateDataKey": ({"KeySpec": "AES_128"}, (OK, DISABLED, KIS, KIS)),
    "GenerateDataKeyWithoutPlaintext": ({"KeySpec": "AES_256"}, (OK, DISABLED, KIS, KIS)),
    "EnableKey": ({}, (OK, OK, KIS, OK)),
    "DisableKey": ({}, (OK, OK, KIS, OK)),
    "ScheduleKeyDeletion": ({}, (OK, OK, KIS, OK)),
    "CancelKeyDeletion": ({}, (KIS, KIS, OK, KIS)),
    "CreateAlias": ({"AliasName": "alias/new"}, (OK, OK, KIS, OK)),
    "UpdateAlias": ({"AliasName": "alias/of-another"}, (OK, OK, KIS, OK)),
    "DeleteAlias": ({"AliasName": "alias/of-the-key"}, (OK,) * 4),
    "TagResource": ({"Tags": [{"TagKey": "a", "TagValue": "b"}]}, (OK, OK, KIS, OK)),
    "UntagResource": ({"TagKeys": ["a"]}, (OK, OK, KIS, OK)),
    "UpdateKeyDescription": ({"Description": "new"}, (OK, OK, KIS, OK)),
    "DescribeKey": ({}, (OK,) * 4),
    "GetKeyPolicy": ({}, (OK,) * 4),
    "PutKeyPolicy": ({"Policy": "{}"}, (OK,) * 4),
    "ListAliases": ({}, (OK,) * 4),
    "ListResourceTags": ({}, (OK,) * 4),
    "EnableKeyRotation": ({}, (UNSUPPORTED,) * 4),
    "DisableKeyRotation": ({}, (UNSUPPORTED,) * 4),
    "GetKeyRotationStatus": ({}, (UNSUPPORTED,) * 4),
    "GetParametersForImport": (
        {"WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"},
        (UNSUPPORTED,) * 4,
    ),
    "ImportKeyMaterial": ({"ImportToken": b"t", "EncryptedKeyMaterial": b"m"}, (UNSUPPORTED,) * 4),
    "GenerateDataKeyPair": ({"KeyPairSpec": "RSA_2048"}, (UNSUPPORTED,) * 4),
    "GenerateDataKeyPairWithoutPlaintext": ({"KeyPairSpec": "ECC_NIST_P256"}, (UNSUPPORTED,) * 4),
}
NAMED_BY_TARGET = {"CreateAlias": "TargetKeyId", "UpdateAlias": "TargetKeyId", "DeleteAlias": None}


async def bring(kms: Harness, key_id: str, state: str) -> None:
    """Take an enabled key in an external key store to a state."""
    match state:
        case "Disabled":
            await kms.call("DisableKey", KeyId=key_id)
        case "PendingDeletion":
            await kms.call("ScheduleKeyDeletion", KeyId=key_id)
        case "Unavailable":
            (store,) = (await kms.call("DescribeCustomKeyStores"))["CustomKeyStores"]
            await kms.bring(store["CustomKeyStoreId"], "DISCONNECTED")
    assert await kms.key_state(key_id) == state


async def key_in(kms: Harness, state: str) -> str:
    store_id = await kms.connected_store()
    key_id, other = await kms.create_key(store_id), await kms.create_key(store_id, "another-key")
    await kms.call("CreateAlias", AliasName="alias/of-the-key", TargetKeyId=key_id)
    await kms.call("CreateAlias", AliasName="alias/of-another", TargetKeyId=other)
    await bring(kms, key_id, state)
    return key_id


@pytest.mark.parametrize("state", STATES)
async def test_each_key_state_allows_certain_operations(kms: Harness, state: str) -> None:
    """Each operation has its own key. The proxy is called only for cryptography that the state allows."""
    store_id = await kms.connected_store()
    keys = {operation: await kms.create_key(store_id, f"external-{operation}") for operation in TABLE}
    await kms.call("CreateAlias", AliasName="alias/of-the-key", TargetKeyId=keys["DeleteAlias"])
    await kms.call("CreateAlias", AliasName="alias/of-another", TargetKeyId=await kms.create_key(store_id, "another"))
    for key_id in keys.values() if state != "Unavailable" else list(keys.values())[:1]:
        await bring(kms, key_id, state)

    results = {}
    for operation, (parameters, _) in TABLE.items():
        member = NAMED_BY_TARGET.get(operation, "KeyId")
        named = {} if member is None else {member: keys[operation]}
        kms.proxy.calls.clear()
        results[operation] = (await kms.error_of(operation, **parameters, **named), bool(kms.proxy.calls))

    expected = {operation: row[STATES.index(state)] for operation, (_, row) in TABLE.items()}
    assert results == {
        operation: (error, error == OK and DISABLED in TABLE[operation][1]) for operation, error in expected.items()
    }


@pytest.mark.parametrize(("state", "expected"), list(zip(STATES, (OK, DISABLED, KIS, KIS), strict=True)))
async def test_each_key_state_allows_or_forbids_decrypt_and_re_encrypt(kms: Harness, state: str, expected: str) -> None:
    other = await kms.create_key()
    key_id = await key_in(kms, "Enabled")
    blob = (await kms.call("Encrypt", KeyId=key_id, Plaintext=b"x"))["CiphertextBlob"]
    other_blob = (await kms.call("Encrypt", KeyId=other, Plaintext=b"x"))["CiphertextBlob"]
    await bring(kms, key_id, state)

    async with refused(expected):
        await kms.call("Decrypt", CiphertextBlob=blob)
    async with refused(expected):
        await kms.call("ReEncrypt", CiphertextBlob=blob, DestinationKeyId=other)
    async with refused(expected):
        await kms.call("ReEncrypt", CiphertextBlob=other_blob, DestinationKeyId=key_id)


@pytest.mark.parametrize(
    ("operation", "state", "message"),
    [
        ("Encrypt", "Disabled", "{arn} is disabled."),
        ("Encrypt", "PendingDeletion", "{arn} is pending deletion."),
        ("EnableKey", "PendingDeletion", "{arn} is pending deletion."),
        ("CancelKeyDeletion", "Enabled", "{arn} is not pending deletion."),
    ],
)
async def test_refusals_have_the_messages_of_aws(kms: Harness, operation: str, state: str, message: str) -> None:
    key_id = await key_in(kms, state)
    name = DISABLED if state == "Disabled" else KIS

    async with refused(name) as error:
        await kms.call(operation, KeyId=key_id, **TABLE[operation][0])

    assert error.message == message.format(arn=f"arn:aws:kms:eu-west-1:111122223333:key/{key_id}")


async def test_enabling_and_disabling_an_unavailable_key_takes_effect_once_its_store_is_connected(kms: Harness) -> None:
    key_id = await key_in(kms, "Unavailable")
    await kms.call("DisableKey", KeyId=key_id)
    assert await kms.key_state(key_id) == "Unavailable"

    (store,) = (await kms.call("DescribeCustomKeyStores"))["CustomKeyStores"]
    await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store["CustomKeyStoreId"])
    await kms.settle()

    assert await kms.key_state(key_id) == "Disabled"


async def test_cancelling_a_deletion_leaves_the_key_disabled(kms: Harness) -> None:
    key_id = await key_in(kms, "PendingDeletion")

    answer = await kms.call("CancelKeyDeletion", KeyId=key_id)

    assert answer == {"KeyId": f"arn:aws:kms:eu-west-1:111122223333:key/{key_id}"}
    metadata = (await kms.call("DescribeKey", KeyId=key_id))["KeyMetadata"]
    assert metadata["KeyState"] == "Disabled"
    assert "DeletionDate" not in metadata


async def test_a_missing_key_is_reported_before_anything_else(kms: Harness) -> None:
    missing = "00000000-0000-4000-8000-000000000000"
    for operation, (parameters, _) in TABLE.items():
        member = NAMED_BY_TARGET.get(operation, "KeyId")
        if member is None or operation == "UpdateAlias":
            continue
        async with refused("NotFoundException"):
            await kms.call(operation, **{**parameters, member: missing})
