"""GetKeyMetadata to the letter (R-META-*, R-REQ-*, Q-5)."""

import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
from pkcs11 import Attribute, KeyType, Mechanism
from server_support import Caller, Wire, assert_json, assert_refused, find_key, import_key, key_path, request, signed
from support import Proxy, eventually

from xksproxy.client.xks import Answer, XksClient
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.spec.uri import Operation

ARN_OF_2048 = "arn:aws:iam::123456789012:role/" + "r" * (2048 - len("arn:aws:iam::123456789012:role/"))
NOT_A_STRING = [None, 7, 1.5, True, ["x"], {"x": "y"}]


@pytest.fixture
def metadata() -> dict[str, Any]:
    """The least that GetKeyMetadata takes."""
    return {
        "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
        "kmsOperation": "CreateKey",
        "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
    }


@pytest.fixture
def describe_everywhere(roaming: Caller, metadata: dict[str, Any]) -> Callable[[str], Answer]:
    """GetKeyMetadata over many connections in turn."""

    def call(key_id: str) -> Answer:
        return roaming.client.call(Operation.GET_KEY_METADATA, {"requestMetadata": metadata}, key_id)

    return call


@pytest.fixture
def describe(client: XksClient, metadata: dict[str, Any]) -> Callable[..., Answer]:
    """GetKeyMetadata of a key, with members of requestMetadata changed or added."""

    def call(key_id: str, **changes: Any) -> Answer:
        return client.call(Operation.GET_KEY_METADATA, {"requestMetadata": {**metadata, **changes}}, key_id)

    return call


def test_the_answer_has_exactly_the_three_fields(describe: Callable[..., Answer]) -> None:
    answer = describe("demo-key")

    assert answer.status == 200
    assert answer.body == {"keySpec": "AES_256", "keyUsage": ["ENCRYPT", "DECRYPT"], "keyStatus": "ENABLED"}


def test_the_answer_is_json_without_a_blank_after_a_colon(proxy: Proxy, wire: Wire, metadata: dict[str, Any]) -> None:
    path = key_path("metadata")
    body = json.dumps({"requestMetadata": metadata}, indent=2).encode()

    reply = wire.ask(request("POST", path, signed(proxy, path, body), body))

    assert reply.status == 200
    assert_json(reply)
    assert reply.content == b'{"keySpec":"AES_256","keyUsage":["ENCRYPT","DECRYPT"],"keyStatus":"ENABLED"}'


@pytest.mark.parametrize(
    ("key_id", "usages"),
    [("encrypt-only-key", ["ENCRYPT"]), ("decrypt-only-key", ["DECRYPT"]), ("impotent-key", [])],
)
def test_usages_are_exactly_those_the_key_supports(
    describe: Callable[..., Answer], key_id: str, usages: list[str]
) -> None:
    answer = describe(key_id)

    assert answer.status == 200
    assert answer.body == {"keySpec": "AES_256", "keyUsage": usages, "keyStatus": "ENABLED"}


def test_a_disabled_key_is_reported_and_not_refused(describe: Callable[..., Answer]) -> None:
    answer = describe("disabled-key")

    assert answer.status == 200
    assert answer.body == {"keySpec": "AES_256", "keyUsage": ["ENCRYPT", "DECRYPT"], "keyStatus": "DISABLED"}


@pytest.mark.parametrize("bits", [128, 192])
def test_a_shorter_aes_key_is_reported_truthfully(
    describe: Callable[..., Answer], session: HsmSession, unique_label: Callable[[str], str], bits: int
) -> None:
    label = unique_label("short")
    session.create_key(label, bits=bits, encrypt=True, decrypt=True)

    answer = describe(label)

    assert (answer.status, answer.body["keySpec"]) == (200, f"AES_{bits}")


