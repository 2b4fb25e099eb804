"""The five cryptographic operations."""

from dataclasses import replace
from typing import Any

import pytest
from emulator_support import ALICE, PUBLIC, Harness, refused
from xksproxy_tools.kms_emulator.blob import Blob, Header, pack, unpack
from xksproxy_tools.kms_emulator.protocol.caller import Caller
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome

BOB = Caller("444455556666", "arn:aws:iam::444455556666:user/Bob")
MISSING = "00000000-0000-4000-8000-000000000000"
KIS = "KMSInvalidStateException"


async def external_key(kms: Harness) -> str:
    return await kms.create_key(await kms.connected_store())


async def encrypted(kms: Harness, key_id: str, **more: Any) -> bytes:
    return bytes((await kms.call("Encrypt", KeyId=key_id, Plaintext=b"secret", **more))["CiphertextBlob"])


async def test_decrypt_needs_no_key_id(kms: Harness) -> None:
    key_id = await external_key(kms)
    arn = f"arn:aws:kms:eu-west-1:111122223333:key/{key_id}"
    await kms.call("CreateAlias", AliasName="alias/a", TargetKeyId=key_id)

    sealed = await kms.call("Encrypt", KeyId="alias/a", Plaintext=b"secret")
    opened = await kms.call("Decrypt", CiphertextBlob=sealed["CiphertextBlob"])

    assert sealed.pop("CiphertextBlob")
    assert sealed == {"KeyId": arn, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}
    assert opened == {"KeyId": arn, "Plaintext": b"secret", "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"}


async def test_the_proxy_is_told_the_operation_the_principal_and_the_key(kms: Harness) -> None:
    key_id = await external_key(kms)
    kms.proxy.calls.clear()

    await kms.call("GenerateDataKey", KeyId=key_id, KeySpec="AES_256")

    ((api, _, metadata),) = kms.proxy.calls
    assert (api, metadata.kms_operation) == ("encrypt", "GenerateDataKey")
    assert metadata.kms_key_arn == f"arn:aws:kms:eu-west-1:111122223333:key/{key_id}"
    assert metadata.aws_principal_arn == "arn:aws:iam::111122223333:user/Alice"


async def test_the_proxy_is_told_through_which_service_and_vpc_a_request_came(kms: Harness) -> None:
    service = replace(ALICE, via_service="s3.eu-west-1.amazonaws.com", source_vpc="vpc-1", source_vpce="vpce-2")
    store_id = await kms.connected_store()
    kms.proxy.calls.clear()

    new = {"Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": store_id, "XksKeyId": "key"}
    key_id = (await kms.call("CreateKey", service, **new))["KeyMetadata"]["KeyId"]
    await kms.call("Encrypt", service, KeyId=key_id, Plaintext=b"x")

    of_creation, of_encryption = (call[2] for call in kms.proxy.calls)
    assert (of_creation.aws_source_vpc, of_creation.aws_source_vpce) == ("vpc-1", "vpce-2")
    assert of_creation.kms_via_service is None
    assert (of_encryption.aws_source_vpc, of_encryption.aws_source_vpce) == ("vpc-1", "vpce-2")
    assert of_encryption.kms_via_service == "s3.eu-west-1.amazonaws.com"


async def test_re_encrypt_calls_the_proxy_twice_with_one_request_id(kms: Harness) -> None:
    store_id = await kms.connected_store()
    source, destination = await kms.create_key(store_id, "one"), await kms.create_key(store_id, "two")
    blob = await encrypted(kms, source, EncryptionContext={"a": "1"})
    kms.proxy.calls.clear()

    answer = await kms.call(
        "ReEncrypt",
        CiphertextBlob=blob,
        SourceKeyId=source,
        SourceEncryptionContext={"a": "1"},
        DestinationKeyId=destination,
        DestinationEncryptionContext={"b": "2"},
    )

    assert [call[0] for call in kms.proxy.calls] == ["decrypt", "encrypt"]
    assert {call[2].kms_operation for call in kms.proxy.calls} == {"ReEncrypt"}
    assert len({call[2].kms_request_id for call in kms.proxy.calls}) == 1
    moved = await kms.call("Decrypt", CiphertextBlob=answer.pop("CiphertextBlob"), EncryptionContext={"b": "2"})
    assert moved["Plaintext"] == b"secret"
    arn = "arn:aws:kms:eu-west-1:111122223333:key/"
    assert answer == {
        "SourceKeyId": f"{arn}{source}",
        "KeyId": f"{arn}{destination}",
        "SourceEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        "DestinationEncryptionAlgorithm": "SYMMETRIC_DEFAULT",
    }


