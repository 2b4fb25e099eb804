"""CreateKey."""

from typing import Any

import pytest
from emulator_support import PUBLIC, Harness, refused
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome

from xksproxy.spec.messages import GetKeyMetadataResponse

EXTERNAL = {"Origin": "EXTERNAL_KEY_STORE", "XksKeyId": "bb8562717f809024"}


async def test_the_answer_has_the_fields_of_the_guide(kms: Harness) -> None:
    store_id = await kms.connected_store()

    metadata = (await kms.call("CreateKey", CustomKeyStoreId=store_id, **EXTERNAL))["KeyMetadata"]

    key_id = metadata["KeyId"]
    assert metadata.pop("CreationDate").timestamp() == kms.clock.now
    assert metadata == {
        "Arn": f"arn:aws:kms:eu-west-1:111122223333:key/{key_id}",
        "AWSAccountId": "111122223333",
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "CustomKeyStoreId": store_id,
        "Description": "",
        "Enabled": True,
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "KeyId": key_id,
        "KeyManager": "CUSTOMER",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "KeyState": "Enabled",
        "KeyUsage": "ENCRYPT_DECRYPT",
        "MultiRegion": False,
        "Origin": "EXTERNAL_KEY_STORE",
        "XksKeyConfiguration": {"Id": "bb8562717f809024"},
    }


async def test_the_proxy_is_asked_for_the_key_once_and_told_of_no_kms_key(kms: Harness) -> None:
    store_id = await kms.connected_store()
    kms.proxy.calls.clear()

    await kms.create_key(store_id)

    ((api, _, metadata),) = kms.proxy.calls
    assert (api, metadata.kms_operation) == ("metadata", "CreateKey")
    assert metadata.aws_principal_arn == "arn:aws:iam::111122223333:user/Alice"
    assert metadata.kms_key_arn is None


async def test_a_key_in_kms_itself_needs_no_store(kms: Harness) -> None:
    metadata = (await kms.call("CreateKey", Description="ordinary"))["KeyMetadata"]

    assert (metadata["Origin"], metadata["Description"]) == ("AWS_KMS", "ordinary")
    assert "CustomKeyStoreId" not in metadata
    assert kms.proxy.calls == []


async def test_each_key_has_key_material_of_its_own(kms: Harness) -> None:
    store_id = await kms.connected_store()
    keys = [kms.database.key(await kms.create_key(store_id, name)) for name in ("one", "two")]

    assert len({key.material for key in keys if key}) == 2
    assert len({key.backing_key_id for key in keys if key}) == 2


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"Origin": "EXTERNAL_KEY_STORE"}, "ValidationException"),
        ({"Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": "cks-1"}, "ValidationException"),
        ({"Origin": "EXTERNAL_KEY_STORE", "XksKeyId": "k"}, "ValidationException"),
        ({"XksKeyId": "k"}, "ValidationException"),
        ({"CustomKeyStoreId": "cks-1"}, "ValidationException"),
        ({"Origin": "AWS_CLOUDHSM"}, "ValidationException"),
        ({"Origin": "AWS_CLOUDHSM", "CustomKeyStoreId": "cks-1", "XksKeyId": "k"}, "ValidationException"),
        ({"KeySpec": "SYMMETRIC_DEFAULT", "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT"}, "ValidationException"),
        ({"Origin": "EXTERNAL"}, "UnsupportedOperationException"),
        ({"KeySpec": "RSA_2048"}, "UnsupportedOperationException"),
        ({"CustomerMasterKeySpec": "ECC_NIST_P256"}, "UnsupportedOperationException"),
        ({"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"}, "UnsupportedOperationException"),
        ({"KeyUsage": "SIGN_VERIFY"}, "UnsupportedOperationException"),
        ({"MultiRegion": True}, "UnsupportedOperationException"),
        ({**EXTERNAL, "CustomKeyStoreId": "cks-1"}, "CustomKeyStoreNotFoundException"),
        ({"Policy": "no policy"}, "MalformedPolicyDocumentException"),
        ({"Policy": '{"a": "' + "x" * 33_000 + '"}'}, "LimitExceededException"),
        ({"Tags": [{"TagKey": "aws:a", "TagValue": "b"}]}, "TagException"),
        ({"Tags": [{"TagKey": f"{number}", "TagValue": ""} for number in range(51)]}, "LimitExceededException"),
    ],
)
async def test_what_cannot_be_is_refused_before_the_proxy_is_asked(
    kms: Harness, parameters: dict[str, Any], name: str
) -> None:
    async with refused(name):
        await kms.call("CreateKey", **parameters)

    assert (await kms.call("ListKeys"))["Keys"] == []
    assert kms.proxy.calls == []


