"""AWS CloudHSM clusters that are PKCS#11 tokens on this machine."""

from enum import Enum
from pathlib import Path

from xksproxy.config.model import Hsm
from xksproxy.emulator.errors import KmsError
from xksproxy.emulator.proxy.answers import Sealed


class ClusterOutcome(Enum):
    """A way in which a cluster does not give what was asked of it."""

    WRONG_PASSWORD = "the password of kmsuser is wrong"  # noqa: S105 - it says what happened
    USER_LOCKED_OUT = "kmsuser is locked out"
    USER_MISSING = "there is no kmsuser"
    NO_ACTIVE_HSM = "no active HSM"
    KEY_MISSING = "the key material is not in the cluster"
    CIPHERTEXT_REJECTED = "the ciphertext or the encryption context is wrong"
    BUSY = "the cluster is busy"
    FAILED = "the cluster does not do what was asked"


class ClusterFailure(Exception):
    """A call to a cluster that gave no result; ``detail`` is for the operator."""

    def __init__(self, outcome: ClusterOutcome, detail: str) -> None:
        self.outcome = outcome
        self.detail = detail
        super().__init__(f"{outcome.value}: {detail}")


class CloudHsmCluster:
    """One cluster. Its methods belong to one event loop; the work is done on a thread of its own.

    Every failure is a :class:`ClusterFailure`.
    """

    def __init__(self, cluster_id: str, hsm: Hsm, clusters: "CloudHsmClusters") -> None:
        self.id = cluster_id

    async def connect(self, password: str) -> None:
        """Log in as kmsuser, with the KeyStorePassword as PIN, and see that the HSM encrypts and decrypts."""
        raise NotImplementedError

    async def disconnect(self) -> None:
        """Log out. Whatever happens, the cluster is not connected afterwards."""
        raise NotImplementedError

    async def create_key(self, label: str) -> None:
        """Make an AES-256 key that never leaves the token."""
        raise NotImplementedError

    async def delete_key(self, label: str) -> None:
        """Remove a key for good."""
        raise NotImplementedError

    async def encrypt(self, label: str, plaintext: bytes, aad: bytes) -> Sealed:
        """AES-256-GCM in the token."""
        raise NotImplementedError

    async def decrypt(self, label: str, sealed: Sealed, aad: bytes) -> bytes:
        """The inverse of :meth:`encrypt`."""
        raise NotImplementedError


class CloudHsmClusters:
    """The clusters of the account, by their id. At most one of these in a process, which then must not fork."""

    def __init__(self, clusters: dict[str, Hsm], state_directory: Path) -> None:
        """``state_directory`` keeps what must outlive a restart: which PINs were refused."""

    def get(self, cluster_id: str) -> CloudHsmCluster | None:
        """A cluster, or None if there is none of this id."""
        raise NotImplementedError

    async def close(self) -> None:
        """Log out of all clusters and let their threads end."""


def parse_cluster(text: str) -> tuple[str, Hsm]:
    """Read ``ID=MODULE:TOKEN[:PRESET]``, such as ``cluster-1a23b4cdefg=/usr/lib/softhsm/libsofthsm2.so:kms``.

    Raises:
        ValueError: it is of another form.
    """
    raise NotImplementedError


def connection_error_code(outcome: ClusterOutcome) -> str:
    """The ConnectionErrorCode after ConnectCustomKeyStore."""
    raise NotImplementedError


def create_key_error(outcome: ClusterOutcome) -> KmsError:
    """What CreateKey answers."""
    raise NotImplementedError


def cryptographic_error(outcome: ClusterOutcome, key_arn: str) -> KmsError:
    """What Encrypt, Decrypt, GenerateDataKey, GenerateDataKeyWithoutPlaintext and ReEncrypt answer."""
    raise NotImplementedError
