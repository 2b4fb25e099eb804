"""What KMS makes of each outcome: the table of the API's error codes, written down again."""

import pytest
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.proxy.kms_errors import (
    connection_error_code,
    create_key_error,
    cryptographic_error,
    key_refusal,
    key_store_error,
    not_connected,
)
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome

from xksproxy.spec.messages import GetKeyMetadataResponse

STATE = "CustomKeyStoreInvalidStateException"

# Outcome, exception of Create- and UpdateCustomKeyStore, exception of CreateKey, ConnectionErrorCode.
TABLE = [
    (Outcome.VALIDATION, "XksProxyInvalidResponseException", STATE, "XKS_PROXY_INVALID_RESPONSE"),
    (
        Outcome.INVALID_STATE,
        "XksProxyUriUnreachableException",
        "XksKeyInvalidConfigurationException",
        "XKS_PROXY_NOT_REACHABLE",
    ),
    (Outcome.INVALID_CIPHERTEXT, "XksProxyInvalidResponseException", STATE, "XKS_PROXY_INVALID_RESPONSE"),
    (
        Outcome.INVALID_KEY_USAGE,
        "XksProxyInvalidResponseException",
        "XksKeyInvalidConfigurationException",
        "XKS_PROXY_INVALID_RESPONSE",
    ),
    (Outcome.AUTHENTICATION_FAILED, "XksProxyIncorrectAuthenticationCredentialException", STATE, "INVALID_CREDENTIALS"),
    (Outcome.ACCESS_DENIED, "XksProxyInvalidResponseException", STATE, "XKS_PROXY_ACCESS_DENIED"),
    (
        Outcome.KEY_NOT_FOUND,
        "XksProxyInvalidResponseException",
        "XksKeyNotFoundException",
        "XKS_PROXY_INVALID_RESPONSE",
    ),
    (Outcome.INVALID_URI_PATH, "XksProxyInvalidConfigurationException", STATE, "XKS_PROXY_INVALID_CONFIGURATION"),
    (Outcome.UNSUPPORTED_OPERATION, "XksProxyInvalidResponseException", STATE, "XKS_PROXY_INVALID_RESPONSE"),
    (Outcome.DEPENDENCY_TIMEOUT, "XksProxyUriUnreachableException", STATE, "XKS_PROXY_TIMED_OUT"),
    (Outcome.THROTTLING, "XksProxyUriUnreachableException", STATE, "XKS_PROXY_NOT_REACHABLE"),
    (Outcome.INTERNAL, "XksProxyInvalidResponseException", STATE, "XKS_PROXY_INVALID_RESPONSE"),
    (Outcome.NO_TCP, "XksProxyUriUnreachableException", STATE, "XKS_PROXY_NOT_REACHABLE"),
    (Outcome.NO_TLS, "XksProxyUriUnreachableException", STATE, "XKS_PROXY_INVALID_TLS_CONFIGURATION"),
    (Outcome.CONNECTION_LOST, "XksProxyUriUnreachableException", STATE, "NETWORK_ERRORS"),
    (Outcome.TIMED_OUT, "XksProxyUriUnreachableException", STATE, "XKS_PROXY_TIMED_OUT"),
    (Outcome.MALFORMED, "XksProxyInvalidResponseException", STATE, "XKS_PROXY_INVALID_RESPONSE"),
    (Outcome.ALL_UNAVAILABLE, "XksProxyUriUnreachableException", STATE, "XKS_PROXY_NOT_REACHABLE"),
    (Outcome.MATERIAL_REJECTED, "XksProxyInvalidResponseException", STATE, "XKS_PROXY_INVALID_RESPONSE"),
]


@pytest.mark.parametrize(("outcome", "key_store", "create_key", "code"), TABLE)
def test_the_verdict_on_an_outcome(outcome: Outcome, key_store: str, create_key: str, code: str) -> None:
    assert key_store_error(outcome).name == key_store
    assert create_key_error(outcome).name == create_key
    assert connection_error_code(outcome) == code
    assert cryptographic_error(outcome).name == "KMSInvalidStateException"


def test_every_outcome_has_a_verdict() -> None:
    assert {row[0] for row in TABLE} == set(Outcome)


def test_the_text_is_the_same_for_every_operation_that_expects_the_outcome() -> None:
    for outcome in (Outcome.AUTHENTICATION_FAILED, Outcome.INVALID_STATE, Outcome.TIMED_OUT, Outcome.NO_TLS):
        texts = {make(outcome).message for make in (key_store_error, create_key_error, cryptographic_error)}
        assert len(texts) == 1


def test_what_is_not_expected_of_a_proxy_cannot_be_interpreted() -> None:
    uninterpretable = key_store_error(Outcome.MALFORMED).message

    assert key_store_error(Outcome.KEY_NOT_FOUND).message == uninterpretable
    assert create_key_error(Outcome.INVALID_CIPHERTEXT).message == uninterpretable
    assert cryptographic_error(Outcome.KEY_NOT_FOUND).message != uninterpretable


def key(spec: str = "AES_256", status: str = "ENABLED", *usages: str) -> GetKeyMetadataResponse:
    return GetKeyMetadataResponse(key_spec=spec, key_usage=list(usages or ("ENCRYPT", "DECRYPT")), key_status=status)


@pytest.mark.parametrize("usages", [("ENCRYPT", "DECRYPT"), ("WRAP", "DECRYPT", "ENCRYPT")])
def test_a_key_that_fits_is_not_refused(usages: tuple[str, ...]) -> None:
    assert key_refusal("my-key", key("AES_256", "ENABLED", *usages)) is None


@pytest.mark.parametrize(
    ("described", "told"),
    [
        (key("AES_128"), ("AES_128", "AES_256")),
        (key("RSA_2048"), ("RSA_2048", "AES_256")),
        (key("AES_256", "DISABLED"), ("DISABLED", "ENABLED")),
        (key("AES_256", "ENABLED", "ENCRYPT"), ("usage ENCRYPT;", "lacks DECRYPT")),
        (key("AES_256", "ENABLED", "SIGN"), ("usage SIGN;", "lacks DECRYPT and ENCRYPT")),
    ],
)
def test_a_key_that_does_not_fit_is_refused_for_what_is_wrong_with_it(
    described: GetKeyMetadataResponse, told: tuple[str, ...]
) -> None:
    """R-META-6."""
    refusal = key_refusal("my-key", described)

    assert refusal is not None
    assert refusal.name == "XksKeyInvalidConfigurationException"
    assert all(text in refusal.message for text in ("my-key", *told))


def test_a_store_that_is_not_connected_has_an_exception_of_the_operation() -> None:
    for name in ("KMSInvalidStateException", STATE):
        assert not_connected(name).name == name


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
