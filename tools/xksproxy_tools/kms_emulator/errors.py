"""The errors of AWS KMS, as its callers see them."""

from http import HTTPStatus
from typing import Final

_FAULTS: Final = frozenset({"DependencyTimeoutException", "KeyUnavailableException", "KMSInternalException"})


class KmsError(Exception):
    """A refused KMS request. ``name`` is the name of the exception; ``message`` is for people."""

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        self.message = message
        super().__init__(f"{name}: {message}")

    @property
    def status(self) -> HTTPStatus:
        """The HTTP status: 500 for the three faults of KMS itself, 400 for all other errors."""
        return HTTPStatus.INTERNAL_SERVER_ERROR if self.name in _FAULTS else HTTPStatus.BAD_REQUEST
