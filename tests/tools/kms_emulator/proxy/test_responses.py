"""Answers that KMS must not accept, of each operation, and those that it must (R-HLTH, R-META, R-ENC, R-DEC)."""

import base64
import json
from typing import Any

import pytest
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome, ProxyFailure
from xksproxy_tools.kms_emulator.proxy.responses import (
    Sealed,
    check_decryption,
    check_encryption,
    check_health,
    check_key,
    read_answer,
)

from xksproxy.aead.cdiv import integrity_value
from xksproxy.spec.messages import (
    DecryptResponse,
    EncryptResponse,
    GetHealthStatusResponse,
    GetKeyMetadataResponse,
)

Json = dict[str, Any]

AAD = b"aad"
PLAINTEXT = b"twelve bytes"
SEALED = Sealed(b"c" * 12, b"v1", b"i" * 12, b"t" * 16)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def encryption(sealed: Sealed = SEALED, **changes: object) -> Json:
    """The answer of Encrypt, with a right integrity value; a change to None leaves a member out."""
    value = integrity_value(
        aad=AAD,
        ciphertext_metadata=sealed.ciphertext_metadata or b"",
        iv=sealed.iv,
        ciphertext=sealed.ciphertext,
        tag=sealed.tag,
    )
    metadata = sealed.ciphertext_metadata
    answer = {
        "ciphertext": encoded(sealed.ciphertext),
        "initializationVector": encoded(sealed.iv),
        "authenticationTag": encoded(sealed.tag),
        "ciphertextMetadata": None if metadata is None else encoded(metadata),
        "ciphertextDataIntegrityValue": encoded(value),
    }
    return without_none({**answer, **changes})


def health(**changes: object) -> Json:
    return without_none(
        {
            "xksProxyFleetSize": 2,
            "xksProxyVendor": "Acme",
            "xksProxyModel": "Acme XKS 1.0",
            "ekmVendor": "Thales",
            "ekmFleetDetails": [instance()],
            **changes,
        }
    )


def instance(**changes: object) -> Json:
    return without_none({"id": "hsm-1", "model": "Luna 7", "healthStatus": "ACTIVE", **changes})


def key(**changes: object) -> Json:
    return without_none({"keySpec": "AES_256", "keyUsage": ["ENCRYPT", "DECRYPT"], "keyStatus": "ENABLED", **changes})


def without_none(members: Json) -> Json:
    return {name: value for name, value in members.items() if value is not None}


def failure_of(read: Any, answer: Json | bytes) -> ProxyFailure:
    with pytest.raises(ProxyFailure) as raised:
        read(answer)
    return raised.value


def read_health(answer: Json | bytes, status: int = 200) -> GetHealthStatusResponse:
    return check_health(read_answer(GetHealthStatusResponse, status, as_body(answer)))


def read_key(answer: Json | bytes) -> GetKeyMetadataResponse:
    return check_key(read_answer(GetKeyMetadataResponse, 200, as_body(answer)))


def read_encryption(answer: Json | bytes) -> Sealed:
    return check_encryption(read_answer(EncryptResponse, 200, as_body(answer)), PLAINTEXT, AAD)


def read_decryption(answer: Json | bytes) -> bytes:
    return check_decryption(read_answer(DecryptResponse, 200, as_body(answer)), SEALED.ciphertext)


