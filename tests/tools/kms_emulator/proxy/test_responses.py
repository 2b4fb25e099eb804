"""The answers of a proxy that KMS accepts, and those that it must refuse (R-HLTH, R-META, R-ENC, R-DEC)."""

import base64
import json
from collections.abc import Callable
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
    """The answer of Encrypt, with the right integrity value; a change to None leaves a member out."""
    metadata = sealed.ciphertext_metadata
    value = integrity_value(
        aad=AAD, ciphertext_metadata=metadata or b"", iv=sealed.iv, ciphertext=sealed.ciphertext, tag=sealed.tag
    )
    answer = {
        "ciphertext": encoded(sealed.ciphertext),
        "initializationVector": encoded(sealed.iv),
        "authenticationTag": encoded(sealed.tag),
        "ciphertextMetadata": None if metadata is None else encoded(metadata),
        "ciphertextDataIntegrityValue": encoded(value),
    }
    return without_none({**answer, **changes})


def health(**changes: object) -> Json:
    proxy = {"xksProxyFleetSize": 2, "xksProxyVendor": "Acme", "xksProxyModel": "Acme XKS 1.0", "ekmVendor": "Thales"}
    return without_none({**proxy, "ekmFleetDetails": [instance()], **changes})


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
def test_an_encryption_with_any_sizes_that_the_api_allows_is_accepted(iv: bytes, metadata: bytes | None) -> None:
    sealed = Sealed(b"c" * 12, metadata, iv, b"t" * 16)

    assert read_encryption(encryption(sealed)) == sealed


def test_unknown_members_are_ignored() -> None:
    assert read_decryption({"plaintext": encoded(PLAINTEXT), "more": {"errorName": "in vain"}}) == PLAINTEXT


@pytest.mark.parametrize("states", [["ACTIVE"], ["DEGRADED"], ["UNAVAILABLE", "DEGRADED"], ["ACTIVE"] * 10])
def test_one_available_instance_is_enough(states: list[str]) -> None:
    details = [instance(healthStatus=state) for state in states]

    assert len(read_health(health(ekmFleetDetails=details)).ekm_fleet_details) == len(states)


def test_all_instances_unavailable_is_a_separate_failure() -> None:
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


def changed(make: Callable[..., Json], **wrong: tuple[object, ...]) -> list[Json]:
    """Answers with one wrong member each."""
    return [make(**{name: value}) for name, values in wrong.items() for value in values]


def sealed(ciphertext: bytes = b"c" * 12, metadata: bytes = b"", iv: bytes = b"i" * 12, tag: bytes = b"t" * 16) -> Json:
    return encryption(Sealed(ciphertext, metadata, iv, tag))


HEALTH = [
    *changed(health, xksProxyFleetSize=(0, -1, 1.5, "2", True, None), xksProxyVendor=(None,), xksProxyModel=(None,)),
    *changed(health, ekmVendor=(None,), ekmFleetDetails=(None, [], [instance()] * 11, instance())),
    *changed(health, ekmFleetDetails=([one] for one in changed(instance, id=(None,), model=(None,)))),
    *changed(health, ekmFleetDetails=([instance(), instance(healthStatus=state)] for state in (None, "active", "BAD"))),
]
KEY = changed(key, keySpec=(None,), keyStatus=(None,), keyUsage=(None, "ENCRYPT", ["ENCRYPT"] * 11, [1]))
ENCRYPTION = [
    *changed(encryption, ciphertext=(None, "no base64!", encoded(b"\xfb\xff" * 6).translate({43: 45, 47: 95}))),
    *changed(encryption, initializationVector=(None,), authenticationTag=(None, encoded(b"t" * 16).rstrip("="))),
    *changed(encryption, ciphertextDataIntegrityValue=(None, encoded(b"x" * 32), "")),
    encryption(ciphertextMetadata=None, ciphertextDataIntegrityValue=encryption()["ciphertextDataIntegrityValue"]),
    *(sealed(ciphertext=wrong) for wrong in (b"c" * 11, b"c" * 13, b"c" * 12 + b"t" * 16)),
    *(sealed(iv=wrong) for wrong in (b"", b"i" * 13)),
    *(sealed(tag=wrong) for wrong in (b"t" * 15, b"t" * 17)),
    sealed(metadata=b"m" * 21),
]
DECRYPTION: list[Json] = [
    {},
    *({"plaintext": wrong} for wrong in (None, 1, "a", encoded(b"p" * 11), encoded(b"p" * 13), "")),
]


@pytest.mark.parametrize(
    ("read", "answer"),
    [
        *((read_health, answer) for answer in HEALTH),
        *((read_key, answer) for answer in KEY),
        *((read_encryption, answer) for answer in ENCRYPTION),
        *((read_decryption, answer) for answer in DECRYPTION),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else value.__name__,
)
def test_a_malformed_answer_is_refused(read: Any, answer: Json) -> None:
    """R-HLTH-1, R-META-1, R-META-4, R-ENC-4 to R-ENC-9, R-CDIV-7, R-REQ-8, R-DEC-5."""
    error = failure_of(read, answer)

    assert error.outcome is Outcome.MALFORMED
    assert "cHBw" not in error.detail, "no part of a plaintext is shown"


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"OK", b"<html></html>", b"[]", b'"text"', b"null", b'{"plaintext": "c', b'{"plaintext": "\xff"}'),
        *(b"[" * 60_000, b'{"a":' * 12_000, json.dumps(health()).encode() + b"x"),
    ],
)
def test_a_body_that_is_not_a_json_object_is_malformed(body: bytes) -> None:
    assert failure_of(read_health, body).outcome is Outcome.MALFORMED


# --- Errors


@pytest.mark.parametrize("status", [200, 400, 500])
def test_the_name_of_an_error_decides_regardless_of_the_status(status: int) -> None:
    error = failure_of(lambda answer: read_health(answer, status), {"errorName": "AccessDeniedException"})

    assert error.outcome is Outcome.ACCESS_DENIED


@pytest.mark.parametrize(
    "answer",
    [
        *({"errorName": name} for name in ("NoSuchException", "accessdeniedexception", "no TCP connection", "", 1)),
        *({"errorMessage": "no name"}, {"message": "Forbidden"}, {}, health()),
    ],
    ids=json.dumps,
)
def test_an_error_without_a_name_of_the_api_is_malformed(answer: Json) -> None:
    """R-ERR-4."""
    assert failure_of(lambda answer: read_health(answer, 403), answer).outcome is Outcome.MALFORMED


def test_the_text_of_the_proxy_is_shortened_and_escaped_for_the_log() -> None:
    message = "line\nof its own\x1b[2J" + "x" * 5000

    error = failure_of(read_health, {"errorName": "InternalException", "errorMessage": message})

    assert error.detail.isprintable()
    assert len(error.detail) < 400
