"""The caller of a request."""

import pytest
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.protocol.caller import Caller, Callers, parse_caller

ROLE = "arn:aws:sts::444455556666:assumed-role/Reader/session"
CALLERS = Callers("eu-west-1", "111122223333", dict([parse_caller(f"AKIAREADER={ROLE}")]))


def header(access_key_id: str, region: str = "eu-west-1", service: str = "kms") -> str:
    scope = f"20261125/{region}/{service}/aws4_request"
    return f"AWS4-HMAC-SHA256 Credential={access_key_id}/{scope}, SignedHeaders=host;x-amz-date, Signature={'0' * 64}"


def test_an_access_key_id_is_a_known_principal_or_a_user_of_the_account() -> None:
    assert CALLERS.identify(header("AKIAREADER")) == Caller("444455556666", ROLE)
    assert CALLERS.identify(header("alice")) == Caller("111122223333", "arn:aws:iam::111122223333:user/alice")


@pytest.mark.parametrize(
    ("authorization", "name"),
    [
        (None, "MissingAuthenticationTokenException"),
        ("", "MissingAuthenticationTokenException"),
        ("Basic dGVzdA==", "IncompleteSignatureException"),
        ("AWS4-HMAC-SHA256", "IncompleteSignatureException"),
        ("AWS4-HMAC-SHA256 Credential=alice/20261125/eu-west-1/kms, Signature=0", "IncompleteSignatureException"),
        (header("alice", region="us-east-1"), "InvalidSignatureException"),
        (header("alice", service="s3"), "InvalidSignatureException"),
        (header("al%ice"), "UnrecognizedClientException"),
    ],
)
def test_a_header_without_a_valid_caller_is_refused(authorization: str | None, name: str) -> None:
    with pytest.raises(KmsError) as caught:
        CALLERS.identify(authorization)

    assert caught.value.name == name


def test_a_caller_can_have_a_service_and_a_vpc() -> None:
    arn = "arn:aws:iam::111122223333:user/a,b=c"

    parsed = parse_caller(f"s3={arn},sourceVpc=vpc-1,viaService=s3.eu-west-1.amazonaws.com,sourceVpce=vpce-2")

    assert parsed == ("s3", Caller("111122223333", arn, "s3.eu-west-1.amazonaws.com", "vpc-1", "vpce-2"))


@pytest.mark.parametrize(
    "text",
    [
        "alice",
        f"={ROLE}",
        "alice=Alice",
        "alice=arn:aws:iam::12:user/Alice",
        "alice=arn:aws:s3::111122223333:user/a",
        f"alice={ROLE} x",
        f"alice={ROLE},sourceVpc=",
        f"alice={ROLE},sourceVpc=vpc-1,sourceVpc=vpc-2",
    ],
)
def test_an_invalid_caller_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a caller; expected ACCESS_KEY_ID=ARN with the ARN of a user or role"):
        parse_caller(text)
