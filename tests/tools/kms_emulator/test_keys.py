"""Keys once they are made: names, lists, descriptions, deletion."""

import pytest
from emulator_support import Harness, refused
from xksproxy_tools.kms_emulator.names import Region
from xksproxy_tools.kms_emulator.protocol.caller import Caller

BOB = Caller("444455556666", "arn:aws:iam::444455556666:user/Bob")
DAY = 24 * 60 * 60
MISSING = "00000000-0000-4000-8000-000000000000"


async def test_a_key_is_described_by_each_of_its_names(kms: Harness) -> None:
    key_id = await kms.create_key()
    await kms.call("CreateAlias", AliasName="alias/a/b", TargetKeyId=key_id)
    arn = f"arn:aws:kms:eu-west-1:111122223333:key/{key_id}"

    for name in (key_id, arn, "alias/a/b", "arn:aws:kms:eu-west-1:111122223333:alias/a/b"):
        assert (await kms.call("DescribeKey", KeyId=name))["KeyMetadata"]["Arn"] == arn


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my-key", "Invalid keyId 'my-key'"),
        ("arn:aws:s3:::bucket", "Invalid keyId 'arn:aws:s3:::bucket'"),
        (f"arn:aws:kms:us-east-1:111122223333:key/{MISSING}", "Invalid arn us-east-1"),
        (f"arn:aws-cn:kms:eu-west-1:111122223333:key/{MISSING}", "Invalid arn eu-west-1"),
    ],
)
async def test_another_form_or_an_arn_of_another_region_is_not_found(kms: Harness, name: str, message: str) -> None:
    async with refused("NotFoundException") as error:
        await kms.call("DescribeKey", KeyId=name)

    assert error.message == message


@pytest.mark.parametrize(
    ("region", "partition"), [("eu-west-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")]
)
def test_arns_begin_with_the_partition_of_the_region(region: str, partition: str) -> None:
    assert Region(region).key_arn("111122223333", MISSING) == f"arn:{partition}:kms:{region}:111122223333:key/{MISSING}"
    assert Region(region).alias_arn("111122223333", "alias/a") == f"arn:{partition}:kms:{region}:111122223333:alias/a"


async def test_what_is_another_accounts_is_not_shown(kms: Harness) -> None:
    key_id = await kms.create_key()

    async with refused("NotFoundException"):
        await kms.call("DescribeKey", BOB, KeyId=key_id)
    async with refused("AccessDeniedException"):
        await kms.call("DescribeKey", BOB, KeyId=f"arn:aws:kms:eu-west-1:111122223333:key/{key_id}")
    async with refused("NotFoundException"):
        await kms.call("DescribeKey", BOB, KeyId=f"arn:aws:kms:eu-west-1:444455556666:key/{key_id}")
    assert (await kms.call("ListKeys", BOB))["Keys"] == []


@pytest.mark.parametrize(
    ("operation", "parameters"),
    [
        ("EnableKey", {}),
        ("ScheduleKeyDeletion", {}),
        ("ListResourceTags", {}),
        ("UpdateKeyDescription", {"Description": ""}),
    ],
)
async def test_a_key_is_managed_by_its_id_or_arn_and_by_no_alias(
    kms: Harness, operation: str, parameters: dict[str, str]
) -> None:
    key_id = await kms.create_key()
    await kms.call("CreateAlias", AliasName="alias/a", TargetKeyId=key_id)

    async with refused("NotFoundException"):
        await kms.call(operation, KeyId="alias/a", **parameters)
    await kms.call(operation, KeyId=f"arn:aws:kms:eu-west-1:111122223333:key/{key_id}", **parameters)


async def test_keys_are_listed_by_pages(kms: Harness) -> None:
    ids = sorted([await kms.create_key() for _ in range(3)])

    first = await kms.call("ListKeys", Limit=2)
    second = await kms.call("ListKeys", Limit=2, Marker=first["NextMarker"])

    listed = first["Keys"] + second["Keys"]
    assert [entry["KeyId"] for entry in listed] == ids
    assert listed[0]["KeyArn"] == f"arn:aws:kms:eu-west-1:111122223333:key/{ids[0]}"
    assert (first["Truncated"], second["Truncated"]) == (True, False)


async def test_a_description_can_be_changed(kms: Harness) -> None:
    key_id = await kms.create_key(Description="old")

    await kms.call("UpdateKeyDescription", KeyId=key_id, Description="new")

    assert (await kms.call("DescribeKey", KeyId=key_id))["KeyMetadata"]["Description"] == "new"


async def test_a_deletion_waits_for_thirty_days_unless_told_otherwise(kms: Harness) -> None:
    key_id = await kms.create_key()

    answer = await kms.call("ScheduleKeyDeletion", KeyId=key_id)

    assert answer.pop("DeletionDate").timestamp() == kms.clock.now + 30 * DAY
    assert answer == {
        "KeyId": f"arn:aws:kms:eu-west-1:111122223333:key/{key_id}",
        "KeyState": "PendingDeletion",
        "PendingWindowInDays": 30,
    }
    metadata = (await kms.call("DescribeKey", KeyId=key_id))["KeyMetadata"]
    assert metadata["DeletionDate"].timestamp() == kms.clock.now + 30 * DAY
    assert not metadata["Enabled"]


@pytest.mark.parametrize(("days", "name"), [(6, "ValidationException"), (7, ""), (30, ""), (31, "ValidationException")])
async def test_the_waiting_period_has_seven_to_thirty_days(kms: Harness, days: int, name: str) -> None:
    key_id = await kms.create_key()

    async with refused(name):
        await kms.call("ScheduleKeyDeletion", KeyId=key_id, PendingWindowInDays=days)


async def test_when_the_waiting_period_ends_the_key_vanishes_with_its_aliases(kms: Harness) -> None:
    key_id = await kms.create_key(await kms.connected_store())
    await kms.call("CreateAlias", AliasName="alias/a", TargetKeyId=key_id)
    await kms.call("ScheduleKeyDeletion", KeyId=key_id, PendingWindowInDays=7)
    kms.proxy.calls.clear()
    kms.clock.now += 7 * DAY - 1
    assert await kms.key_state("alias/a") == "PendingDeletion"

    kms.clock.now += 1

    for name in (key_id, "alias/a"):
        async with refused("NotFoundException"):
            await kms.key_state(name)
    assert (await kms.call("ListAliases"))["Aliases"] == []
    assert kms.proxy.calls == []
