"""The proxy under test, and what the checks may use."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from xksproxy.client.target import Target
from xksproxy.sigv4.keyring import Credential
from xksproxy.spec.errors import DependencyTimeoutException, ThrottlingException
from xksproxy.spec.limits import KMS_TIMEOUT_MS
from xksproxy.spec.uri import Operation, compose_path
from xksproxy_tools.conformance.expectations import bytes_member, expect_success, sealed_of
from xksproxy_tools.conformance.http_connection import HttpConnection, HttpResponse, NoResponse, NotHttp
from xksproxy_tools.conformance.messages import Message, Sealed, decryption, encryption
from xksproxy_tools.conformance.requests import Request, Signer

_BUSY: Final = {error.http_status: error.__name__ for error in (ThrottlingException, DependencyTimeoutException)}
ABSENT_KEY_ID: Final = "xksproxy-conformance.absent"


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits of a proxy."""

    timeout_seconds: float = 10.0
    """For each read and write. A later response counts as missing."""

    answer_milliseconds: float = KMS_TIMEOUT_MS
    freshness_seconds: float = 60.0
    """The maximum age of a health status (R-HLTH-6)."""

    pauses_when_busy: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0)
    """Seconds to wait before a request is repeated because the proxy was busy."""

    timed_requests: int = 100
    """The number of timed requests for each API."""


@dataclass(frozen=True, slots=True)
class Outage:
    """Commands, as argument lists, that make an HSM unavailable and available again."""

    begin: tuple[str, ...]
    end: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Keys:
    """External key ids. None means that there is no such key, and that its checks are not applicable."""

    usable: str
    """Encrypts and decrypts."""

    absent: str = ABSENT_KEY_ID
    encrypt_only: str | None = None
    decrypt_only: str | None = None
    impotent: str | None = None
    """Does neither."""

    disabled: str | None = None

    @property
    def named(self) -> dict[str, str]:
        """The keys that must exist, by command-line option."""
        given = {
            "--key": self.usable,
            "--encrypt-only-key": self.encrypt_only,
            "--decrypt-only-key": self.decrypt_only,
            "--impotent-key": self.impotent,
            "--disabled-key": self.disabled,
        }
        return {option: key_id for option, key_id in given.items() if key_id is not None}


class Subject:
    """The proxy under test. Belongs to one thread.

    Network failures are raised as OSError, invalid HTTP as :class:`~.http_connection.NotHttp`.
    """

    def __init__(
        self,
        target: Target,
        keys: Keys,
        *,
        second_credential: Credential | None = None,
        other_store: Target | None = None,
        wrong_client: tuple[Path, Path | None] | None = None,
        outage: Outage | None = None,
        limits: Limits | None = None,
    ) -> None:
        """``other_store`` is another key store of the same proxy.

        ``wrong_client`` is a client certificate with its key that the proxy must refuse.

        Raises:
            TargetError: a PEM file of the target cannot be used.
        """
        self.target = target
        self.keys = keys
        self.second_credential = second_credential
        self.other_store = other_store
        self.wrong_client = wrong_client
        self.outage = outage
        self.limits = limits or Limits()
        self.context = target.context()
        self._connection: HttpConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()

    @property
    def timeout(self) -> float:
        """Seconds for each read and write."""
        return self.limits.timeout_seconds

    @property
    def signer(self) -> Signer:
        """The signer with correct parameters."""
        return Signer(self.target.credential, self.target.region)

    def connect(self) -> HttpConnection:
        """Open a separate connection."""
        return HttpConnection((self.target.host, self.target.port), self.context, timeout=self.timeout)

    def disconnect(self) -> None:
        """Close the connection that :meth:`send` uses."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def path(self, operation: Operation, key_id: str | None = None) -> str:
        """The path of an API. The default key is the usable one."""
        return compose_path(self.target.path_prefix, operation, key_id or self.keys.usable)

    def request(self, target: str, body: Message | bytes) -> Request:
        """An unsigned POST."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = (
            ("Host", self.target.authority),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(content))),
        )
        return Request(target, headers, content)

    def sign(self, request: Request, *, late_by: float = 0.0, signer: Signer | None = None) -> Request:
        """Sign a request. ``late_by`` is the number of seconds by which the client's clock is behind."""
        return (signer or self.signer).sign(request, time.time() - late_by)

    def send(self, request: Request) -> HttpResponse:
        """Send a request unchanged over the persistent connection, which is reopened if the proxy has closed it.

        429 and 503 are allowed at any time, so the request is then repeated.
        """
        for pause in self.limits.pauses_when_busy:
            response = self._exchange(request)
            if not _busy(response):
                return response
            time.sleep(pause)
        return self._exchange(request)

    def _exchange(self, request: Request) -> HttpResponse:
        fresh = self._connection is None
        wire = self._connection = self._connection or self.connect()
        try:
            response = wire.exchange(request.encode(), request.method)
        except NoResponse:
            self.disconnect()
            if fresh:
                raise
            return self._exchange(request)
        except BaseException:
            self.disconnect()
            raise
        if response.closes:
            self.disconnect()
        return response

    def call(self, operation: Operation, body: Message | bytes, key_id: str | None = None) -> HttpResponse:
        """A signed request of an API."""
        return self.send(self.sign(self.request(self.path(operation, key_id), body)))

    def encrypt(
        self, plaintext: bytes, aad: bytes | None = None, *, cdiv: bool = False, key_id: str | None = None
    ) -> HttpResponse:
        """Call Encrypt."""
        return self.call(Operation.ENCRYPT, encryption(plaintext, aad, cdiv=cdiv), key_id)

    def seal(
        self, plaintext: bytes, aad: bytes | None = None, *, cdiv: bool = False, key_id: str | None = None
    ) -> Sealed:
        """Encrypt, which must succeed."""
        return sealed_of(expect_success(self.encrypt(plaintext, aad, cdiv=cdiv, key_id=key_id), "Encrypt"), aad)

    def decrypt(self, sealed: Sealed, key_id: str | None = None) -> HttpResponse:
        """Call Decrypt."""
        return self.call(Operation.DECRYPT, decryption(sealed), key_id)

    def open(self, sealed: Sealed, key_id: str | None = None) -> bytes:
        """Decrypt, which must succeed."""
        return bytes_member(expect_success(self.decrypt(sealed, key_id), "Decrypt"), "plaintext")


def _busy(response: HttpResponse) -> bool:
    if response.status not in _BUSY:
        return False
    try:
        return response.json().get("errorName") == _BUSY[response.status]
    except NotHttp:
        return False
