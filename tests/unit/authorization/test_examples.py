"""Each example in config/policies, with requests that it allows and requests that it refuses."""

from pathlib import Path

import pytest

from xksproxy.authorization.authorizer import Authorizer
from xksproxy.authorization.findings import findings
from xksproxy.authorization.policies import load_policies
from xksproxy.authorization.request import AuthorizationRequest
from xksproxy.spec.uri import Operation

_EXAMPLES = Path(__file__).parents[3] / "config" / "policies"
_KEY = "arn:aws:kms:eu-west-1:{}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
_ALICE = "arn:aws:iam::123456789012:user/Alice"
_METADATA = {"operation": Operation.GET_KEY_METADATA, "kms_operation": "CreateKey", "kms_key_arn": None}
_DECRYPT = {"operation": Operation.DECRYPT, "kms_operation": "Decrypt"}

_BASE = AuthorizationRequest(
    operation=Operation.ENCRYPT,
    key_id="payments-2026",
    region="eu-west-1",
    access_key_id="BETWEEN2TENAND3TENCHARACTERS",
    aws_principal_arn=_ALICE,
    kms_operation="Encrypt",
    kms_request_id="4112f4d6-db54-4af4-ae30-c55a22a8dfae",
    kms_key_arn=_KEY.format("123456789012"),
)

_CASES = [
    ("only-these-accounts", {}, ("accounts-of-payments",), True),
    ("only-these-accounts", {"aws_principal_arn": "arn:aws:sts::210987654321:assumed-role/R/s"}, None, True),
    ("only-these-accounts", _METADATA, ("accounts-of-payments",), True),
    ("only-these-accounts", {"aws_principal_arn": "arn:aws:iam::111111111111:user/Alice"}, (), False),
    ("only-these-accounts", {"aws_principal_arn": "ec2.amazonaws.com"}, (), False),
    ("only-these-accounts", {"kms_key_arn": _KEY.format("111111111111")}, ("kms-keys-of-payments-only",), False),
    ("only-these-accounts", {"kms_key_arn": "nonsense"}, ("kms-keys-of-payments-only",), False),
    ("only-via-service", {"kms_via_service": "ebs"}, ("via-ebs",), True),
    ("only-via-service", {"kms_via_service": "ebs", **_DECRYPT}, ("via-ebs",), True),
    ("only-via-service", _METADATA, ("administrators-create-keys",), True),
    ("only-via-service", {}, (), False),
    ("only-via-service", {"kms_via_service": "s3"}, (), False),
    ("only-via-service", {"kms_via_service": "ebs", **_METADATA, "aws_principal_arn": "ec2.amazonaws.com"}, (), False),
    ("only-from-vpc-endpoint", {"aws_source_vpce": "vpce-1234abcdf5678c90a"}, ("from-our-endpoint",), True),
    ("only-from-vpc-endpoint", {"aws_source_vpce": "vpce-00000000000000000"}, (), False),
    ("only-from-vpc-endpoint", {"aws_source_vpc": "vpce-1234abcdf5678c90a"}, (), False),
    ("only-from-vpc-endpoint", {}, (), False),
    ("only-these-roles", {}, ("alice",), True),
    (
        "only-these-roles",
        {"aws_principal_arn": "arn:aws:sts::123456789012:assumed-role/Payments/batch-1"},
        ("role-payments",),
        True,
    ),
    ("only-these-roles", {"aws_principal_arn": "arn:aws:sts::123456789012:assumed-role/Payments2/b"}, (), False),
    ("only-these-roles", {"aws_principal_arn": "arn:aws:sts::111111111111:assumed-role/Payments/b"}, (), False),
    ("only-these-roles", {"aws_principal_arn": _ALICE + "2"}, (), False),
    ("read-only", _DECRYPT, ("old-data-can-be-read",), True),
    ("read-only", _METADATA, ("old-data-can-be-read",), True),
    ("read-only", {}, ("no-new-data",), False),
]


@pytest.mark.parametrize(("name", "changes", "policies", "allowed"), _CASES)
def test_an_example_allows_and_refuses_the_requests_of_its_cases(
    name: str, changes: dict[str, object], policies: tuple[str, ...] | None, allowed: bool
) -> None:
    authorizer = Authorizer("payments", load_policies([str(_EXAMPLES / f"{name}.cedar")]))

    decision = authorizer.decide(_BASE._replace(**changes))

    assert (decision.allowed, decision.errors) == (allowed, ())
    assert policies is None or decision.policies == policies


def test_there_is_no_example_without_cases_of_both_kinds() -> None:
    for path in _EXAMPLES.iterdir():
        assert {allowed for name, _, _, allowed in _CASES if f"{name}.cedar" == path.name} == {True, False}


@pytest.mark.parametrize("path", sorted(_EXAMPLES.iterdir()), ids=lambda path: path.stem)
def test_nothing_in_an_example_looks_like_a_mistake(path: Path) -> None:
    assert list(findings(load_policies([str(path)]), lambda _: True)) == []
