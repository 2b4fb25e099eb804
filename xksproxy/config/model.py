"""The configuration file as typed, frozen structs. docs/configuration.md is made from their docstrings."""

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
    """PEM file, unencrypted, with the mode of a secret."""

    client_ca: Text | None = None
    """PEM file with the CAs that may issue client certificates. Setting it turns mutual TLS on (R-TLS-6)."""

    client_names: tuple[Text, ...] = ()
    """Common names, one of which the client's certificate must carry. Required with ``client_ca`` (R-TLS-7)."""


class ProxyProtocol(_Table, frozen=True):
    """``[server.proxy_protocol]``: the PROXY protocol, version 2, of a load balancer. Without this table it is off."""

    from_: Annotated[tuple[Text, ...], Meta(min_length=1)] = msgspec.field(name="from")
    """The networks of the load balancer in CIDR notation. Each connection to ``server.listen`` must come from one of
    them and begin with a header of the protocol; otherwise it is closed. The header names the client."""


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
    """Connections a worker holds at once, unfinished TLS handshakes included. Handshakes and connections that never
    signed may have a quarter each while others need the rest; above it, whoever has more makes room."""

    fleet_size: Annotated[int, Meta(ge=1, le=10_000)] = 1
    """How many machines run this proxy behind one endpoint; reported to KMS (R-HLTH-1)."""

    drain_s: Annotated[float, Meta(ge=0, le=600)] | None = None
    """Seconds after SIGTERM in which ``/readyz`` is 503 and everything is still served, so that the load balancer
    notices: its check interval times its threshold, and 2 s. Without it: 12 with ``[health] listen``, else 1."""

    proxy_protocol: ProxyProtocol | None = None

    core_dumps: bool = False
    """Allow core dumps, to examine a crash with the module's vendor. They contain secrets. Takes effect at the start of
    the service."""


class Hsm(_Table, frozen=True):
    """``[[hsm]]``: one token, reached through a PKCS#11 module."""

    id: Text
    """The name under which key stores refer to it and KMS sees it."""

    module: Text
    """Path of the PKCS#11 shared object."""

    token: Text | None = None
    """The token's label. It is found by this wherever it is; one of ``token``, ``serial`` and ``uri`` is required."""

    serial: Text | None = None
    """The token's serial number, alone or together with ``token``: needed if several tokens have the same label."""

    uri: Text | None = None
    """A PKCS#11 URI (RFC 7512) instead of both. It may have ``token``, ``serial``, ``manufacturer``, ``model`` and
    ``slot-id``."""

    pin: SecretReference | Text | None = None
    """The user PIN: ``{ file = "…" }``, ``{ env = "…" }`` or ``{ credential = "…" }``. A plain string is accepted only
    if others cannot read the configuration file. Without it there is no log-in."""

    preset: Literal["softhsm2", "nss", "cloudhsm", "luna", "nshield", "vault", "generic"] = "generic"
    """How this kind of module behaves. softhsm2 and nss are tested on the module itself; the others are made from
    the vendor's documents and tested on a module that imitates them. Each setting below overrides the preset's."""

    iv: Literal["caller", "written-back", "appended"] | None = None
    """Who makes the IV: the proxy; the HSM, writing it into a zeroed buffer (CloudHSM, nShield); or the HSM, appending
    16 bytes to the output (Luna in FIPS mode). A self-test on the token verifies this before it serves."""

    iv_source: Literal["token", "system"] | None = None
    """Where the proxy's IVs come from: the token's generator, or the operating system if the module has none."""

    read_write_sessions: bool | None = None
    """Open read/write sessions. CloudHSM has no others; a write-protected token has only read-only ones."""

    initialize_string: Text | None = None
    """The string for pReserved of C_Initialize, such as the parameters of NSS."""

    maximum_data_bytes: Annotated[int, Meta(ge=1)] | None = None
    """Maximum bytes of one GCM call on this module."""

    rejected_ciphertext_codes: tuple[Text, ...] | None = None
    """Return values of C_Decrypt, by name or as 0x…, that mean "wrong tag" in addition to the standard ones."""

    ambiguous_codes: tuple[Text, ...] | None = None
    """Return values of C_Decrypt that mean "wrong tag" or "device error"; a self-test decides which."""

    busy_codes: tuple[Text, ...] | None = None
    """Return values of any function that mean that the HSM is busy."""

    sessions: Annotated[int, Meta(ge=1, le=256)] = 4
    """Sessions in each worker. Each makes one call at a time."""

    environment: dict[str, str] = {}
    """Environment variables that the module reads when it is initialised. Modules that differ in one take turns."""

    connect_timeout_s: Annotated[float, Meta(ge=1, le=3600)] = 60
    """Seconds after which an HSM that is still being connected is reported as out of service. The attempt goes on.
    Commands such as ``check-config --live`` give up then."""

    check_interval_s: Annotated[float, Meta(ge=1, le=50)] = 15
    """Seconds between health checks. Each encrypts and decrypts under a session key."""

    def __repr__(self) -> str:
        """Without the PIN, which may be inline."""
        return f"<Hsm {self.id}>"


