"""The four ways to name a KMS key."""

import pytest
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.names import KeyName, Region

REGION = Region("eu-west-1")
ACCOUNT = "111122223333"
ID = "1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ID, KeyName("key", ACCOUNT, ID)),
        (f"arn:aws:kms:eu-west-1:{ACCOUNT}:key/{ID}", KeyName("key", ACCOUNT, ID)),
        ("alias/a/b", KeyName("alias", ACCOUNT, "alias/a/b")),
        ("arn:aws:kms:eu-west-1:444455556666:alias/a", KeyName("alias", "444455556666", "alias/a")),
    ],
)
def test_each_is_understood(text: str, expected: KeyName) -> None:
    assert REGION.parse_key_id(text, ACCOUNT) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("my-key", "Invalid keyId 'my-key'"),
        ("arn:aws:s3:::bucket", "Invalid keyId 'arn:aws:s3:::bucket'"),
        (f"arn:aws:kms:us-east-1:{ACCOUNT}:key/{ID}", "Invalid arn us-east-1"),
        (f"arn:aws-cn:kms:eu-west-1:{ACCOUNT}:key/{ID}", "Invalid arn eu-west-1"),
    ],
)
def test_what_is_none_of_them_is_not_found(text: str, message: str) -> None:
    with pytest.raises(KmsError) as caught:
        REGION.parse_key_id(text, ACCOUNT)

    assert (caught.value.name, caught.value.message) == ("NotFoundException", message)


@pytest.mark.parametrize("text", ["alias/a", f"arn:aws:kms:eu-west-1:{ACCOUNT}:alias/a"])
def test_an_alias_is_refused_where_only_a_key_may_be_named(text: str) -> None:
    with pytest.raises(KmsError, match="NotFoundException: Invalid keyId"):
        REGION.parse_key_id(text, ACCOUNT, alias=False)


@pytest.mark.parametrize(
    ("region", "partition"), [("eu-west-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")]
)
def test_arns_begin_with_the_partition_of_the_region(region: str, partition: str) -> None:
    assert Region(region).key_arn(ACCOUNT, ID) == f"arn:{partition}:kms:{region}:{ACCOUNT}:key/{ID}"
    assert Region(region).alias_arn(ACCOUNT, "alias/a") == f"arn:{partition}:kms:{region}:{ACCOUNT}:alias/a"
