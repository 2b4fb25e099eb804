"""Requests and answers by botocore's model."""

import json
from typing import Any

import pytest
from emulator_support import CREDENTIAL, KMS_MODEL, PUBLIC
from xksproxy_tools.kms_emulator.errors import KmsError

KEY = {"KeyId": "k"}
PATTERN = "regular expression pattern"


def parse(operation: str, document: Any) -> dict[str, Any]:
    return KMS_MODEL.parse(operation, json.dumps(document).encode())


def refusal(operation: str, document: Any) -> KmsError:
    with pytest.raises(KmsError) as caught:
        parse(operation, document)
    return caught.value


def test_blobs_in_parameters_are_decoded() -> None:
    document = {"KeyId": "alias/a", "Plaintext": "aGVsbG8=", "EncryptionContext": {"a": "b"}}

    assert parse("Encrypt", document) == {"KeyId": "alias/a", "Plaintext": b"hello", "EncryptionContext": {"a": "b"}}


def test_an_empty_body_is_an_empty_request() -> None:
    assert KMS_MODEL.parse("ListKeys", b"") == {}


def test_unknown_members_and_nulls_are_ignored() -> None:
    assert parse("ListKeys", {"Limit": None, "Whatever": 1}) == {}


@pytest.mark.parametrize("body", [b"x", b"[]", b'"x"', b"\xff", b"null", b'{"a":' * 100_000])
def test_a_body_that_is_not_a_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(KmsError, match="SerializationException: the body of the request is not a JSON object"):
        KMS_MODEL.parse("ListKeys", body)


