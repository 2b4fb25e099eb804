"""The exception and the ConnectionErrorCode of KMS after a failed call to a proxy.

The exceptions are those of the API's table "Error codes". The texts are not those of AWS, but have the same meaning.
They contain nothing that the proxy sent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from xksproxy.spec.messages import GetKeyMetadataResponse
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome

_UNINTERPRETABLE: Final = (
    "AWS KMS cannot interpret the response from the external key store proxy. If this happens repeatedly, notify the"
    " vendor of the proxy."
)
_UNREACHABLE: Final = "XksProxyUriUnreachableException"
_INVALID_RESPONSE: Final = "XksProxyInvalidResponseException"
_STORE_STATE: Final = "CustomKeyStoreInvalidStateException"
_KEY_CONFIGURATION: Final = "XksKeyInvalidConfigurationException"
_SHOWN_CHARACTERS: Final = 128


@dataclass(frozen=True, slots=True)
class _KmsAnswer:
    """The errors of KMS after an outcome. None: the outcome is not expected, and KMS cannot interpret the response."""

    text: str
    key_store: str | None = None
    """The exception of CreateCustomKeyStore and UpdateCustomKeyStore."""

    create_key: str | None = None
    """The exception of CreateKey."""

    code: str | None = None
    """The ConnectionErrorCode."""


_MALFORMED: Final = _KmsAnswer(_UNINTERPRETABLE, _INVALID_RESPONSE, _STORE_STATE, "XKS_PROXY_INVALID_RESPONSE")

_ANSWERS: Final[Mapping[Outcome, _KmsAnswer]] = {
    Outcome.MALFORMED: _MALFORMED,
    Outcome.VALIDATION: _MALFORMED,
    Outcome.INVALID_STATE: _KmsAnswer(
        "The external key or its key store is not enabled in the external key manager. Enable it there and retry.",
        _UNREACHABLE,
        _KEY_CONFIGURATION,
        "XKS_PROXY_NOT_REACHABLE",
    ),
    Outcome.INVALID_CIPHERTEXT: _KmsAnswer(
        "The external key store proxy rejected the request because the ciphertext or the additional authenticated data,"
        " which stands for the encryption context, is corrupted, missing or otherwise invalid.",
    ),
    Outcome.MATERIAL_REJECTED: _KmsAnswer(
        "AWS KMS cannot decrypt what the external key store proxy returned: the ciphertext or the additional"
        " authenticated data, which stands for the encryption context, is corrupted, missing or otherwise invalid.",
    ),
    Outcome.INVALID_KEY_USAGE: _KmsAnswer(
        "The external key does not support the requested operation. Its usage must include both encrypting and"
        " decrypting.",
        create_key=_KEY_CONFIGURATION,
    ),
    Outcome.AUTHENTICATION_FAILED: _KmsAnswer(
        "The external key store proxy could not authenticate AWS KMS. Check the proxy authentication credential of the"
        " external key store; if it is wrong, update the key store, and retry.",
        "XksProxyIncorrectAuthenticationCredentialException",
        _STORE_STATE,
        "INVALID_CREDENTIALS",
    ),
    Outcome.ACCESS_DENIED: _KmsAnswer(
        "The external key store proxy denied access to the operation. Check that the user and the external key are both"
        " authorized for it there, and retry.",
        create_key=_STORE_STATE,
        code="XKS_PROXY_ACCESS_DENIED",
    ),
    Outcome.KEY_NOT_FOUND: _KmsAnswer(
        "The external key is not found by the external key store proxy. If its id is wrong, a new KMS key has to be"
        " created with the right one.",
        create_key="XksKeyNotFoundException",
    ),
    Outcome.INVALID_URI_PATH: _KmsAnswer(
        "The URI path of the external key store proxy is wrong. Check the proxy URI path of the external key store.",
        "XksProxyInvalidConfigurationException",
        _STORE_STATE,
        "XKS_PROXY_INVALID_CONFIGURATION",
    ),
    Outcome.UNSUPPORTED_OPERATION: _KmsAnswer(
        "The external key store proxy does not support the operation, or not with these parameters. Notify the vendor"
        " of the proxy.",
        _INVALID_RESPONSE,
        _STORE_STATE,
        "XKS_PROXY_INVALID_RESPONSE",
    ),
    Outcome.DEPENDENCY_TIMEOUT: _KmsAnswer(
        "The external key manager did not answer the external key store proxy in the time allotted. Retry; if it"
        " happens repeatedly, notify the administrator of the proxy.",
        _UNREACHABLE,
        _STORE_STATE,
        "XKS_PROXY_TIMED_OUT",
    ),
    Outcome.THROTTLING: _KmsAnswer(
        "The external key store proxy rejected the request because of a very high request rate. Make fewer calls with"
        " the keys of this external key store.",
        _UNREACHABLE,
        _STORE_STATE,
        "XKS_PROXY_NOT_REACHABLE",
    ),
    Outcome.INTERNAL: _KmsAnswer(
        "The external key store proxy cannot communicate with its external key manager. Retry; if it happens"
        " repeatedly, notify the vendor of the proxy.",
        _INVALID_RESPONSE,
        _STORE_STATE,
        "XKS_PROXY_INVALID_RESPONSE",
    ),
    Outcome.NO_TCP: _KmsAnswer(
        "AWS KMS cannot communicate with the external key store proxy. Check its URI endpoint, and that it is active"
        " and reachable in its network.",
        _UNREACHABLE,
        _STORE_STATE,
        "XKS_PROXY_NOT_REACHABLE",
    ),
    Outcome.NO_TLS: _KmsAnswer(
        "AWS KMS cannot make a TLS connection to the external key store proxy. Check its TLS configuration and its"
        " certificate.",
        _UNREACHABLE,
        _STORE_STATE,
        "XKS_PROXY_INVALID_TLS_CONFIGURATION",
    ),
    Outcome.CONNECTION_LOST: _KmsAnswer(
        "AWS KMS cannot communicate with the external key store proxy: the connection ended without an answer.",
        _UNREACHABLE,
        _STORE_STATE,
        "NETWORK_ERRORS",
    ),
    Outcome.TIMED_OUT: _KmsAnswer(
        "The external key store proxy did not respond in the time allotted. Retry; if it happens repeatedly, notify the"
        " administrator of the proxy.",
        _UNREACHABLE,
        _STORE_STATE,
        "XKS_PROXY_TIMED_OUT",
    ),
    Outcome.ALL_UNAVAILABLE: _KmsAnswer(
        "The external key store proxy is unhealthy: it reports that all instances of its external key manager are"
        " unavailable.",
        _UNREACHABLE,
        code="XKS_PROXY_NOT_REACHABLE",
    ),
}


def connection_error_code(outcome: Outcome) -> str:
    """The ConnectionErrorCode after ConnectCustomKeyStore."""
    return _ANSWERS[outcome].code or _MALFORMED.code or ""


def key_store_error(outcome: Outcome) -> KmsError:
    """The error of CreateCustomKeyStore and UpdateCustomKeyStore."""
    answer = _ANSWERS[outcome]
    if answer.key_store is None:
        return KmsError(_INVALID_RESPONSE, _UNINTERPRETABLE)
    return KmsError(answer.key_store, answer.text)


def create_key_error(outcome: Outcome) -> KmsError:
    """The error of CreateKey."""
    answer = _ANSWERS[outcome]
    if answer.create_key is None:
        return KmsError(_STORE_STATE, _UNINTERPRETABLE)
    return KmsError(answer.create_key, answer.text)


def key_refusal(external_key_id: str, key: GetKeyMetadataResponse) -> KmsError | None:
    """The error of CreateKey for an existing external key that KMS cannot use, or None (R-META-6)."""
    problem = _key_problem(key)
    return None if problem is None else KmsError(_KEY_CONFIGURATION, f"The external key {external_key_id} {problem}.")


def cryptographic_error(outcome: Outcome) -> KmsError:
    """The error of the five cryptographic operations."""
    return KmsError("KMSInvalidStateException", _ANSWERS[outcome].text)


def not_connected(name: str) -> KmsError:
    """The error while the key store is not CONNECTED. The operation determines the ``name`` of the exception."""
    return KmsError(
        name, "The external key store is not connected to its external key store proxy. Connect it, and retry."
    )


def _key_problem(key: GetKeyMetadataResponse) -> str | None:
    if key.key_spec != "AES_256":
        return f"has the key spec {_shown(key.key_spec)}; it must be AES_256"
    if key.key_status != "ENABLED":
        return f"has the status {_shown(key.key_status)}; it must be ENABLED"
    if missing := {"ENCRYPT", "DECRYPT"}.difference(key.key_usage):
        usages = _shown(", ".join(key.key_usage)) or "none"
        return f"has the usage {usages}; it must include ENCRYPT and DECRYPT, and lacks {' and '.join(sorted(missing))}"
    return None


def _shown(value: str) -> str:
    """A value from the proxy, of limited length."""
    return value[:_SHOWN_CHARACTERS]