async def test_an_external_key_serves_one_key_of_a_store(kms: Harness) -> None:
    store_id = await kms.connected_store()
    key_id = await kms.create_key(store_id)
    kms.proxy.calls.clear()

    async with refused("XksKeyAlreadyInUseException"):
        await kms.create_key(store_id)
    await kms.call("ScheduleKeyDeletion", KeyId=key_id, PendingWindowInDays=7)
    async with refused("XksKeyAlreadyInUseException"):
        await kms.create_key(store_id)

    assert kms.proxy.calls == []
    kms.clock.now += 7 * 24 * 60 * 60
    await kms.create_key(store_id)


async def test_another_store_may_use_the_same_external_key(kms: Harness) -> None:
    other = {**PUBLIC, "XksProxyUriPath": "/other/kms/xks/v1"}

    await kms.create_key(await kms.connected_store("one"))
    await kms.create_key(await kms.connected_store("two", **other))


@pytest.mark.parametrize(
    ("spec", "usage", "status", "words"),
    [
        ("RSA_2048", ["ENCRYPT", "DECRYPT"], "ENABLED", "RSA_2048"),
        ("AES_256", ["ENCRYPT", "DECRYPT"], "DISABLED", "DISABLED"),
        ("AES_256", ["ENCRYPT"], "ENABLED", "DECRYPT"),
    ],
)
async def test_an_external_key_that_is_not_fit_is_refused(
    kms: Harness, spec: str, usage: list[str], status: str, words: str
) -> None:
    store_id = await kms.connected_store()
    kms.proxy.key = GetKeyMetadataResponse(key_spec=spec, key_usage=usage, key_status=status)

    async with refused("XksKeyInvalidConfigurationException") as error:
        await kms.create_key(store_id)

    assert words in error.message


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        (Outcome.KEY_NOT_FOUND, "XksKeyNotFoundException"),
        (Outcome.INVALID_STATE, "XksKeyInvalidConfigurationException"),
        (Outcome.ACCESS_DENIED, "CustomKeyStoreInvalidStateException"),
        (Outcome.TIMED_OUT, "CustomKeyStoreInvalidStateException"),
    ],
)
async def test_a_proxy_that_does_not_show_the_key_makes_none(kms: Harness, outcome: Outcome, name: str) -> None:
    store_id = await kms.connected_store()
    kms.proxy.failure = outcome

    async with refused(name):
        await kms.create_key(store_id)

    assert (await kms.call("ListKeys"))["Keys"] == []


async def test_a_store_that_is_disconnected_while_the_proxy_is_asked_gets_no_key(
    kms: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_id = await kms.connected_store()
    answer = kms.proxy.key_metadata

    async def disconnected_meanwhile(*arguments: Any) -> GetKeyMetadataResponse:
        await kms.call("DisconnectCustomKeyStore", CustomKeyStoreId=store_id)
        return await answer(*arguments)

    monkeypatch.setattr(kms.proxy, "key_metadata", disconnected_meanwhile)

    async with refused("CustomKeyStoreInvalidStateException"):
        await kms.create_key(store_id)


async def test_tags_and_policy_can_be_given_at_once(kms: Harness) -> None:
    key_id = await kms.create_key(Tags=[{"TagKey": "a", "TagValue": "b"}], Policy='{"Version": "2012-10-17"}')

    assert (await kms.call("ListResourceTags", KeyId=key_id))["Tags"] == [{"TagKey": "a", "TagValue": "b"}]
    assert (await kms.call("GetKeyPolicy", KeyId=key_id))["Policy"] == '{"Version": "2012-10-17"}'
