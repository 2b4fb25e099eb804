"""Key policies: stored and returned, never evaluated."""

import json

from emulator_support import Harness, refused


async def test_the_only_policy_is_the_default_policy_of_the_account(kms: Harness) -> None:
    key_id = await kms.create_key()

    answer = await kms.call("GetKeyPolicy", KeyId=key_id)

    assert answer["PolicyName"] == "default"
    (statement,) = json.loads(answer["Policy"])["Statement"]
    assert statement["Principal"] == {"AWS": "arn:aws:iam::111122223333:root"}
    assert (await kms.call("ListKeyPolicies", KeyId=key_id))["PolicyNames"] == ["default"]
    async with refused("NotFoundException"):
        await kms.call("GetKeyPolicy", KeyId=key_id, PolicyName="other")


async def test_a_policy_is_replaced(kms: Harness) -> None:
    key_id = await kms.create_key()

    await kms.call("PutKeyPolicy", KeyId=key_id, Policy='{"Version": "2012-10-17"}')

    assert (await kms.call("GetKeyPolicy", KeyId=key_id))["Policy"] == '{"Version": "2012-10-17"}'
    async with refused("MalformedPolicyDocumentException"):
        await kms.call("PutKeyPolicy", KeyId=key_id, Policy="[]")
