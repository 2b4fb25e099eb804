"""Decisions: the input of Cedar, the result, and that no value of a caller allows a request by an error."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cedarpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xksproxy.authorization import authorizer as module
from xksproxy.authorization.authorizer import Authorizer, Decision
from xksproxy.authorization.policies import load_policies, schema_text
from xksproxy.authorization.request import (
    ACTIONS,
    AuthorizationRequest,
    cedar_entities,
    cedar_request,
    context_of,
    key_arn_attributes,
    principal_attributes,
)
from xksproxy.config.model import Key, KeyStore
from xksproxy.sigv4.verify import Identity
from xksproxy.spec.messages import CryptoRequestMetadata, KeyRequestMetadata
from xksproxy.spec.uri import Operation

_ALICE = "arn:aws:iam::123456789012:user/Alice"
_REQUEST = AuthorizationRequest(
    operation=Operation.ENCRYPT,
    key_id="demo-key",
    region="eu-west-1",
    access_key_id="BETWEEN2TENAND3TENCHARACTERS",
    aws_principal_arn=_ALICE,
    kms_operation="Encrypt",
    kms_request_id="r-1",
    kms_key_arn="arn:aws:kms:eu-west-1:123456789012:key/1",
)
Make = Callable[..., Authorizer]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make_authorizer(text: str) -> Authorizer:
        (tmp_path / "p.cedar").write_text(text)
        return Authorizer("dev", load_policies([str(tmp_path / "p.cedar")]))

    return make_authorizer


def when(condition: str, effect: str = "permit") -> str:
    return f"{effect} (principal, action, resource) when {{ {condition} }};"


# --- Entities and context


@pytest.mark.parametrize(
    ("arn", "kind", "account"),
    [
        (_ALICE, "iam", "123456789012"),
        ("arn:aws-us-gov:sts::123456789012:assumed-role/R/s", "sts", "123456789012"),
        ("arn:aws-cn:iam::123456789012:role/a/b", "iam", "123456789012"),
        ("ec2.amazonaws.com", "service", None),
        ("s3.cn-north-1.amazonaws.com.cn", "service", None),
        ("AWS Internal", "service", None),
        ("", "unknown", None),
        ("aws internal", "unknown", None),
        ("x@evil.example\n.amazonaws.com", "unknown", None),
        ("ec2.amazonaws.com.evil.example", "unknown", None),
        ("ec2.amazonaws.com\n", "unknown", None),
        ("arn:aws:iam::12345678901:user/A", "unknown", None),
        ("arn:aws:iam::١٢٣٤٥٦٧٨٩٠١٢:user/A", "unknown", None),
        ("arn:aws:iam:eu-west-1:123456789012:user/A", "unknown", None),
        ("arn:aws:s3::123456789012:bucket", "unknown", None),
        ("arn:aws:iam::123456789012:user/A\nB", "unknown", None),
        (f" {_ALICE}", "unknown", None),
        (f"x{_ALICE}", "unknown", None),
    ],
)
def test_kind_and_account_of_a_principal(arn: str, kind: str, account: str | None) -> None:
    expected = {"arn": arn, "kind": kind} | ({} if account is None else {"account": account})

    assert principal_attributes(arn) == expected


@pytest.mark.parametrize(
    ("arn", "account", "region"),
    [
        ("arn:aws:kms:eu-west-1:123456789012:key/1", "123456789012", "eu-west-1"),
        ("arn:aws:kms:us-east-2:123456789012:/key/1", "123456789012", "us-east-2"),  # as in AWS's own examples
        (None, None, None),
        ("", None, None),
        ("arn:aws:s3:eu-west-1:123456789012:key/1", None, None),
        ("arn:aws:kms::123456789012:key/1", None, None),
        ("arn:aws:kms:eu-west-1:1:key/1", None, None),
        ("arn:aws:kms:eu-west-1:123456789012:key/1\n", None, None),
    ],
)
def test_account_and_region_of_a_key(arn: str | None, account: str | None, region: str | None) -> None:
    expected = {} if account is None else {"kmsKeyAccount": account, "kmsKeyRegion": region}

    assert key_arn_attributes(arn) == expected


def test_the_context_has_every_member_of_request_metadata_that_is_modelled() -> None:
    for metadata, operation in (
        (CryptoRequestMetadata, Operation.DECRYPT),
        (KeyRequestMetadata, Operation.GET_KEY_METADATA),
    ):
        members = {name: f"value of {name}" for name in metadata.__struct_fields__}
        identity = Identity("key", "region")

        context = context_of(AuthorizationRequest.of(operation, "id", identity, metadata(**members)))

        encoded = dict(zip(metadata.__struct_encode_fields__, members.values(), strict=True))
        assert context == {**encoded, "region": "region", "accessKeyId": "key"}


def test_the_schema_has_an_action_for_each_operation_but_get_health_status() -> None:
    assert set(Operation) - ACTIONS.keys() == {Operation.GET_HEALTH_STATUS}
    for action in ACTIONS.values():
        policy = f'permit (principal, action == Xks::Action::"{action}", resource);'
        assert cedarpy.validate_policies(policy, schema_text()).validation_passed


# --- Decisions


def test_what_no_policy_permits_is_refused(make: Make) -> None:
    decision = make(when('context.region == "us-east-1"')).decide(_REQUEST)

    assert decision == Decision(allowed=False)
    assert decision.reason == "no policy permits the request"


def test_a_forbid_takes_precedence_over_a_permit_and_is_named(make: Make) -> None:
    refusal = when(f'principal.arn == "{_ALICE}"', "forbid")
    authorizer = make(f'permit (principal, action, resource);\n@id("not-alice")\n{refusal}')

    assert authorizer.decide(_REQUEST) == Decision(allowed=False, policies=("not-alice",))
    assert authorizer.decide(_REQUEST).reason == "refused by policy not-alice"
    assert authorizer.decide(_REQUEST._replace(aws_principal_arn="AWS Internal")) == Decision(True, ("p.cedar:1",))


def test_several_policies_that_decide_are_named_in_their_order(make: Make) -> None:
    text = "\n".join(f'@id("p{number}")\n{when("true")}' for number in range(12))

    assert make(text).decide(_REQUEST).policies == tuple(f"p{number}" for number in range(12))


def test_a_forbid_that_cannot_be_evaluated_refuses(make: Make) -> None:
    """Cedar itself would skip a policy that fails, and allow the request."""
    overflow = "9223372036854775807 + 1 > 0"
    authorizer = make(f'permit (principal, action, resource);\n@id("sum")\n{when(overflow, "forbid")}')

    decision = authorizer.decide(_REQUEST)

    assert not decision.allowed
    assert "`sum`" in decision.errors[0]
    assert "overflow" in decision.reason


def test_attributes_of_principal_and_key_can_be_asked(make: Make) -> None:
    authorizer = make(
        when('principal.kind == "iam" && principal has account && principal.account == "123456789012"')
        + "\n"
        + when(f'principal.arn != "{_ALICE}" || resource.keyStore != "dev"', "forbid")
        + '\nforbid (principal, action, resource) unless { resource == Xks::ExternalKey::"demo-key" };'
    )

    assert authorizer.decide(_REQUEST).allowed
    assert not authorizer.decide(_REQUEST._replace(key_id="other")).allowed


def test_the_metadata_the_signature_and_the_connection_can_be_asked(make: Make) -> None:
    full = _REQUEST._replace(
        kms_via_service="ebs", aws_source_vpc="vpc-1", aws_source_vpce="vpce-1", vpc_endpoint_id="vpce-2"
    )
    for member, value in context_of(full).items():
        authorizer = make(
            f'permit (principal, action == Xks::Action::"Encrypt", resource) when {{ context has {member} && '
            f"context.{member} == {json.dumps(value)} }};"
        )
        assert authorizer.decide(full).allowed
        assert not authorizer.decide(full._replace(operation=Operation.DECRYPT)).allowed


def test_a_decision_is_cached_by_everything_that_policies_read(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    original = module.is_authorized
    monkeypatch.setattr(module, "is_authorized", lambda *arguments: asked.append(arguments) or original(*arguments))
    authorizer = make(when('context.region == "eu-west-1"'))

    for number in range(5):
        assert authorizer.decide(_REQUEST._replace(kms_request_id=f"r-{number}")).allowed
    assert len(asked) == 1

    for field, value in _REQUEST._replace(operation=Operation.DECRYPT)._asdict().items():
        changed = value if field == "operation" else f"{value}x"
        authorizer.decide(_REQUEST._replace(**{field: changed}))
    assert len(asked) == len(_REQUEST)  # each field once, but the request's id


def test_a_policy_may_read_the_id_of_the_request(make: Make) -> None:
    authorizer = make(when('context.kmsRequestId == "r-1"'))

    assert authorizer.decide(_REQUEST).allowed
    assert not authorizer.decide(_REQUEST._replace(kms_request_id="r-2")).allowed


def test_a_long_request_is_decided_but_not_cached(make: Make) -> None:
    authorizer = make(when('context.region == "eu-west-1"'))

    assert authorizer.decide(_REQUEST._replace(aws_source_vpc="x" * 60_000)).allowed
    assert authorizer._evaluate_cached.cache_info().currsize == 0


@pytest.mark.parametrize("error", [RuntimeError, type("PanicException", (BaseException,), {}), MemoryError])
def test_a_failure_of_cedar_refuses_and_is_not_cached(
    make: Make, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    authorizer = make(when("true"))

    def fail(*_: Any) -> Any:
        raise error("quotes the request")

    with monkeypatch.context() as patch:
        patch.setattr(module, "is_authorized", fail)
        assert authorizer.decide(_REQUEST) == Decision(False, (), (f"Cedar failed: {error.__name__}",))
    assert authorizer.decide(_REQUEST).allowed


def test_a_request_that_does_not_fit_the_schema_is_refused(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cedar_request", lambda request: cedar_request(request) | {"context": '{"bogus": 1}'})

    decision = make(when("true")).decide(_REQUEST)

    assert not decision.allowed
    assert "failed to build request" in decision.reason


def test_a_health_check_has_no_action_and_would_be_refused(make: Make) -> None:
    assert not make(when("true")).decide(_REQUEST._replace(operation=Operation.GET_HEALTH_STATUS)).allowed


def test_without_policies_there_is_no_authorizer(tmp_path: Path) -> None:
    table = KeyStore(name="n", uri_path_prefix="", hsms=("h",), credentials="c", keys=(Key(id="k"),))

    assert Authorizer.build(table, None) is None


# --- Hostile values

_HOSTILE = st.one_of(
    st.text(max_size=60),
    st.text(alphabet=st.characters(), max_size=20),  # lone surrogates too
    st.sampled_from(
        [
            "",
            '"',
            '\\"',
            '" || true || "',
            'arn:aws:iam::123456789012:user/Alice"',
            '{"__entity": {"type": "Xks::Principal", "id": "a"}}',
            '{"__extn": {"fn": "ip", "arg": "::1"}}',
            'Xks::Principal::"a"',
            "\0",
            "\u202e",
            "\ud800",
            "x" * 5000,
            "policy0",
            "`policy99`",
        ]
    ),
)
_ANY_REQUEST = st.builds(
    AuthorizationRequest,
    operation=st.sampled_from(list(ACTIONS)),
    key_id=_HOSTILE,
    region=_HOSTILE,
    access_key_id=_HOSTILE,
    aws_principal_arn=_HOSTILE,
    kms_operation=_HOSTILE,
    kms_request_id=_HOSTILE,
    kms_key_arn=_HOSTILE,
    kms_via_service=st.none() | _HOSTILE,
    aws_source_vpc=st.none() | _HOSTILE,
    aws_source_vpce=st.none() | _HOSTILE,
    vpc_endpoint_id=st.none() | _HOSTILE,
)


def is_text(request_: AuthorizationRequest) -> bool:
    """Whether it can be written as UTF-8, which what was decoded from JSON always can."""
    try:
        "".join(value for value in request_ if isinstance(value, str)).encode()
    except UnicodeEncodeError:
        return False
    return True


@pytest.fixture(scope="module")
def only_alice(tmp_path_factory: pytest.TempPathFactory) -> Authorizer:
    """Permits one caller and forbids another."""
    path = tmp_path_factory.mktemp("policies") / "p.cedar"
    path.write_text(
        f'@id("permit") permit (principal == Xks::Principal::"{_ALICE}", action, resource);\n'
        'forbid (principal, action, resource) when { context has kmsViaService && context.kmsViaService == "evil" };'
    )
    return Authorizer("dev", load_policies([str(path)]))


@given(_ANY_REQUEST, st.booleans())
def test_only_permitted_requests_are_allowed_with_any_values(
    only_alice: Authorizer, request_: AuthorizationRequest, is_alice: bool
) -> None:
    if is_alice:
        request_ = request_._replace(aws_principal_arn=_ALICE)

    decision = only_alice.decide(request_)

    if request_.aws_principal_arn != _ALICE or request_.kms_via_service == "evil":
        assert not decision.allowed
    elif is_text(request_._replace(kms_request_id="")):  # which no policy here reads
        assert decision == Decision(True, ("permit",))
    else:
        assert decision.errors == ("Cedar failed: UnicodeEncodeError",)


@given(_ANY_REQUEST)
def test_the_input_of_cedar_conforms_to_the_schema(request_: AuthorizationRequest) -> None:
    """Otherwise a valid request would be refused or, without a schema, a forbid would be skipped."""
    if not is_text(request_):
        return  # which is refused, see above

    result = cedarpy.is_authorized(
        cedar_request(request_),
        "permit (principal, action, resource);",
        cedar_entities(request_, "dev"),
        schema_text(),
    )

    assert result.allowed
    assert result.diagnostics.errors == []