@pytest.mark.parametrize(
    ("request_for", "size"),
    [({"KeySpec": "AES_256"}, 32), ({"KeySpec": "AES_128"}, 16), ({"NumberOfBytes": 1024}, 1024)],
)
async def test_a_data_key_is_random_and_comes_back_from_its_ciphertext(
    kms: Harness, request_for: dict[str, Any], size: int
) -> None:
    key_id = await external_key(kms)

    data_key = await kms.call("GenerateDataKey", KeyId=key_id, **request_for)
    wrapped = await kms.call("GenerateDataKeyWithoutPlaintext", KeyId=key_id, **request_for)

    assert data_key.keys() == {*wrapped, "Plaintext"} == {"CiphertextBlob", "KeyId", "Plaintext"}
    assert len(data_key["Plaintext"]) == size
    opened = await kms.call("Decrypt", CiphertextBlob=data_key["CiphertextBlob"])
    assert opened["Plaintext"] == data_key["Plaintext"]
    assert "Plaintext" not in wrapped
    other = await kms.call("Decrypt", CiphertextBlob=wrapped["CiphertextBlob"])
    assert len(other["Plaintext"]) == size
    assert other["Plaintext"] != data_key["Plaintext"]


@pytest.mark.parametrize("wrong", [{}, {"KeySpec": "AES_256", "NumberOfBytes": 32}])
async def test_a_data_key_has_one_size(kms: Harness, wrong: dict[str, Any]) -> None:
    async with refused("ValidationException"):
        await kms.call("GenerateDataKey", KeyId=await kms.create_key(), **wrong)


async def test_decrypt_needs_the_same_encryption_context_in_any_order(kms: Harness) -> None:
    blob = await encrypted(kms, await external_key(kms), EncryptionContext={"ab": "c", "b": "2"})

    opened = await kms.call("Decrypt", CiphertextBlob=blob, EncryptionContext={"b": "2", "ab": "c"})

    assert opened["Plaintext"] == b"secret"
    for wrong in ({}, {"ab": "c"}, {"a": "bc", "b": "2"}, {"ab": "C", "b": "2"}):
        async with refused(KIS):
            await kms.call("Decrypt", CiphertextBlob=blob, EncryptionContext=wrong)


async def test_a_wrong_context_with_a_key_of_kms_itself_is_an_invalid_ciphertext(kms: Harness) -> None:
    blob = await encrypted(kms, await kms.create_key(), EncryptionContext={"a": "b"})

    async with refused("InvalidCiphertextException"):
        await kms.call("Decrypt", CiphertextBlob=blob)


async def test_a_context_that_is_too_long_is_refused_before_the_proxy_is_called(kms: Harness) -> None:
    key_id = await external_key(kms)
    kms.proxy.calls.clear()

    async with refused("ValidationException"):
        await encrypted(kms, key_id, EncryptionContext={"a": "x" * 8192})

    assert kms.proxy.calls == []


async def test_an_invalid_blob_is_refused_before_the_proxy_is_called(kms: Harness) -> None:
    blob = await encrypted(kms, await external_key(kms))
    kms.proxy.calls.clear()

    for wrong in (b"x", blob[:-1], b"y" + blob[1:], blob + b"x"):
        async with refused("InvalidCiphertextException"):
            await kms.call("Decrypt", CiphertextBlob=wrong)

    assert kms.proxy.calls == []


async def test_a_changed_ciphertext_is_refused_by_the_proxy(kms: Harness) -> None:
    blob = await encrypted(kms, await external_key(kms))

    async with refused(KIS):
        await kms.call("Decrypt", CiphertextBlob=blob[:-1] + bytes([blob[-1] ^ 1]))


async def test_the_ciphertext_of_a_key_is_invalid_for_another_key_on_the_same_external_key(kms: Harness) -> None:
    one = await kms.connected_store("one")
    two = await kms.connected_store("two", **{**PUBLIC, "XksProxyUriPath": "/two/kms/xks/v1"})
    first, second = await kms.create_key(one), await kms.create_key(two)
    blob = unpack(await encrypted(kms, first))
    key = kms.database.key(second)
    assert key is not None
    forged = Blob(Header(f"arn:aws:kms:eu-west-1:111122223333:key/{second}", key.backing_key_id), blob.sealed)

    async with refused(KIS):
        await kms.call("Decrypt", CiphertextBlob=pack(forged))