def test_a_generic_secret_of_256_bits_is_no_aes_key(
    describe: Callable[..., Answer], session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    label = unique_label("generic")
    session._session.generate_key(
        KeyType.GENERIC_SECRET, 256, label=label, store=True, mechanism=Mechanism.GENERIC_SECRET_KEY_GEN
    )

    answer = describe(label)

    assert (answer.status, answer.body["keySpec"]) == (200, "GENERIC_SECRET_256")


def test_further_usages_are_listed_and_never_more_than_ten(
    describe: Callable[..., Answer], session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    label = unique_label("all-usages")
    import_key(session, label, bytes(32))
    more = (Attribute.SIGN, Attribute.VERIFY, Attribute.WRAP, Attribute.UNWRAP, Attribute.DERIVE)
    for usage in more:
        find_key(session, label)[usage] = True

    answer = describe(label)

    assert answer.body["keyUsage"] == ["ENCRYPT", "DECRYPT", "SIGN", "VERIFY", "WRAP", "UNWRAP", "DERIVE"]
    assert len(answer.body["keyUsage"]) <= 10


@pytest.mark.parametrize(
    "key_id",
    ["no-such-key", "test-not-on-the-token", "Demo-key", "demo-key2", "demo-ke", "x" * 128],
)
def test_an_unknown_key_is_not_found(describe: Callable[..., Answer], key_id: str) -> None:
    assert_refused(describe(key_id), 404, "KeyNotFoundException")


def test_a_key_of_the_token_that_no_entry_names_does_not_exist(
    describe: Callable[..., Answer], session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    label = f"un{unique_label('exposed')}"
    session.create_key(label, bits=256, encrypt=True, decrypt=True)

    assert_refused(describe(label), 404, "KeyNotFoundException")


def test_each_key_store_knows_its_own_keys_alone(proxy: Proxy, metadata: dict[str, Any]) -> None:
    with XksClient(proxy.endpoint("", proxy.other_credential), proxy.context()) as other:
        message = {"requestMetadata": metadata}

        assert other.call(Operation.GET_KEY_METADATA, message, "demo-key").status == 200
        hidden = other.call(Operation.GET_KEY_METADATA, message, "encrypt-only-key")

    assert_refused(hidden, 404, "KeyNotFoundException")


def test_two_keys_of_one_label_are_an_invalid_state(
    describe: Callable[..., Answer], session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    label = unique_label("twice")
    import_key(session, label, bytes(32))
    import_key(session, label, bytes(range(32)))

    assert_refused(describe(label), 400, "InvalidStateException")


def test_destruction_by_another_process_is_seen_at_once_and_creation_within_seconds(
    describe_everywhere: Callable[[str], Answer], session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    label = unique_label("coming-and-going")

    def is_aes(bits: int) -> bool:
        return all(describe_everywhere(label).body.get("keySpec") == f"AES_{bits}" for _ in range(20))

    for bits in (256, 128, 256):
        assert_refused(describe_everywhere(label), 404, "KeyNotFoundException")
        session.create_key(label, bits=bits, encrypt=True, decrypt=True)
        eventually(functools.partial(is_aes, bits))
        find_key(session, label).destroy()


def test_a_usage_changed_on_the_token_is_seen_at_once(
    describe_everywhere: Callable[[str], Answer], session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    label = unique_label("usage")
    session.create_key(label, bits=256, encrypt=True, decrypt=True)
    for _ in range(20):
        assert describe_everywhere(label).body["keyUsage"] == ["ENCRYPT", "DECRYPT"]

    find_key(session, label)[Attribute.DECRYPT] = False

    for _ in range(20):
        assert describe_everywhere(label).body["keyUsage"] == ["ENCRYPT"]


def test_a_key_id_may_have_128_characters_of_every_legal_kind(
    describe: Callable[..., Answer], session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    label = unique_label("Az09._-..")
    label += "x" * (128 - len(label))
    session.create_key(label, bits=256, encrypt=True, decrypt=True)

    assert describe(label).status == 200
    assert_refused(describe(f"{label}x"), 404, "KeyNotFoundException")


@pytest.mark.parametrize("operation", ["DescribeKey", "CreateKey", "SomethingNew", "", "😀" * 300])
def test_any_kms_operation_will_do(describe: Callable[..., Answer], operation: str) -> None:
    assert describe("demo-key", kmsOperation=operation).status == 200


@pytest.mark.parametrize("request_id", ["", "not a uuid", "x" * 3000, "\u0000\n\"'"])
def test_the_request_id_is_opaque(describe: Callable[..., Answer], request_id: str) -> None:
    assert describe("demo-key", kmsRequestId=request_id).status == 200


@pytest.mark.parametrize("principal", [ARN_OF_2048, "ec2.amazonaws.com", "AWS Internal", ""])
def test_the_principal_is_not_judged(describe: Callable[..., Answer], principal: str) -> None:
    assert describe("demo-key", awsPrincipalArn=principal).status == 200


def test_unknown_and_optional_members_are_accepted(client: XksClient, metadata: dict[str, Any]) -> None:
    metadata |= {
        "awsSourceVpc": "vpc-1",
        "awsSourceVpce": "vpce-1",
        "kmsKeyArn": "arn:aws:kms:us-east-1:123456789012:/key/malformed",
        "kmsViaService": "ebs",
        "SourceIdentity": "someone",
        "kmsRecipientAttestationPCR0": {"deep": [1, None, {"er": True}]},
    }

    answer = client.call(Operation.GET_KEY_METADATA, {"requestMetadata": metadata, "more": [{}]}, "demo-key")

    assert answer.status == 200


@pytest.mark.parametrize("member", ["awsSourceVpc", "awsSourceVpce", "kmsKeyArn", "kmsViaService"])
def test_an_optional_member_may_be_null(describe: Callable[..., Answer], member: str) -> None:
    assert describe("demo-key", **{member: None}).status == 200


@pytest.mark.parametrize("member", ["awsPrincipalArn", "kmsOperation", "kmsRequestId"])
def test_a_missing_member_is_a_validation_error(client: XksClient, metadata: dict[str, Any], member: str) -> None:
    del metadata[member]

    answer = client.call(Operation.GET_KEY_METADATA, {"requestMetadata": metadata}, "demo-key")

    assert_refused(answer, 400, "ValidationException")
    assert member in answer.body["errorMessage"]


@pytest.mark.parametrize("value", NOT_A_STRING)
@pytest.mark.parametrize("member", ["awsPrincipalArn", "kmsOperation", "kmsRequestId"])
def test_a_member_of_the_wrong_type_is_a_validation_error(
    describe: Callable[..., Answer], member: str, value: object
) -> None:
    assert_refused(describe("demo-key", **{member: value}), 400, "ValidationException")


@pytest.mark.parametrize("value", NOT_A_STRING[1:])
@pytest.mark.parametrize("member", ["awsSourceVpc", "awsSourceVpce", "kmsKeyArn", "kmsViaService"])
def test_an_optional_member_of_the_wrong_type_is_a_validation_error(
    describe: Callable[..., Answer], member: str, value: object
) -> None:
    assert_refused(describe("demo-key", **{member: value}), 400, "ValidationException")


@pytest.mark.parametrize(
    "message",
    [{}, {"requestMetadata": {}}, {"requestMetadata": None}, {"requestMetadata": "x"}, {"requestMetadata": []}],
)
def test_a_missing_or_empty_request_metadata_is_a_validation_error(client: XksClient, message: dict[str, Any]) -> None:
    assert_refused(client.call(Operation.GET_KEY_METADATA, message, "demo-key"), 400, "ValidationException")
