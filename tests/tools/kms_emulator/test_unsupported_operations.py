"""Operations that keys in custom key stores do not have; those in the table of key states are tested there."""

import pytest
from emulator_support import KMS_MODEL, Harness, refused


@pytest.mark.parametrize(
    ("operation", "parameters", "name"),
    [
        ("Sign", {"Message": b"m", "SigningAlgorithm": "ECDSA_SHA_256"}, "InvalidKeyUsageException"),
        ("GenerateMac", {"Message": b"m", "MacAlgorithm": "HMAC_SHA_256"}, "InvalidKeyUsageException"),
        ("GetPublicKey", {}, "UnsupportedOperationException"),
        ("ReplicateKey", {"ReplicaRegion": "us-east-1"}, "UnsupportedOperationException"),
        ("RotateKeyOnDemand", {}, "UnsupportedOperationException"),
    ],
)
async def test_a_symmetric_key_does_not_do_it(
    kms: Harness, operation: str, parameters: dict[str, object], name: str
) -> None:
    key_id = await kms.create_key(await kms.connected_store())

    async with refused(name) as error:
        await kms.call(operation, KeyId=key_id, **parameters)

    words = (
        f"which is not valid for {operation}." if name == "InvalidKeyUsageException" else "is not supported for arn:"
    )
    assert words in error.message


async def test_what_the_emulator_does_not_carry_out_says_so(kms: Harness) -> None:
    async with refused("UnsupportedOperationException") as error:
        await kms.call("GenerateRandom", NumberOfBytes=8)

    assert error.message == "This emulator does not support GenerateRandom."


def test_every_operation_of_the_model_is_carried_out_or_refused(kms: Harness) -> None:
    operations = kms.emulator.operations
    table = {*operations._asynchronous, *operations._immediate}

    assert table <= KMS_MODEL.operations
    assert len(table) == 29
