"""The configuration file as typed, frozen structs. Each field's text is the operator's manual."""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from xksproxy.aead.metadata import MAXIMUM_VERSION
from xksproxy.config.secret import SecretReference
from xksproxy.spec.limits import MAXIMUM_CIPHERTEXT_METADATA_BYTES

Text = Annotated[str, Meta(min_length=1)]
VersionNumber = Annotated[int, Meta(ge=1, le=MAXIMUM_VERSION)]
LegacyMetadata = Annotated[bytes, Meta(min_length=1, max_length=MAXIMUM_CIPHERTEXT_METADATA_BYTES)]
AadEncodingName = Literal["plain", "sha256"]

MAXIMUM_ENCRYPTIONS: Final = 2**32
"""Encryptions with random IVs that one AES-GCM key may make (NIST SP 800-38D, 8.3)."""


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
    """Authenticated requests a worker handles at once; above it they are answered with ThrottlingException."""

    max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    """Connections a worker holds at once, unfinished TLS handshakes included. Above it, room is made by the idle
    connection of a stranger, then by the oldest handshake, then by any idle connection."""

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

    preset: Literal["softhsm2", "nss", "cloudhsm", "luna", "nshield", "vault", "generic"] = "generic"
    """How this kind of module behaves. softhsm2 and nss are tested on the module itself; the others are read in the
    vendor's documents and tested on a module that imitates them. Each setting below overrides the preset's."""

    iv: Literal["caller", "written-back", "appended"] | None = None
    """Who makes the IV: the proxy; the HSM, writing it into a zeroed buffer (CloudHSM, nShield); or the HSM, appending
    16 bytes to the output (Luna in FIPS mode). Proven on the token before it serves."""

    iv_source: Literal["token", "system"] | None = None
    """Where the proxy's IVs come from: the token's generator, or the operating system's where the module has none."""

    read_write_sessions: bool | None = None
    """Open read/write sessions; CloudHSM opens no other, a write-protected token only read-only ones."""

    initialize_string: Text | None = None
    """What the module wants as pReserved of C_Initialize, such as the parameters of NSS."""

    maximum_data_bytes: Annotated[int, Meta(ge=1)] | None = None
    """Most bytes a GCM call may have on this module."""

    rejected_ciphertext_codes: tuple[Text, ...] | None = None
    """Return values of C_Decrypt, by name or as 0x…, that say "wrong tag" besides the standard's own."""

    ambiguous_codes: tuple[Text, ...] | None = None
    """Return values of C_Decrypt that may say "wrong tag" or "broken"; a self-test settles which."""

    busy_codes: tuple[Text, ...] | None = None
    """Return values of any function that ask to slow down."""

    sessions: Annotated[int, Meta(ge=1, le=256)] = 4
    """Sessions, and so calls at once, per worker."""

    environment: dict[str, str] = {}
    """Environment variables that the module reads when it is initialised."""

    connect_timeout_s: Annotated[float, Meta(ge=1, le=3600)] = 60
    """Seconds after which an HSM that is still being connected is reported as out of service. The attempt goes on."""

    check_interval_s: Annotated[float, Meta(ge=1, le=50)] = 15
    """Seconds between two checks of its health, each an encryption and a decryption under a session key."""

    def __repr__(self) -> str:
        """Without the PIN, which may stand inline."""
        return f"<Hsm {self.id}>"


class Key(_Table, frozen=True):
    """``[[keystore.keys]]``: external keys that a key store exposes."""

    id: Text
    """The external key id (R-URI-6), or a pattern with ``*`` and ``?`` that exposes every key whose label matches."""

    label: Text | None = None
    """CKA_LABEL of the key on the token, where it differs from the id. Not with a pattern."""

    versions: dict[VersionNumber, Text] = {}
    """CKA_LABEL of each key version by its number. Without it the label is version 1, and ``LABEL.v2``, ``LABEL.v3`` …
    are the others. Not with a pattern or a label."""

    aad_encoding: AadEncodingName = "plain"
    """How Encrypt hands the AAD to the HSM: as it is, or by its SHA-256 as AWS's sample proxy does. The ciphertext
    metadata remembers it, so it can change at any time."""

    legacy_aad_encoding: AadEncodingName | None = None
    """The encoding of ciphertexts without metadata of this proxy's own; ``aad_encoding`` where it is not set."""

    legacy_metadata: tuple[LegacyMetadata, ...] = ()
    """Ciphertext metadata, in Base64, that another proxy wrote: such a ciphertext is of version 1."""

    maximum_encryptions: Annotated[int, Meta(ge=1, le=MAXIMUM_ENCRYPTIONS)] = MAXIMUM_ENCRYPTIONS
    """Encryptions after which a key version encrypts no more. Each machine takes its part, by ``server.fleet_size``;
    from half of it on the proxy warns."""

    hedge_after_ms: Annotated[int, Meta(ge=1, le=250)] | None = None
    """Send the same call to a second HSM when the first has not answered after so many milliseconds."""

    disabled: bool = False
    """Answer InvalidStateException to Encrypt and Decrypt, and report ``DISABLED``."""


