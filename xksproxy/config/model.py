"""The configuration file as typed, frozen structs. Each field's text is the operator's manual."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from xksproxy.config.secret import SecretReference

Text = Annotated[str, Meta(min_length=1)]


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table: an unknown key is an error."""


class Tls(_Table, frozen=True):
    """``[server.tls]``: TLS 1.2 and 1.3 towards KMS."""

    certificate: Text
    """PEM file: the server's certificate, then the intermediate ones. KMS trusts public CAs only (R-TLS-5)."""

    private_key: Text
    """PEM file, unencrypted, mode 0600 or 0640."""

    client_ca: Text | None = None
    """PEM file with the CAs that may issue client certificates. Setting it turns mutual TLS on (R-TLS-6)."""

    client_names: tuple[Text, ...] = ()
    """Common names, one of which the client's certificate must carry. Required with ``client_ca`` (R-TLS-7)."""


class Server(_Table, frozen=True):
    """``[server]``: the public listener."""

    tls: Tls

    listen: Text = "0.0.0.0:443"
    """``address:port``; an IPv6 address in brackets."""

    workers: Annotated[int, Meta(ge=1, le=256)] = 2
    """Worker processes, each with its own HSM sessions. One per core is a good start."""

    deadline_ms: Annotated[int, Meta(ge=10, le=250)] = 200
    """Milliseconds within which a request is answered; KMS waits 250 in all (R-TIME-1)."""

    max_in_flight: Annotated[int, Meta(ge=1, le=100_000)] = 256
    """Requests a worker handles at once; above it they are answered with ThrottlingException."""

    max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    """Connections a worker holds at once, unfinished TLS handshakes included; above it the one that has been idle
    longest makes room."""

    fleet_size: Annotated[int, Meta(ge=1, le=10_000)] = 1
    """How many machines run this proxy behind one endpoint; reported to KMS (R-HLTH-1)."""


class Hsm(_Table, frozen=True):
    """``[[hsm]]``: one token, reached through a PKCS#11 module."""

    id: Text
    """The name under which key stores refer to it and KMS sees it."""

    module: Text
    """Path of the PKCS#11 shared object."""

    token: Text
    """The token's label."""

    pin: SecretReference | Text | None = None
    """The user PIN: ``{ file = "…" }``, ``{ env = "…" }`` or ``{ credential = "…" }``. A plain string is accepted only
    while others cannot read the configuration file. Absent: the token needs no log-in."""

    preset: Literal["softhsm2", "generic"] = "generic"
    """How this kind of module behaves: which return codes mean what."""

    sessions: Annotated[int, Meta(ge=1, le=256)] = 4
    """Sessions, and so calls at once, per worker."""

    environment: dict[str, str] = {}
    """Environment variables that the module reads when it is initialised."""


class Key(_Table, frozen=True):
    """``[[keystore.keys]]``: external keys that a key store exposes."""

    id: Text
    """The external key id (R-URI-6), or a pattern with ``*`` and ``?`` that exposes every key whose label matches."""

    label: Text | None = None
    """CKA_LABEL of the key on the token, where it differs from the id. Not with a pattern."""

    disabled: bool = False
    """Answer InvalidStateException to Encrypt and Decrypt, and report ``DISABLED``."""


class KeyStore(_Table, frozen=True):
    """``[[keystore]]``: one external key store of KMS, apart from all others."""

    name: Text
    """How commands and logs call it."""

    uri_path_prefix: str
    """What stands before ``/kms/xks/v1``; empty for none (R-URI-2)."""

    hsms: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=1)]
    """The ``id`` of the ``[[hsm]]`` that holds its keys."""

    credentials: Text
    """A directory with one file, mode 0600, for each SigV4 credential."""

    keys: Annotated[tuple[Key, ...], Meta(min_length=1)]
    """The keys it exposes; a key that is not named here does not exist for KMS."""


class Logging(_Table, frozen=True):
    """``[logging]``: what the process writes to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is written."""

    format: Literal["json", "console"] = "json"
    """One JSON object a line, or a line for people."""


class Config(_Table, frozen=True):
    """The whole file. Paths are absolute once it is loaded."""

    server: Server
    hsm: Annotated[tuple[Hsm, ...], Meta(min_length=1)]
    keystore: Annotated[tuple[KeyStore, ...], Meta(min_length=1)]
    logging: Logging = Logging()
