"""Unsupported operations that are not in the table of key states."""

import pytest
from emulator_support import Harness, refused


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
async def test_a_symmetric_key_does_not_support_it(
    kms: Harness, operation: str, parameters: dict[str, object], name: str
) -> None:
    key_id = await kms.create_key(await kms.connected_store())

    async with refused(name) as error:
        await kms.call(operation, KeyId=key_id, **parameters)

    usage = name == "InvalidKeyUsageException"
    assert (f"which is not valid for {operation}." if usage else "is not supported for arn:") in error.message


async def test_an_operation_that_the_emulator_does_not_have_is_refused(kms: Harness) -> None:
    async with refused("UnsupportedOperationException") as error:
        await kms.call("GenerateRandom", NumberOfBytes=8)

    assert error.message == "This emulator does not support GenerateRandom."