class Key(_Table, frozen=True):
    """``[[keystore.keys]]``: external keys that a key store exposes."""

    id: Text
    """The external key id (R-URI-6), or a pattern with ``*`` and ``?`` that exposes every key whose label matches."""

    label: Text | None = None
    """CKA_LABEL of the key on the token, if it differs from the id. Not with a pattern."""

    object_id: Text | None = None
    """CKA_ID of the key on the token, in hexadecimal, instead of the label or together with it. Not with a pattern."""

    uri: Text | None = None
    """A PKCS#11 URI (RFC 7512) with ``object``, ``id`` or both, instead of ``label`` and ``object_id``."""

    versions: dict[VersionNumber, Text] = {}
    """Each key version by its number: its CKA_LABEL, or a PKCS#11 URI that starts with ``pkcs11:``. Without it the key
    is version 1, and ``LABEL.v2``, ``LABEL.v3`` … are the others. Not with a pattern, label, object_id or uri."""

    aad_encoding: AadEncodingName = "plain"
    """How Encrypt sends the AAD to the HSM: unchanged, or as its SHA-256 like AWS's sample proxy. The ciphertext
    metadata records it, so it can change at any time."""

    legacy_aad_encoding: AadEncodingName | None = None
    """The encoding for ciphertexts without metadata of this proxy. Without it, ``aad_encoding``."""

    legacy_metadata: tuple[LegacyMetadata, ...] = ()
    """Ciphertext metadata, in Base64, that another proxy wrote: such a ciphertext is of version 1."""

    maximum_encryptions: Annotated[int, Meta(ge=1, le=MAXIMUM_ENCRYPTIONS)] = MAXIMUM_ENCRYPTIONS
    """Maximum number of encryptions of a key version. Each machine has an equal part, by ``server.fleet_size``. From
    half of it on the proxy logs a warning."""

    hedge_after_ms: Annotated[int, Meta(ge=1, le=250)] | None = None
    """Milliseconds after which a call that has no answer is also sent to a second HSM."""

    disabled: bool = False
    """Answer InvalidStateException to Encrypt and Decrypt, and report ``DISABLED``."""


class KeyStore(_Table, frozen=True):
    """``[[keystore]]``: one external key store of KMS."""

    name: Text
    """The name in commands and logs."""

    uri_path_prefix: str
    """The path before ``/kms/xks/v1``; empty for none (R-URI-2)."""

    hsms: Annotated[tuple[Text, ...], Meta(min_length=1)]
    """The ``id`` of each ``[[hsm]]`` that holds its keys. If two hold different keys under one label, the
    first one in this list counts."""

    credentials: Text
    """A directory with one file, with the mode of a secret, for each SigV4 credential."""

    keys: Annotated[tuple[Key, ...], Meta(min_length=1)]
    """The keys it exposes; a key that is not named here does not exist for KMS."""

    requests_per_second: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    """Requests per second on this machine, all workers together. Further ones get ThrottlingException (R-URI-10)."""

    burst: Annotated[float, Meta(ge=1, le=10_000_000)] | None = None
    """The size of a burst, in requests. Without it, ``requests_per_second``."""

    weight: Annotated[float, Meta(ge=0.01, le=100)] = 1
    """Its share of an HSM, relative to other key stores, while they ask for more than the HSM can do. What exceeds the
    share gets ThrottlingException. What others do not use, it may use."""

    policies: Annotated[tuple[Text, ...], Meta(min_length=1)] | None = None
    """Files of Cedar policies, or directories with ``*.cedar`` files. A request that they do not permit
    is refused (R-AUTHZ-2). Without policies, each authenticated request is allowed."""

    policy_mode: Literal["enforce", "audit"] = "enforce"
    """Whether the policies refuse requests, or the log only records what they would refuse."""


ANY_STORE: Final = "any"
ALL_STORES: Final = "all"


class Health(_Table, frozen=True):
    """``[health]``: plain HTTP for the load balancer's health checks; it works while mutual TLS is on."""

    listen: Text | None = None
    """``address:port`` where ``/livez``, ``/readyz`` and ``/readyz/NAME`` answer; off without it."""

    ready_when: Text | tuple[Text, ...] = ANY_STORE
    """When ``/readyz`` is 200: while Encrypt and Decrypt can be served for ``any`` key store, for ``all``, or for each
    of a list of names. ``/readyz/NAME`` answers for one."""


