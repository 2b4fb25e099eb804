"""TagResource, UntagResource, ListResourceTags."""

import pytest
from emulator_support import Harness, refused


def tags(**pairs: str) -> list[dict[str, str]]:
    return [{"TagKey": name, "TagValue": value} for name, value in pairs.items()]


async def test_a_tag_that_is_there_gets_the_new_value(kms: Harness) -> None:
    key_id = await kms.create_key(Tags=tags(a="1", b="2"))

    await kms.call("TagResource", KeyId=key_id, Tags=tags(b="3", c=""))

    assert (await kms.call("ListResourceTags", KeyId=key_id))["Tags"] == tags(a="1", b="3", c="")


async def test_untagging_what_is_not_there_is_silent(kms: Harness) -> None:
    key_id = await kms.create_key(Tags=tags(a="1", b="2"))

    await kms.call("UntagResource", KeyId=key_id, TagKeys=["a", "never there"])

    assert (await kms.call("ListResourceTags", KeyId=key_id))["Tags"] == tags(b="2")


@pytest.mark.parametrize(
    "wrong",
    [
        [{"TagKey": "aws:cloudformation", "TagValue": ""}],
        [{"TagKey": "AWS:x", "TagValue": ""}],
        [{"TagKey": "a", "TagValue": "1"}, {"TagKey": "a", "TagValue": "2"}],
        [{"TagKey": "a?", "TagValue": ""}],
        [{"TagKey": "a", "TagValue": "<b>"}],
    ],
)
async def test_tags_that_cannot_be_are_refused(kms: Harness, wrong: list[dict[str, str]]) -> None:
    key_id = await kms.create_key()

    async with refused("TagException"):
        await kms.call("TagResource", KeyId=key_id, Tags=wrong)


async def test_a_key_has_at_most_fifty_tags(kms: Harness) -> None:
    key_id = await kms.create_key(Tags=tags(**{f"t{number}": "" for number in range(50)}))

    await kms.call("TagResource", KeyId=key_id, Tags=tags(t0="new"))
    async with refused("LimitExceededException"):
        await kms.call("TagResource", KeyId=key_id, Tags=tags(t50=""))


async def test_tags_are_listed_by_pages(kms: Harness) -> None:
    key_id = await kms.create_key(Tags=tags(b="2", a="1", c="3"))

    first = await kms.call("ListResourceTags", KeyId=key_id, Limit=2)
    second = await kms.call("ListResourceTags", KeyId=key_id, Limit=2, Marker=first["NextMarker"])

    assert first["Tags"] + second["Tags"] == tags(a="1", b="2", c="3")
