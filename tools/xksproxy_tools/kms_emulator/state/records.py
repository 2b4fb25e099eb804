"""Records in the state file. A repr hides secrets. Times are seconds since the epoch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class StoreType(StrEnum):
    """CustomKeyStoreType."""

    CLOUDHSM = "AWS_CLOUDHSM"
    EXTERNAL = "EXTERNAL_KEY_STORE"


class Connectivity(StrEnum):
    """XksProxyConnectivity."""

    PUBLIC = "PUBLIC_ENDPOINT"
    VPC = "VPC_ENDPOINT_SERVICE"


class ConnectionState(StrEnum):
    """ConnectionState of a custom key store."""

    CONNECTED = "CONNECTED"
    CONNECTING = "CONNECTING"
    DISCONNECTED = "DISCONNECTED"
    DISCONNECTING = "DISCONNECTING"
    FAILED = "FAILED"


class Origin(StrEnum):
    """Where the key material of a KMS key is from, as far as this emulator has such keys."""

    KMS = "AWS_KMS"
    CLOUDHSM = "AWS_CLOUDHSM"
    EXTERNAL = "EXTERNAL_KEY_STORE"


class KeyState(StrEnum):
    """KeyState of a KMS key. What is stored is never :attr:`UNAVAILABLE`: that follows from the key store."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"
    PENDING_DELETION = "PendingDeletion"
    UNAVAILABLE = "Unavailable"


@dataclass(frozen=True, slots=True)
class XksProxy:
    """How KMS reaches the external key store proxy."""

    connectivity: Connectivity
    uri_endpoint: str
    uri_path: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    service_name: str | None = None
    """The VPC endpoint service; only with :attr:`Connectivity.VPC`."""

    service_owner: str | None = None


@dataclass(frozen=True, slots=True)
class Cluster:
    """The AWS CloudHSM cluster of a key store."""

    cluster_id: str
    trust_anchor_certificate: str
    password: str = field(repr=False)
    """KeyStorePassword: that of the crypto user ``kmsuser``."""


@dataclass(frozen=True, slots=True)
class Connection:
    """The connection of a key store."""

    state: ConnectionState = ConnectionState.DISCONNECTED
    error_code: str | None = None
    """ConnectionErrorCode; only while the state is FAILED."""

    request_id: str | None = None
    """The request that started the current transition. It identifies the transition."""

    due: float | None = None
    """The time at which the current transition ends."""


@dataclass(frozen=True, slots=True)
class KeyStore:
    """A custom key store with either a :attr:`proxy` or a :attr:`cluster`."""

    id: str
    account: str
    name: str
    created: float
    proxy: XksProxy | None = None
    cluster: Cluster | None = None
    connection: Connection = Connection()

    @property
    def type(self) -> StoreType:
        """CustomKeyStoreType."""
        return StoreType.EXTERNAL if self.cluster is None else StoreType.CLOUDHSM

    @property
    def connected(self) -> bool:
        """Whether the state is CONNECTED. The proxy or cluster may still be unavailable."""
        return self.connection.state is ConnectionState.CONNECTED


@dataclass(frozen=True, slots=True)
class KmsKey:
    """A symmetric encryption KMS key."""

    id: str
    account: str
    created: float
    origin: Origin
    backing_key_id: str
    """Names the key material in ciphertext blobs."""

    policy: str
    description: str = ""
    state: KeyState = KeyState.ENABLED
    """The state of the key itself, regardless of its key store."""

    deletion_date: float | None = None
    material: bytes | None = field(default=None, repr=False)
    """The AES-256 key in KMS; None for a key in a CloudHSM cluster."""

    store_id: str | None = None
    xks_key_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Alias:
    """Another name of a KMS key."""

    account: str
    name: str
    """With its prefix ``alias/``."""

    key_id: str
    created: float
    updated: float
