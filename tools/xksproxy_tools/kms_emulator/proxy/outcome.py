"""What can become of a call to a proxy."""

from enum import Enum


class Outcome(Enum):
    """A way in which a call fails. Where the proxy itself said so, the value is the ``errorName`` of its answer."""

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
    """The name has no address, or nothing accepts the connection, in time or at all."""

    NO_TLS = "no TLS connection"
    """No common version or suite, or a certificate that is expired, of another host or of an unknown CA."""

    CONNECTION_LOST = "connection lost"
    """The connection ended before there was a whole answer."""

    TIMED_OUT = "no answer in time"
    """There was a TCP connection, and no whole answer within the limit, nor on the second attempt."""

    MALFORMED = "malformed answer"
    """An answer that the API does not allow."""

    ALL_UNAVAILABLE = "all external key manager instances unavailable"
    """GetHealthStatus was answered, and every instance is UNAVAILABLE."""

    MATERIAL_REJECTED = "the KMS key material rejects what the proxy decrypted"
    """Not the proxy's failure alone: the inner layer of the double encryption does not open."""


class ProxyFailure(Exception):
    """A call that gave no result. ``detail`` is what was observed: for the operator, never in an answer of KMS."""

    def __init__(self, outcome: Outcome, detail: str) -> None:
        self.outcome = outcome
        self.detail = detail
        super().__init__(f"{outcome.value}: {detail}")