@pytest.mark.parametrize(
    ("operation", "document", "message"),
    [
        ("ListKeys", {"Limit": "1"}, "STRING_VALUE can not be converted to an integer"),
        ("ListKeys", {"Limit": True}, "BOOLEAN_VALUE can not be converted to an integer"),
        ("ListKeys", {"Limit": 1.5}, "NUMBER_VALUE can not be converted to an integer"),
        ("DescribeKey", {"KeyId": 1}, "NUMBER_VALUE can not be converted to a string"),
        ("DescribeKey", {"KeyId": "\ud800"}, "STRING_VALUE is not Unicode text: it has an unpaired surrogate"),
        ("Encrypt", {"Plaintext": "a?=="}, "STRING_VALUE can not be converted to a blob: not Base64"),
        ("Encrypt", {"Plaintext": "aG?k="}, "STRING_VALUE can not be converted to a blob: not Base64"),
        ("Encrypt", {"Plaintext": "aGk"}, "STRING_VALUE can not be converted to a blob: not Base64"),
        ("Encrypt", {"EncryptionContext": []}, "START_ARRAY can not be converted to a map"),
        ("Encrypt", {"EncryptionContext": {"a": 1}}, "NUMBER_VALUE can not be converted to a string"),
        ("TagResource", {"Tags": {}}, "START_OBJECT can not be converted to a list"),
        ("TagResource", {"Tags": [None]}, "NULL_VALUE can not be converted to a structure"),
        ("CreateKey", {"MultiRegion": 0}, "NUMBER_VALUE can not be converted to a boolean"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused(operation: str, document: Any, message: str) -> None:
    error = refusal(operation, document)

    assert (error.name, error.message) == ("SerializationException", message)


@pytest.mark.parametrize(
    ("operation", "document", "where", "rule"),
    [
        ("DescribeKey", {}, " null at 'keyId'", "not be null"),
        ("DescribeKey", {"KeyId": ""}, " '' at 'keyId'", "have length greater than or equal to 1"),
        ("ListKeys", {"Limit": 1001}, " '1001' at 'limit'", "have value less than or equal to 1000"),
        ("Encrypt", {**KEY, "Plaintext": "AAAA" * 1366}, " at 'plaintext'", "have length less than or equal to 4096"),
        (
            "GenerateDataKey",
            {"KeyId": "k", "KeySpec": "AES_512"},
            " 'AES_512' at 'keySpec'",
            "satisfy enum value set: [AES_256, AES_128]",
        ),
        ("CreateKey", {"XksKeyId": "a/b"}, " 'a/b' at 'xksKeyId'", f"satisfy {PATTERN}: ^[a-zA-Z0-9-_.]+$"),
        (
            "TagResource",
            {"KeyId": "k", "Tags": [{"TagKey": "a", "TagValue": "b"}, {"TagKey": "a"}]},
            " null at 'tags.2.member.tagValue'",
            "not be null",
        ),
    ],
)
def test_a_violated_constraint_is_described_as_by_aws(operation: str, document: Any, where: str, rule: str) -> None:
    error = refusal(operation, document)

    message = f"1 validation error detected: Value{where} failed to satisfy constraint: Member must {rule}"
    assert (error.name, error.message) == ("ValidationException", message)


def test_all_violated_constraints_are_reported_together() -> None:
    error = refusal("Encrypt", {"EncryptionAlgorithm": "ROT13"})

    assert error.message.startswith("3 validation errors detected: Value null at 'keyId' ")
    assert error.message.count("; Value") == 2


@pytest.mark.parametrize(
    ("member", "value", "legal"),
    [
        ("XksProxyUriEndpoint", "https://xks.example.com", True),
        ("XksProxyUriEndpoint", "http://xks.example.com", False),
        ("XksProxyUriEndpoint", "https://xks.example.com:6443", False),
        ("XksProxyUriEndpoint", "https://xks.example.com/", False),
        ("XksProxyUriEndpoint", "https://xks.example.com\n", False),
        ("XksProxyUriPath", "/kms/xks/v1", True),
        ("XksProxyUriPath", "/a/b-c_d/kms/xks/v1", True),
        ("XksProxyUriPath", "//kms/xks/v1", False),
        ("XksProxyUriPath", "/a.b/kms/xks/v1", False),
        ("XksProxyUriPath", "/kms/xks/v1/", False),
        ("XksProxyUriPath", "/kms/xks/v123", False),
        ("XksProxyUriPath", f"/{'a' * 120}/kms/xks/v1", False),
        ("XksProxyVpcEndpointServiceName", "com.amazonaws.vpce.eu-west-1.vpce-svc-0a1b2c", True),
        ("XksProxyVpcEndpointServiceName", "com.amazonaws.vpce.eu-west-1.svc-0a1b2c3d4e", False),
        ("XksProxyVpcEndpointServiceOwner", "123456789012", True),
        ("XksProxyVpcEndpointServiceOwner", "12345678901", False),
        ("XksProxyAuthenticationCredential", {**CREDENTIAL, "AccessKeyId": "ABCDE98765432EXAMPLE"}, False),
        ("XksProxyAuthenticationCredential", {**CREDENTIAL, "RawSecretAccessKey": "s" * 42}, False),
        ("XksProxyAuthenticationCredential", {"AccessKeyId": CREDENTIAL["AccessKeyId"]}, False),
    ],
)
def test_the_settings_of_a_proxy_must_match_their_patterns(member: str, value: Any, *, legal: bool) -> None:
    document = {"CustomKeyStoreName": "store", **PUBLIC, member: value}

    if legal:
        assert parse("CreateCustomKeyStore", document)[member] == value
    else:
        assert refusal("CreateCustomKeyStore", document).name == "ValidationException"


def test_a_secret_is_not_in_the_message() -> None:
    document = {
        "CustomKeyStoreName": "s",
        "XksProxyAuthenticationCredential": {**CREDENTIAL, "RawSecretAccessKey": "?"},
    }

    error = refusal("CreateCustomKeyStore", document)

    assert "?" not in error.message
    assert "Value at 'xksProxyAuthenticationCredential.rawSecretAccessKey'" in error.message


def test_an_answer_has_blobs_in_base64_and_leaves_out_what_is_none() -> None:
    result = {"KeyId": "arn", "Plaintext": b"hello", "CiphertextForRecipient": None}

    assert json.loads(KMS_MODEL.render("Decrypt", result)) == {"KeyId": "arn", "Plaintext": "aGVsbG8="}


def test_an_empty_output_is_an_empty_object_and_no_output_is_no_body() -> None:
    assert KMS_MODEL.render("ConnectCustomKeyStore", {}) == b"{}"
    assert KMS_MODEL.render("EnableKey", None) == b""


def test_a_result_with_an_unknown_member_is_an_error() -> None:
    with pytest.raises(KeyError):
        KMS_MODEL.render("Decrypt", {"Plain": b""})