def as_body(answer: Json | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else json.dumps(answer).encode()


# --- Good answers


@pytest.mark.parametrize("iv", [b"i" * 12, b"i" * 16])
@pytest.mark.parametrize("metadata", [None, b"", b"m" * 20])
def test_what_the_api_allows_is_taken_as_it_is(iv: bytes, metadata: bytes | None) -> None:
    sealed = Sealed(b"c" * 12, metadata, iv, b"t" * 16)

    assert read_encryption(encryption(sealed)) == sealed


def test_the_worked_example_of_the_integrity_value_is_accepted() -> None:
    """Vector CDIV-1."""
    answer = {
        "ciphertext": "ghxkK1txeDNn3q8Y",
        "ciphertextMetadata": "a2V5X3ZlcnNpb249MQ==",
        "initializationVector": "HMrlRw85cAJUd5Ax",
        "authenticationTag": "vBxN2ncH1oEkR8WVXpmyYQ==",
        "ciphertextDataIntegrityValue": "qHA/ImC9h5HsLRXqCyPmWgYx7tzyoTplzILbP0fPXsc=",
    }
    response = read_answer(EncryptResponse, 200, json.dumps(answer).encode())

    sealed = check_encryption(response, b"Hello World!", b"project=nile,department=marketing")

    assert sealed.ciphertext_metadata == b"key_version=1"


def test_members_that_the_api_does_not_know_are_no_harm() -> None:
    assert read_decryption({"plaintext": encoded(PLAINTEXT), "more": {"errorName": "in vain"}}) == PLAINTEXT


@pytest.mark.parametrize("states", [["ACTIVE"], ["DEGRADED"], ["UNAVAILABLE", "DEGRADED"], ["ACTIVE"] * 10])
def test_one_instance_that_serves_is_enough(states: list[str]) -> None:
    details = [instance(healthStatus=state) for state in states]

    assert len(read_health(health(ekmFleetDetails=details)).ekm_fleet_details) == len(states)


def test_all_instances_unavailable_is_a_failure_of_its_own() -> None:
    """R-HLTH-8."""
    details = [instance(id=name, healthStatus="UNAVAILABLE") for name in ("a", "b")]

    error = failure_of(read_health, health(ekmFleetDetails=details))

    assert error.outcome is Outcome.ALL_UNAVAILABLE
    assert "a, b" in error.detail


def test_usages_beyond_those_that_kms_needs_are_allowed() -> None:
    """R-META-4."""
    usages = ["ENCRYPT", "DECRYPT", *(f"USAGE_{n}" for n in range(8))]

    assert read_key(key(keyUsage=usages)).key_usage == usages


# --- Malformed answers


@pytest.mark.parametrize(
    "answer",
    [
        health(xksProxyFleetSize=0),
        health(xksProxyFleetSize=-1),
        health(xksProxyFleetSize=1.5),
        health(xksProxyFleetSize="2"),
        health(xksProxyFleetSize=True),
        health(xksProxyFleetSize=None),
        health(xksProxyVendor=None),
        health(xksProxyModel=None),
        health(ekmVendor=None),
        health(ekmFleetDetails=None),
        health(ekmFleetDetails=[]),
        health(ekmFleetDetails=[instance()] * 11),
        health(ekmFleetDetails=instance()),
        health(ekmFleetDetails=[instance(id=None)]),
        health(ekmFleetDetails=[instance(model=None)]),
        health(ekmFleetDetails=[instance(healthStatus=None)]),
        health(ekmFleetDetails=[instance(healthStatus="active")]),
        health(ekmFleetDetails=[instance(), instance(healthStatus="BROKEN")]),
    ],
    ids=json.dumps,
)
def test_health_that_is_malformed(answer: Json) -> None:
    """R-HLTH-1."""
    assert failure_of(read_health, answer).outcome is Outcome.MALFORMED


@pytest.mark.parametrize(
    "answer",
    [
        key(keySpec=None),
        key(keyUsage=None),
        key(keyStatus=None),
        key(keyUsage="ENCRYPT"),
        key(keyUsage=["ENCRYPT"] * 11),
        key(keyUsage=[1]),
    ],
    ids=json.dumps,
)
def test_metadata_of_a_key_that_are_malformed(answer: Json) -> None:
    """R-META-1, R-META-4."""
    assert failure_of(read_key, answer).outcome is Outcome.MALFORMED


@pytest.mark.parametrize(
    "answer",
    [
        encryption(ciphertext=None),
        encryption(initializationVector=None),
        encryption(authenticationTag=None),
        encryption(ciphertextDataIntegrityValue=None),
        encryption(ciphertextDataIntegrityValue=encoded(b"x" * 32)),
        encryption(ciphertextDataIntegrityValue=""),
        encryption(ciphertextMetadata=None, ciphertextDataIntegrityValue=encryption()["ciphertextDataIntegrityValue"]),
        encryption(ciphertext="no base64!"),
        encryption(ciphertext=encoded(b"\xfb\xff" * 6).replace("+", "-").replace("/", "_")),
        encryption(authenticationTag=encoded(b"t" * 16).rstrip("=")),
        encryption(Sealed(b"c" * 11, None, b"i" * 12, b"t" * 16)),
        encryption(Sealed(b"c" * 13, None, b"i" * 12, b"t" * 16)),
        encryption(Sealed(b"c" * 12 + b"t" * 16, None, b"i" * 12, b"t" * 16)),
        encryption(Sealed(b"c" * 12, None, b"", b"t" * 16)),
        encryption(Sealed(b"c" * 12, None, b"i" * 13, b"t" * 16)),
        encryption(Sealed(b"c" * 12, None, b"i" * 12, b"t" * 15)),
        encryption(Sealed(b"c" * 12, None, b"i" * 12, b"t" * 17)),
        encryption(Sealed(b"c" * 12, b"m" * 21, b"i" * 12, b"t" * 16)),
    ],
    ids=json.dumps,
)
def test_an_encryption_that_is_malformed(answer: Json) -> None:
    """R-ENC-4 to R-ENC-9, R-CDIV-7, R-REQ-8."""
    assert failure_of(read_encryption, answer).outcome is Outcome.MALFORMED


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"plaintext": None},
        {"plaintext": 1},
        {"plaintext": "a"},
        {"plaintext": encoded(b"p" * 11)},
        {"plaintext": encoded(b"p" * 13)},
        {"plaintext": ""},
    ],
    ids=json.dumps,
)
def test_a_decryption_that_is_malformed(answer: Json) -> None:
    """R-DEC-5."""
    error = failure_of(read_decryption, answer)

    assert error.outcome is Outcome.MALFORMED
    assert "cHBw" not in error.detail, "a plaintext is nothing to tell"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"OK",
        b"<html></html>",
        b"[]",
        b'"text"',
        b"null",
        b'{"plaintext": "c',
        b'{"plaintext": "\xff"}',
        b"[" * 60_000,
        b'{"a":' * 12_000,
        json.dumps(health()).encode() + b"x",
    ],
)
def test_what_is_no_json_object_is_malformed(body: bytes) -> None:
    assert failure_of(read_health, body).outcome is Outcome.MALFORMED


