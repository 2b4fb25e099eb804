"""The errors of the XKS proxy API, one class per ``errorName`` (R-ERR-1).

``message`` is sent to KMS, and its operator reads it in CloudWatch logs. ``detail`` stays on this machine.
"""

from typing import ClassVar

from xksproxy.spec.limits import MAXIMUM_ERROR_MESSAGE_CHARACTERS


def _printable(text: str) -> str:
    """The text with only the bytes 0x20 to 0x7e, cut to fewer than 512 of them (R-ERR-2)."""
    ascii_only = "".join(c if " " <= c <= "~" else "?" for c in text[:MAXIMUM_ERROR_MESSAGE_CHARACTERS])
    return ascii_only if len(text) <= MAXIMUM_ERROR_MESSAGE_CHARACTERS else ascii_only[:-3] + "..."


class XksError(Exception):
    """An error of the API. The name of the class is the ``errorName``; ``http_status`` is the HTTP status."""

    http_status: ClassVar[int]

    def __init__(self, message: str, *, detail: str = "") -> None:
        self.message = _printable(message)
        self.detail = detail
        super().__init__(self.message)

    @property
    def name(self) -> str:
        """The ``errorName``, by which KMS distinguishes errors (R-ERR-3)."""
        return type(self).__name__


class ValidationException(XksError):
    """A parameter of the request is missing or malformed."""

    http_status = 400


class InvalidStateException(XksError):
    """The external key or its key store is disabled, blocked or not in a usable state."""

    http_status = 400


class InvalidCiphertextException(XksError):
    """The ciphertext, metadata, IV, AAD and tag do not match."""

    http_status = 400


class InvalidKeyUsageException(XksError):
    """The key does not support the operation."""

    http_status = 400


class AuthenticationFailedException(XksError):
    """The request is not signed by a credential of this key store, or was signed too long ago."""

    http_status = 401

    def __init__(self, detail: str) -> None:
        # One message for every cause: the response must not show whether the id or the secret is wrong (R-AUTH-13).
        super().__init__(
            "SigV4 authentication failed: check that the access key id and secret access key configured in AWS KMS"
            " belong to this key store, that its URI path is right, and that the proxy's clock is correct",
            detail=detail,
        )


class AccessDeniedException(XksError):
    """The policies refuse the caller (secondary authorization)."""

    http_status = 403


class KeyNotFoundException(XksError):
    """The key store has no such external key."""

    http_status = 404


class InvalidUriPathException(XksError):
    """The path does not name a key store and an operation of this proxy."""

    http_status = 404


class MethodNotAllowed(XksError):
    """A method other than POST on an API URI (R-URI-5).

    The API defines no name for status 405, but every error needs one (R-ERR-4). The closest name is used.
    """

    http_status = 405

    @property
    def name(self) -> str:
        """The closest name that KMS knows."""
        return "UnsupportedOperationException"


class ThrottlingException(XksError):
    """The proxy is overloaded, or the quota of the key store is exceeded."""

    http_status = 429


class InternalException(XksError):
    """A failure of the proxy or of the HSM."""

    http_status = 500


class UnsupportedOperationException(XksError):
    """A parameter is larger than this proxy supports, or the operation is not implemented."""

    http_status = 501


class DependencyTimeoutException(XksError):
    """The HSM did not answer in time."""

    http_status = 503
