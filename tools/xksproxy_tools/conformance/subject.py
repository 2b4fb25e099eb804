"""The proxy that is examined, and what the examination may use."""

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
    """How long a proxy may take."""

    timeout_seconds: float = 10.0
    """For each read and write; an answer that takes longer counts as none."""

    answer_milliseconds: float = KMS_TIMEOUT_MS
    freshness_seconds: float = 60.0
    """How old a health status may be (R-HLTH-6)."""

    pauses_when_busy: tuple[float, ...] = (0.2, 0.5, 1.0, 2.0)
    """Seconds to wait before a request is sent again that was answered by nothing but that the proxy is busy."""

    timed_requests: int = 100
    """How many of each API are timed."""


@dataclass(frozen=True, slots=True)
class Outage:
    """Commands, as argument lists, that take an HSM away from the proxy and give it back."""

    begin: tuple[str, ...]
    end: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Keys:
    """External key ids; None: there is no such key, and what needs it does not apply."""

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
        """Those that must be there, by the option of the command that names them."""
        given = {
            "--key": self.usable,
            "--encrypt-only-key": self.encrypt_only,
            "--decrypt-only-key": self.decrypt_only,
            "--impotent-key": self.impotent,
            "--disabled-key": self.disabled,
        }
        return {option: key_id for option, key_id in given.items() if key_id is not None}


class Subject:
    """A proxy under examination. Belongs to one thread.

    Failures of the network are raised as OSError, and what is not HTTP as :class:`~.wire.NotHttp`.
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
        """Take what may be used.

        ``other_store`` is another key store of the same proxy; ``wrong_client`` a client certificate, and its key,
        that the proxy must refuse; ``outage`` is how an HSM can be taken away.

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
        """Signs rightly."""
        return Signer(self.target.credential, self.target.region)

    def connect(self) -> HttpConnection:
        """A connection of the caller's own."""
        return HttpConnection((self.target.host, self.target.port), self.context, timeout=self.timeout)

    def disconnect(self) -> None:
        """End the connection that :meth:`send` keeps."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def path(self, operation: Operation, key_id: str | None = None) -> str:
        """The path of an API, for the usable key unless told otherwise."""
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
        """Sign a request. ``late_by``: seconds that the client's clock is behind."""
        return (signer or self.signer).sign(request, time.time() - late_by)

    def send(self, request: Request) -> HttpResponse:
        """Exchange a request, as it is, over the connection that is kept; made anew if the proxy has ended it.

        429 and 503 may come at any time and tell nothing of a requirement, so the request is then sent again.
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