class Admin(_Table, frozen=True):
    """``[admin]``: plain HTTP for operators and Prometheus. Whoever reaches it sees key ids and access key ids."""

    listen: Text = "127.0.0.1:9464"
    """``address:port`` of ``/metrics``, ``/status``, ``/``, ``/livez`` and ``/readyz``; ``off`` for none."""

    hosts: tuple[Text, ...] = ()
    """Host names without a port that are accepted as Host, besides IP addresses, localhost and the machine's name.
    Other names are refused, so that no web page can read the listener through a browser (DNS rebinding)."""


class Metrics(_Table, frozen=True):
    """``[metrics]``: what ``/metrics`` of the admin listener has."""

    max_series: Annotated[int, Meta(ge=1000, le=1_000_000)] = 20_000
    """Above so many series, durations are by key store for some of them, and encryptions by key and dates by credential
    for the first; the others are folded. ``xksproxy_series_folded`` tells how many. Requests by key store and API are
    always there."""


class Audit(_Table, frozen=True):
    """``[audit]``: one line for each request."""

    enabled: bool = True
    """Whether it is written at all."""

    file: Text | None = None
    """Append to this file, which may be renamed while it is written; without it, standard output."""

    format: Literal["json", "console"] = "json"
    """One JSON object a line, or a line for people."""

    chain: bool = False
    """Chain the lines by HMAC, so that ``xksproxy audit verify`` finds removed, changed and moved lines."""

    key: SecretReference | None = None
    """The HMAC key of the chain: ``{ file = "…" }``, ``{ env = "…" }`` or ``{ credential = "…" }``."""

    checkpoint_interval_s: Annotated[float, Meta(ge=1, le=86_400)] = 60
    """Seconds between checkpoints of a chain. Lines removed at the end are detected up to the last checkpoint."""

    when_full: Literal["drop", "refuse"] = "drop"
    """If 10,000 lines of a worker wait to be written: drop further lines and count them, or refuse requests."""

    sync: bool = False
    """Answer an authenticated request only after its line is on disk. Needs ``file`` and ``when_full = "refuse"``.
    Without it, lines are synced once a second."""

    stop_after_s: Annotated[float, Meta(ge=1, le=86_400)] | None = None
    """Stop the service, with exit code 1, after lines of a worker have waited for so many seconds and none could be
    written. Without it, the service goes on."""


class State(_Table, frozen=True):
    """``[state]``: state that survives a restart."""

    directory: Text = "/var/lib/xksproxy"
    """A directory that only the proxy writes, shared by its workers. It records log-in attempts, so that a wrong PIN is
    never tried twice."""

    witness: Literal["token", "audit", "none"] | None = None
    """What shows at the start that the directory was lost, or replaced by an older copy: "audit", the newest lines of
    ``audit.file``; "token", these if there is such a file, and a small data object on the token of each ``[[hsm]]``; or
    "none". Without it, "audit" if there is an ``audit.file``."""


class Logging(_Table, frozen=True):
    """``[logging]``: the log on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is written."""

    format: Literal["json", "console"] = "json"
    """One JSON object a line, or a line for people."""


class Tracing(_Table, frozen=True):
    """``[tracing]``: OpenTelemetry traces of slow and failed requests. Needs the extra ``xksproxy[otel]``."""

    endpoint: Text | None = None
    """The URL that takes OTLP over HTTP, such as ``http://127.0.0.1:4318/v1/traces``; off without it. A header for it,
    such as a token, comes from the environment variable OTEL_EXPORTER_OTLP_HEADERS."""

    slow_ms: Annotated[float, Meta(ge=0)] = 100
    """Authenticated requests that took longer, and failed ones, are traced: at most 50 a second in each worker."""

    ratio: Annotated[float, Meta(ge=0, le=1)] = 0
    """The fraction of the other authenticated requests that is traced, within the same limit."""


class Config(_Table, frozen=True):
    """The whole file. Paths are absolute once it is loaded."""

    server: Server
    hsm: Annotated[tuple[Hsm, ...], Meta(min_length=1)]
    keystore: Annotated[tuple[KeyStore, ...], Meta(min_length=1)]
    health: Health = Health()
    admin: Admin = Admin()
    metrics: Metrics = Metrics()
    audit: Audit = Audit()
    state: State = State()
    logging: Logging = Logging()
    tracing: Tracing = Tracing()
