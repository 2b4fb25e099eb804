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


async def test_the_proxy_is_called_once_without_a_kms_key_arn(kms: Harness) -> None:
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
async def test_invalid_parameters_are_refused_before_the_proxy_is_called(
    kms: Harness, parameters: dict[str, Any], name: str
) -> None:
    async with refused(name):
        await kms.call("CreateKey", **parameters)

    assert (await kms.call("ListKeys"))["Keys"] == []
    assert kms.proxy.calls == []


async def test_an_external_key_can_have_one_key_in_each_store(kms: Harness) -> None:
    store_id = await kms.connected_store()
    key_id = await kms.create_key(store_id)
    kms.proxy.calls.clear()

    async with refused("XksKeyAlreadyInUseException"):
        await kms.create_key(store_id)
    await kms.call("ScheduleKeyDeletion", KeyId=key_id, PendingWindowInDays=7)
    async with refused("XksKeyAlreadyInUseException"):
        await kms.create_key(store_id)

    assert kms.proxy.calls == []
    await kms.create_key(await kms.connected_store("other", **{**PUBLIC, "XksProxyUriPath": "/other/kms/xks/v1"}))
    kms.clock.now += 7 * 24 * 60 * 60
    await kms.create_key(store_id)


async def test_an_unsuitable_external_key_is_refused(kms: Harness) -> None:
    store_id = await kms.connected_store()
    kms.proxy.key = GetKeyMetadataResponse(key_spec="AES_256", key_usage=["ENCRYPT"], key_status="ENABLED")

    async with refused("XksKeyInvalidConfigurationException") as error:
        await kms.create_key(store_id)

    assert "lacks DECRYPT" in error.message


async def test_no_key_is_created_if_the_proxy_does_not_describe_the_external_key(kms: Harness) -> None:
    store_id = await kms.connected_store()
    kms.proxy.failure = Outcome.KEY_NOT_FOUND

    async with refused("XksKeyNotFoundException"):
        await kms.create_key(store_id)

    assert (await kms.call("ListKeys"))["Keys"] == []


async def test_no_key_is_created_in_a_store_that_is_disconnected_during_the_call(
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


async def test_a_new_key_can_have_tags_and_a_policy(kms: Harness) -> None:
    key_id = await kms.create_key(Tags=[{"TagKey": "a", "TagValue": "b"}], Policy='{"Version": "2012-10-17"}')

    assert (await kms.call("ListResourceTags", KeyId=key_id))["Tags"] == [{"TagKey": "a", "TagValue": "b"}]
    assert (await kms.call("GetKeyPolicy", KeyId=key_id))["Policy"] == '{"Version": "2012-10-17"}'