class KeyStore(_Table, frozen=True):
    """``[[keystore]]``: one external key store of KMS, apart from all others."""

    name: Text
    """How commands and logs call it."""

    uri_path_prefix: str
    """What stands before ``/kms/xks/v1``; empty for none (R-URI-2)."""

    hsms: Annotated[tuple[Text, ...], Meta(min_length=1)]
    """The ``id`` of each ``[[hsm]]`` that holds its keys. Of two that hold different keys under one label, the one
    named first is believed."""

    credentials: Text
    """A directory with one file, mode 0600, for each SigV4 credential."""

    keys: Annotated[tuple[Key, ...], Meta(min_length=1)]
    """The keys it exposes; a key that is not named here does not exist for KMS."""

    requests_per_second: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    """Requests that this machine answers for it, all workers together; above it ThrottlingException (R-URI-10)."""

    burst: Annotated[float, Meta(ge=1, le=10_000_000)] | None = None
    """Requests it may save up for a burst; as many as ``requests_per_second`` where it is not set."""

    policies: Annotated[tuple[Text, ...], Meta(min_length=1)] | None = None
    """Files of Cedar policies, or directories with ``*.cedar`` files. What they do not permit is refused
    (R-AUTHZ-2). Without them, whatever is authenticated is allowed."""

    policy_mode: Literal["enforce", "audit"] = "enforce"
    """Whether the policies refuse, or the log only tells what they would refuse."""


class Health(_Table, frozen=True):
    """``[health]``: plain HTTP for the load balancer's health checks; it works while mutual TLS is on."""

    listen: Text | None = None
    """``address:port`` where ``/livez`` and ``/readyz`` answer; off without it. ``/readyz`` is 200 only while
    Encrypt and Decrypt can be served for every key store."""


class Admin(_Table, frozen=True):
    """``[admin]``: plain HTTP for operators and Prometheus. Whoever reaches it sees key ids and access key ids."""

    listen: Text = "127.0.0.1:9464"
    """``address:port`` of ``/metrics``, ``/status``, ``/``, ``/livez`` and ``/readyz``; ``off`` for none."""


class Audit(_Table, frozen=True):
    """``[audit]``: one line for each request."""

    enabled: bool = True
    """Whether it is written at all."""

    file: Text | None = None
    """Append to this file, which may be renamed while it is written; without it, standard output."""

    format: Literal["json", "console"] = "json"
    """One JSON object a line, or a line for people."""

    chain: bool = False
    """Chain the lines by HMAC, so that ``xksproxy audit verify`` finds what was removed, changed or moved."""

    key: SecretReference | None = None
    """The HMAC key of the chain: ``{ file = "…" }``, ``{ env = "…" }`` or ``{ credential = "…" }``."""

    checkpoint_interval_s: Annotated[float, Meta(ge=1, le=86_400)] = 60
    """Seconds between two checkpoints of a chain: an end that was cut off shows up to the last one."""

    when_full: Literal["drop", "refuse"] = "drop"
    """When 10,000 lines of a worker wait to be written: drop further ones and count them, or refuse requests."""


class State(_Table, frozen=True):
    """``[state]``: what outlives a restart."""

    directory: Text = "/var/lib/xksproxy"
    """A directory that the proxy alone writes, shared by its workers: log-in attempts are remembered there, so that a
    wrong PIN is never tried twice."""


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
    health: Health = Health()
    admin: Admin = Admin()
    audit: Audit = Audit()
    state: State = State()
    logging: Logging = Logging()