# --- Errors


@pytest.mark.parametrize("status", [200, 400, 500])
def test_the_name_of_an_error_decides_whatever_the_status(status: int) -> None:
    with pytest.raises(ProxyFailure) as raised:
        read_health({"errorName": "AccessDeniedException"}, status)

    assert raised.value.outcome is Outcome.ACCESS_DENIED


@pytest.mark.parametrize(
    "answer",
    [
        {"errorName": "NoSuchException"},
        {"errorName": "accessdeniedexception"},
        {"errorName": "no TCP connection"},
        {"errorName": ""},
        {"errorName": 1},
        {"errorMessage": "no name"},
        {"message": "Forbidden"},
        {},
        health(),
    ],
    ids=json.dumps,
)
def test_an_error_without_a_name_that_the_api_knows_is_malformed(answer: Json) -> None:
    """R-ERR-4."""
    with pytest.raises(ProxyFailure) as raised:
        read_health(answer, 403)

    assert raised.value.outcome is Outcome.MALFORMED


def test_what_the_proxy_says_cannot_fill_or_forge_a_log() -> None:
    message = "line\nof its own\x1b[2J" + "x" * 5000

    error = failure_of(read_health, {"errorName": "InternalException", "errorMessage": message})

    assert error.detail.isprintable()
    assert len(error.detail) < 400
