"""CreateAlias, UpdateAlias, DeleteAlias, ListAliases."""

import pytest
from emulator_support import Harness, refused

ARN = "arn:aws:kms:eu-west-1:111122223333:alias/a"


async def test_an_alias_is_listed_with_its_dates(kms: Harness) -> None:
    first, second = await kms.create_key(), await kms.create_key()
    await kms.call("CreateAlias", AliasName="alias/a", TargetKeyId=first)
    created = kms.clock.now
    kms.clock.now += 60

    await kms.call("UpdateAlias", AliasName="alias/a", TargetKeyId=second)

    (entry,) = (await kms.call("ListAliases"))["Aliases"]
    assert entry.pop("CreationDate").timestamp() == created
    assert entry.pop("LastUpdatedDate").timestamp() == created + 60
    assert entry == {"AliasName": "alias/a", "AliasArn": ARN, "TargetKeyId": second}


async def test_an_alias_needs_a_new_name_and_a_key_that_is_not_named_by_an_alias(kms: Harness) -> None:
    key_id = await kms.create_key()
    await kms.call("CreateAlias", AliasName="alias/a", TargetKeyId=key_id)

    async with refused("AlreadyExistsException") as error:
        await kms.call("CreateAlias", AliasName="alias/a", TargetKeyId=key_id)

    assert error.message == f"An alias with the name {ARN} already exists"
    async with refused("NotFoundException"):
        await kms.call("CreateAlias", AliasName="alias/b", TargetKeyId="alias/a")


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("a", "ValidationException"),
        ("alias/", "ValidationException"),
        ("alias/a:b", "ValidationException"),
        ("alias/a b", "ValidationException"),
        ("alias/aws/s3", "InvalidAliasNameException"),
        ("alias/aws", ""),
        ("alias/a/b_c-d", ""),
    ],
)
async def test_the_name_of_an_alias_must_have_the_required_form(kms: Harness, alias: str, name: str) -> None:
    key_id = await kms.create_key()

    async with refused(name):
        await kms.call("CreateAlias", AliasName=alias, TargetKeyId=key_id)


@pytest.mark.parametrize("operation", ["UpdateAlias", "DeleteAlias"])
async def test_a_missing_alias_is_not_found(kms: Harness, operation: str) -> None:
    target = {"TargetKeyId": await kms.create_key()} if operation == "UpdateAlias" else {}

    async with refused("NotFoundException") as error:
        await kms.call(operation, AliasName="alias/a", **target)

    assert error.message == f"Alias {ARN} is not found."


async def test_deleting_an_alias_does_not_delete_its_key(kms: Harness) -> None:
    key_id = await kms.create_key()
    await kms.call("CreateAlias", AliasName="alias/a", TargetKeyId=key_id)

    await kms.call("DeleteAlias", AliasName="alias/a")

    async with refused("NotFoundException"):
        await kms.key_state("alias/a")
    assert await kms.key_state(key_id) == "Enabled"


async def test_only_the_new_target_of_an_alias_must_not_be_pending_deletion(kms: Harness) -> None:
    doomed, kept = await kms.create_key(), await kms.create_key()
    await kms.call("CreateAlias", AliasName="alias/a", TargetKeyId=doomed)
    await kms.call("ScheduleKeyDeletion", KeyId=doomed)

    await kms.call("UpdateAlias", AliasName="alias/a", TargetKeyId=kept)

    async with refused("KMSInvalidStateException"):
        await kms.call("UpdateAlias", AliasName="alias/a", TargetKeyId=doomed)


async def test_the_aliases_of_one_key_by_pages(kms: Harness) -> None:
    key_id, other = await kms.create_key(), await kms.create_key()
    for number in range(3):
        await kms.call("CreateAlias", AliasName=f"alias/{number}", TargetKeyId=key_id)
    await kms.call("CreateAlias", AliasName="alias/other", TargetKeyId=other)

    first = await kms.call("ListAliases", KeyId=key_id, Limit=2)
    second = await kms.call("ListAliases", KeyId=key_id, Limit=2, Marker=first["NextMarker"])

    assert [entry["AliasName"] for entry in first["Aliases"] + second["Aliases"]] == ["alias/0", "alias/1", "alias/2"]
    assert not second["Truncated"]


async def test_a_key_has_at_most_fifty_aliases(kms: Harness) -> None:
    key_id, other = await kms.create_key(), await kms.create_key()
    for number in range(50):
        await kms.call("CreateAlias", AliasName=f"alias/{number}", TargetKeyId=key_id)
    await kms.call("CreateAlias", AliasName="alias/other", TargetKeyId=other)

    async with refused("LimitExceededException"):
        await kms.call("CreateAlias", AliasName="alias/50", TargetKeyId=key_id)
    async with refused("LimitExceededException"):
        await kms.call("UpdateAlias", AliasName="alias/other", TargetKeyId=key_id)
    await kms.call("UpdateAlias", AliasName="alias/0", TargetKeyId=key_id)
