"""The errors of KMS after each outcome: the API's table of error codes."""

import pytest
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.proxy.kms_errors import (
    connection_error_code,
    create_key_error,
    cryptographic_error,
    key_refusal,
    key_store_error,
)
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome

from xksproxy.spec.messages import GetKeyMetadataResponse

STATE = "CustomKeyStoreInvalidStateException"
KEY = "XksKeyInvalidConfigurationException"
INVALID = ("XksProxyInvalidResponseException", "XKS_PROXY_INVALID_RESPONSE")
UNREACHABLE = "XksProxyUriUnreachableException"

# Outcome: exception of Create- and UpdateCustomKeyStore, ConnectionErrorCode, exception of CreateKey.
TABLE = {
    Outcome.VALIDATION: (*INVALID, STATE),
    Outcome.INVALID_STATE: (UNREACHABLE, "XKS_PROXY_NOT_REACHABLE", KEY),
    Outcome.INVALID_CIPHERTEXT: (*INVALID, STATE),
    Outcome.INVALID_KEY_USAGE: (*INVALID, KEY),
    Outcome.AUTHENTICATION_FAILED: ("XksProxyIncorrectAuthenticationCredentialException", "INVALID_CREDENTIALS", STATE),
    Outcome.ACCESS_DENIED: (INVALID[0], "XKS_PROXY_ACCESS_DENIED", STATE),
    Outcome.KEY_NOT_FOUND: (*INVALID, "XksKeyNotFoundException"),
    Outcome.INVALID_URI_PATH: ("XksProxyInvalidConfigurationException", "XKS_PROXY_INVALID_CONFIGURATION", STATE),
    Outcome.UNSUPPORTED_OPERATION: (*INVALID, STATE),
    Outcome.DEPENDENCY_TIMEOUT: (UNREACHABLE, "XKS_PROXY_TIMED_OUT", STATE),
    Outcome.THROTTLING: (UNREACHABLE, "XKS_PROXY_NOT_REACHABLE", STATE),
    Outcome.INTERNAL: (*INVALID, STATE),
    Outcome.NO_TCP: (UNREACHABLE, "XKS_PROXY_NOT_REACHABLE", STATE),
    Outcome.NO_TLS: (UNREACHABLE, "XKS_PROXY_INVALID_TLS_CONFIGURATION", STATE),
    Outcome.CONNECTION_LOST: (UNREACHABLE, "NETWORK_ERRORS", STATE),
    Outcome.TIMED_OUT: (UNREACHABLE, "XKS_PROXY_TIMED_OUT", STATE),
    Outcome.MALFORMED: (*INVALID, STATE),
    Outcome.ALL_UNAVAILABLE: (UNREACHABLE, "XKS_PROXY_NOT_REACHABLE", STATE),
    Outcome.MATERIAL_REJECTED: (*INVALID, STATE),
}


@pytest.mark.parametrize("outcome", Outcome)
def test_each_outcome_has_the_exceptions_and_the_code_of_the_api(outcome: Outcome) -> None:
    errors = (key_store_error(outcome).name, connection_error_code(outcome), create_key_error(outcome).name)

    assert errors == TABLE[outcome]
    assert cryptographic_error(outcome).name == "KMSInvalidStateException"


def test_an_outcome_that_the_operation_does_not_expect_has_the_text_of_a_malformed_answer() -> None:
    uninterpretable = key_store_error(Outcome.MALFORMED).message

    assert key_store_error(Outcome.KEY_NOT_FOUND).message == uninterpretable
    assert create_key_error(Outcome.INVALID_CIPHERTEXT).message == uninterpretable
    assert cryptographic_error(Outcome.KEY_NOT_FOUND).message != uninterpretable
    texts = {make(Outcome.TIMED_OUT).message for make in (key_store_error, create_key_error, cryptographic_error)}
    assert len(texts) == 1


@pytest.mark.parametrize(
    ("spec", "status", "usages", "words"),
    [
        ("AES_128", "ENABLED", ["ENCRYPT", "DECRYPT"], ("AES_128", "AES_256")),
        ("AES_256", "DISABLED", ["ENCRYPT", "DECRYPT"], ("DISABLED", "ENABLED")),
        ("AES_256", "ENABLED", ["ENCRYPT"], ("usage ENCRYPT;", "lacks DECRYPT")),
        ("AES_256", "ENABLED", ["SIGN"], ("usage SIGN;", "lacks DECRYPT and ENCRYPT")),
        ("AES_256", "ENABLED", ["WRAP", "DECRYPT", "ENCRYPT"], ()),
    ],
)
def test_an_unsuitable_external_key_is_refused_with_the_reason(
    spec: str, status: str, usages: list[str], words: tuple[str, ...]
) -> None:
    """R-META-6."""
    refusal = key_refusal("my-key", GetKeyMetadataResponse(key_spec=spec, key_usage=usages, key_status=status))

    assert (refusal is None) == (not words)
    if refusal is not None:
        assert refusal.name == KEY
        assert all(text in refusal.message for text in ("my-key", *words))


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("KMSInvalidStateException", 400),
        ("ThrottlingException", 400),
        ("AlreadyExistsException", 400),
        ("DependencyTimeoutException", 500),
        ("KMSInternalException", 500),
        ("KeyUnavailableException", 500),
    ],
)
def test_only_faults_of_kms_itself_have_status_500(name: str, status: int) -> None:
    assert KmsError(name, "").status == status
