"""Key policies: stored and returned, never evaluated."""

import json

from emulator_support import Harness, refused


async def test_a_key_without_one_has_that_of_its_account(kms: Harness) -> None:
    key_id = await kms.create_key()

    answer = await kms.call("GetKeyPolicy", KeyId=key_id)

    assert answer["PolicyName"] == "default"
    (statement,) = json.loads(answer["Policy"])["Statement"]
    assert statement["Principal"] == {"AWS": "arn:aws:iam::111122223333:root"}
    assert (await kms.call("ListKeyPolicies", KeyId=key_id))["PolicyNames"] == ["default"]


async def test_a_policy_is_replaced(kms: Harness) -> None:
    key_id = await kms.create_key()

    await kms.call("PutKeyPolicy", KeyId=key_id, Policy='{"Version": "2012-10-17"}')

    assert (await kms.call("GetKeyPolicy", KeyId=key_id))["Policy"] == '{"Version": "2012-10-17"}'
    async with refused("MalformedPolicyDocumentException"):
        await kms.call("PutKeyPolicy", KeyId=key_id, Policy="[]")


async def test_there_is_only_the_default_policy(kms: Harness) -> None:
    async with refused("NotFoundException"):
        await kms.call("GetKeyPolicy", KeyId=await kms.create_key(), PolicyName="other")
