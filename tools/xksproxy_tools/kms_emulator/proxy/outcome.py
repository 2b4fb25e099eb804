"""The failures of a call to a proxy."""

from enum import Enum


class Outcome(Enum):
    """The reason of a failure. For an error of the proxy, the value is its ``errorName``."""

    VALIDATION = "ValidationException"
    INVALID_STATE = "InvalidStateException"
    INVALID_CIPHERTEXT = "InvalidCiphertextException"
    INVALID_KEY_USAGE = "InvalidKeyUsageException"
    AUTHENTICATION_FAILED = "AuthenticationFailedException"
    ACCESS_DENIED = "AccessDeniedException"
    KEY_NOT_FOUND = "KeyNotFoundException"
    INVALID_URI_PATH = "InvalidUriPathException"
    UNSUPPORTED_OPERATION = "UnsupportedOperationException"
    DEPENDENCY_TIMEOUT = "DependencyTimeoutException"
    THROTTLING = "ThrottlingException"
    INTERNAL = "InternalException"

    NO_TCP = "no TCP connection"
    """The name has no address, or no address accepts the connection in time."""

    NO_TLS = "no TLS connection"
    """No common version or suite, or a certificate that is expired, of another host or of an unknown CA."""

    CONNECTION_LOST = "connection lost"
    """The connection ended before the response was complete."""

    TIMED_OUT = "no answer in time"
    """There was a TCP connection, but no complete response within the time limit of two attempts."""

    MALFORMED = "malformed answer"
    """The response violates the API."""

    ALL_UNAVAILABLE = "all external key manager instances unavailable"
    """GetHealthStatus reported that every instance is UNAVAILABLE."""

    MATERIAL_REJECTED = "the KMS key material does not decrypt the plaintext of the proxy"
    """The inner layer of double encryption cannot be decrypted."""


class ProxyFailure(Exception):
    """A call failed. ``detail`` is for the operator, and is never part of a response of KMS."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        self.outcome = outcome
        self.detail = detail
        super().__init__(f"{outcome.value}: {detail}")