async def test_the_key_material_must_decrypt_the_answer_of_the_proxy(kms: Harness) -> None:
    key_id = await external_key(kms)
    blob = await encrypted(kms, key_id)
    key = kms.database.key(key_id)
    assert key is not None
    kms.database.put_key(replace(key, material=b"0" * 32))

    async with refused(KIS) as error:
        await kms.call("Decrypt", CiphertextBlob=blob)

    assert "what the external key store proxy returned" in error.message


async def test_other_key_material_than_the_blob_names_is_an_invalid_ciphertext(kms: Harness) -> None:
    key_id = await external_key(kms)
    blob = unpack(await encrypted(kms, key_id))
    forged = Blob(Header(blob.header.key_arn, "another"), blob.sealed)

    async with refused("InvalidCiphertextException"):
        await kms.call("Decrypt", CiphertextBlob=pack(forged))


async def test_a_key_in_the_request_must_be_the_one_that_encrypted(kms: Harness) -> None:
    key_id, other = await external_key(kms), await kms.create_key()
    blob = await encrypted(kms, key_id)
    kms.proxy.calls.clear()

    async with refused("IncorrectKeyException"):
        await kms.call("Decrypt", CiphertextBlob=blob, KeyId=other)
    async with refused("IncorrectKeyException"):
        await kms.call("ReEncrypt", CiphertextBlob=blob, SourceKeyId=other, DestinationKeyId=other)
    async with refused("NotFoundException"):
        await kms.call("Decrypt", CiphertextBlob=blob, KeyId=MISSING)
    assert kms.proxy.calls == []
    assert (await kms.call("Decrypt", CiphertextBlob=blob, KeyId=key_id))["Plaintext"] == b"secret"


async def test_a_ciphertext_of_another_account_or_of_a_deleted_key_is_denied(kms: Harness) -> None:
    key_id = await kms.create_key()
    blob = await encrypted(kms, key_id)

    async with refused("AccessDeniedException"):
        await kms.call("Decrypt", BOB, CiphertextBlob=blob)
    await kms.call("ScheduleKeyDeletion", KeyId=key_id, PendingWindowInDays=7)
    kms.clock.now += 8 * 24 * 60 * 60
    async with refused("AccessDeniedException"):
        await kms.call("Decrypt", CiphertextBlob=blob)


async def test_a_failure_of_the_proxy_is_an_invalid_state_and_does_not_change_the_key(kms: Harness) -> None:
    key_id = await external_key(kms)
    blob = await encrypted(kms, key_id)
    kms.proxy.failure = Outcome.TIMED_OUT

    async with refused(KIS) as error:
        await encrypted(kms, key_id)
    async with refused(KIS):
        await kms.call("Decrypt", CiphertextBlob=blob)

    assert "as the test told it" not in error.message
    assert await kms.key_state(key_id) == "Enabled"


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [("Encrypt", {"Plaintext": b"x"}), ("GenerateDataKey", {"KeySpec": "AES_256"})],
)
async def test_a_dry_run_makes_all_checks_and_calls_no_proxy(
    kms: Harness, operation: str, parameters: dict[str, Any]
) -> None:
    key_id = await external_key(kms)
    kms.proxy.calls.clear()

    async with refused("DryRunOperationException"):
        await kms.call(operation, KeyId=key_id, DryRun=True, **parameters)
    await kms.call("DisableKey", KeyId=key_id)
    async with refused("DisabledException"):
        await kms.call(operation, KeyId=key_id, DryRun=True, **parameters)

    assert kms.proxy.calls == []


async def test_a_dry_run_of_decrypt_needs_the_ciphertext(kms: Harness) -> None:
    key_id = await external_key(kms)
    blob = await encrypted(kms, key_id)

    async with refused("DryRunOperationException"):
        await kms.call("Decrypt", CiphertextBlob=blob, DryRun=True)
    async with refused("ValidationException"):
        await kms.call("Decrypt", KeyId=key_id, DryRun=True, DryRunModifiers=["IGNORE_CIPHERTEXT"])


async def test_other_algorithms_and_recipients_are_refused(kms: Harness) -> None:
    key_id = await kms.create_key()
    blob = await encrypted(kms, key_id)

    async with refused("InvalidKeyUsageException"):
        await encrypted(kms, key_id, EncryptionAlgorithm="RSAES_OAEP_SHA_256")
    async with refused("InvalidKeyUsageException"):
        await kms.call("Decrypt", CiphertextBlob=blob, EncryptionAlgorithm="RSAES_OAEP_SHA_1")
    async with refused("UnsupportedOperationException"):
        await kms.call("Decrypt", CiphertextBlob=blob, Recipient={"KeyEncryptionAlgorithm": "RSAES_OAEP_SHA_256"})
