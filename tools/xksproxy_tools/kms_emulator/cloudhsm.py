"""AWS CloudHSM clusters that are PKCS#11 tokens on this machine.

A token represents a cluster that has the number of active HSMs and Availability Zones that KMS demands. The emulator
does not simulate what a token does not have: there are no subnets, and kmsuser is never logged in already.
"""

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from xksproxy.config.model import Hsm
from xksproxy.deadline import Deadline
from xksproxy.hsm import keys
from xksproxy.hsm.errors import (
    CiphertextRejected,
    DeadlinePassed,
    HsmBusy,
    HsmError,
    KeyMissing,
    LoginBarred,
    LoginRefused,
    SessionLost,
    TokenUnavailable,
    UserMissing,
)
from xksproxy.hsm.instance.instance import Instance
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.pkcs11.key_objects import destroy_key
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.hsm.pkcs11.presets import PRESETS
from xksproxy.state.private_files import make_directory
from xksproxy.state.usage import UsageBook
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.proxy.responses import Sealed

CLUSTER_NOT_FOUND: Final = "CLUSTER_NOT_FOUND"
"""The ConnectionErrorCode of a key store whose cluster does not exist."""

_KEY_BITS: Final = 256
_SECONDS: Final = 10.0
_CLOUDHSM_PRESET: Final = "cloudhsm"
_LABEL_BYTES: Final = 32

Result = TypeVar("Result")


class ClusterOutcome(Enum):
    """The reason why a call to a cluster failed."""

    WRONG_PASSWORD = "the password of kmsuser is wrong"  # noqa: S105 - a description
    USER_LOCKED_OUT = "kmsuser is locked out"
    USER_MISSING = "there is no kmsuser"
    NO_ACTIVE_HSM = "no active HSM"
    KEY_MISSING = "the key material is not in the cluster"
    CIPHERTEXT_REJECTED = "the ciphertext or the encryption context is wrong"
    BUSY = "the cluster is busy"
    FAILED = "the cluster returned an error"


class ClusterFailure(Exception):
    """A call to a cluster failed. ``detail`` is for the operator."""

    def __init__(self, outcome: ClusterOutcome, detail: str) -> None:
        self.outcome = outcome
        self.detail = detail
        super().__init__(f"{outcome.value}: {detail}")


class CloudHsmCluster:
    """One cluster. Its methods belong to one event loop; HSM calls run on session workers.

    Every failure is a :class:`ClusterFailure`. The HSM engine checks a token that failed, and uses it again when it
    works, without another :meth:`connect`.
    """

    def __init__(self, cluster_id: str, hsm: Hsm, modules: Modules, guard: PinGuard, *, time_limit: float) -> None:
        self.id = cluster_id
        self._hsm = hsm
        self._modules = modules
        self._guard = guard
        self._time_limit = time_limit
        self._instance: Instance | None = None

    async def connect(self, password: str) -> None:
        """Log in as kmsuser with the KeyStorePassword as PIN, and check that the HSM encrypts and decrypts.

        Each call is one attempt to log in, also with a password that was refused before. As with KMS, too many attempts
        lock the user, if the token does that.
        """
        await self.disconnect()
        try:
            await asyncio.to_thread(self._guard.forget, self._hsm.id)
        except HsmError as error:
            raise _failure(error) from error
        pin = f"kmsuser:{password}" if self._hsm.preset == _CLOUDHSM_PRESET else password
        self._instance = Instance(msgspec.structs.replace(self._hsm, pin=pin), self._modules)
        self._instance.start()
        try:
            await self._tried(self._instance)
            await self._call(HsmSession.test_settings)
        except BaseException:
            await self.disconnect()
            raise

    async def _tried(self, instance: Instance) -> None:
        """Wait until the log-in has succeeded or failed."""
        try:
            async with asyncio.timeout(self._time_limit):
                await instance.tried()
        except TimeoutError:
            raise ClusterFailure(ClusterOutcome.NO_ACTIVE_HSM, instance.reason) from None

    async def disconnect(self) -> None:
        """Log out. This does nothing if no user is logged in."""
        instance, self._instance = self._instance, None
        if instance is not None:
            instance.stop()
            await instance.ended(self._time_limit)
            await _on_daemon_thread(lambda: self._modules.log_out(self._hsm), self._time_limit)

    async def create_key(self, label: str) -> None:
        """Make an AES-256 key that never leaves the token."""
        await self._call(lambda session: session.create_key(label, bits=_KEY_BITS, encrypt=True, decrypt=True))

    async def delete_key(self, label: str) -> None:
        """Destroy a key."""
        await self._call(lambda session: destroy_key(session.binding, label))

    async def encrypt(self, label: str, plaintext: bytes, aad: bytes) -> Sealed:
        """AES-256-GCM in the token."""
        sealed = await self._call(lambda session: session.encrypt(label, plaintext, aad))
        return Sealed(sealed.ciphertext, None, sealed.iv, sealed.tag)

    async def decrypt(self, label: str, sealed: Sealed, aad: bytes) -> bytes:
        """The inverse of :meth:`encrypt`."""
        inside = keys.Sealed(sealed.iv, sealed.ciphertext, sealed.tag)
        return await self._call(lambda session: session.decrypt(label, inside, aad))

    async def _call(self, work: Callable[[HsmSession], Result]) -> Result:
        if self._instance is None:
            raise ClusterFailure(ClusterOutcome.NO_ACTIVE_HSM, f"no user is logged in to {self.id}")
        try:
            return await self._instance.call(work, Deadline.after(self._time_limit))
        except HsmError as error:
            raise _failure(error) from error


class CloudHsmClusters:
    """The clusters of the account, by id. A process has at most one of these, and must not fork after that."""

    def __init__(self, clusters: Mapping[str, Hsm], state_directory: Path, *, time_limit: float = _SECONDS) -> None:
        """Load no module yet.

        Args:
            clusters: the token that represents each cluster.
            state_directory: where the HSM engine records log-ins and encryptions.
            time_limit: seconds for one call.
        """
        make_directory(state_directory)
        guard = PinGuard(state_directory)
        modules = Modules(guard, UsageBook(state_directory))
        self._clusters = {
            cluster_id: CloudHsmCluster(cluster_id, hsm, modules, guard, time_limit=time_limit)
            for cluster_id, hsm in clusters.items()
        }

    def get(self, cluster_id: str) -> CloudHsmCluster | None:
        """The cluster with this id, or None."""
        return self._clusters.get(cluster_id)

    async def close(self) -> None:
        """Log out of all clusters."""
        for cluster in self._clusters.values():
            await cluster.disconnect()


def parse_cluster(text: str) -> tuple[str, Hsm]:
    """Read ``ID=MODULE:TOKEN[:PRESET]``, such as ``cluster-1a23b4cdefg=/usr/lib/softhsm/libsofthsm2.so:kms``.

    The preset is that of ``[[hsm]]`` in the proxy's configuration; the default is ``softhsm2``.

    Raises:
        ValueError: the form is wrong.
    """
    cluster_id, separator, token = text.partition("=")
    module, _, rest = token.partition(":")
    label, _, preset = rest.partition(":")
    preset = preset or "softhsm2"
    if not (separator and cluster_id and module and label) or len(label.encode()) > _LABEL_BYTES:
        raise ValueError(f"{text!r} is not a cluster; expected ID=MODULE:TOKEN or ID=MODULE:TOKEN:PRESET")
    if preset not in PRESETS:
        raise ValueError(f"{preset!r} is not a preset; expected one of {', '.join(PRESETS)}")
    return cluster_id, msgspec.convert({"id": cluster_id, "module": module, "token": label, "preset": preset}, Hsm)


def connection_error_code(outcome: ClusterOutcome) -> str:
    """The ConnectionErrorCode after ConnectCustomKeyStore."""
    return _ANSWERS[outcome].code


def create_key_error(outcome: ClusterOutcome) -> KmsError:
    """The error of CreateKey."""
    answer = _ANSWERS[outcome]
    return KmsError(answer.create_key, answer.text)


def cryptographic_error(outcome: ClusterOutcome) -> KmsError:
    """The error of the five cryptographic operations."""
    answer = _ANSWERS[outcome]
    return KmsError(answer.cryptography, answer.text)


@dataclass(frozen=True, slots=True)
class _KmsAnswer:
    """The ConnectionErrorCode and the exceptions of KMS after an outcome."""

    text: str
    code: str = "INTERNAL_ERROR"
    create_key: str = "KMSInternalException"
    cryptography: str = "KMSInvalidStateException"


_STORE_STATE: Final = "CustomKeyStoreInvalidStateException"

_ANSWERS: Final[Mapping[ClusterOutcome, _KmsAnswer]] = {
    ClusterOutcome.WRONG_PASSWORD: _KmsAnswer(
        "AWS KMS cannot log in to the AWS CloudHSM cluster: the password of kmsuser differs from that of the key"
        " store.",
        "INVALID_CREDENTIALS",
        _STORE_STATE,
    ),
    ClusterOutcome.USER_LOCKED_OUT: _KmsAnswer(
        "AWS KMS cannot log in to the AWS CloudHSM cluster: kmsuser is locked out.", "USER_LOCKED_OUT", _STORE_STATE
    ),
    ClusterOutcome.USER_MISSING: _KmsAnswer(
        "AWS KMS cannot log in to the AWS CloudHSM cluster: it has no user kmsuser.", "USER_NOT_FOUND", _STORE_STATE
    ),
    ClusterOutcome.NO_ACTIVE_HSM: _KmsAnswer(
        "The AWS CloudHSM cluster of the key store has no active HSM.",
        "INSUFFICIENT_CLOUDHSM_HSMS",
        "CloudHsmClusterInvalidConfigurationException",
    ),
    ClusterOutcome.KEY_MISSING: _KmsAnswer("The AWS CloudHSM cluster does not hold the key material of the KMS key."),
    ClusterOutcome.CIPHERTEXT_REJECTED: _KmsAnswer(
        "The ciphertext, or the encryption context that belongs to it, is corrupted, missing or otherwise invalid.",
        cryptography="InvalidCiphertextException",
    ),
    ClusterOutcome.BUSY: _KmsAnswer(
        "The AWS CloudHSM cluster is busy with other commands. Lower the request rate, and retry.",
        "NETWORK_ERRORS",
        "ThrottlingException",
        "ThrottlingException",
    ),
    ClusterOutcome.FAILED: _KmsAnswer("The AWS CloudHSM cluster returned an error."),
}

# The first match counts, so a class is before its base classes.
_OUTCOMES: Final[tuple[tuple[type[HsmError], ClusterOutcome], ...]] = (
    (UserMissing, ClusterOutcome.USER_MISSING),
    (LoginBarred, ClusterOutcome.USER_LOCKED_OUT),
    (LoginRefused, ClusterOutcome.WRONG_PASSWORD),
    (KeyMissing, ClusterOutcome.KEY_MISSING),
    (CiphertextRejected, ClusterOutcome.CIPHERTEXT_REJECTED),
    (HsmBusy, ClusterOutcome.BUSY),
    (DeadlinePassed, ClusterOutcome.NO_ACTIVE_HSM),
    (SessionLost, ClusterOutcome.NO_ACTIVE_HSM),
    (TokenUnavailable, ClusterOutcome.NO_ACTIVE_HSM),
)


async def _on_daemon_thread(work: Callable[[], None], seconds: float) -> None:
    """Run a call that never returns if the module hangs. After ``seconds`` the thread is abandoned."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()

    def run() -> None:
        try:
            work()
        finally:
            with suppress(RuntimeError):  # the loop has closed meanwhile
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=run, daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await done.wait()


def _failure(error: HsmError) -> ClusterFailure:
    outcome = next((outcome for kind, outcome in _OUTCOMES if isinstance(error, kind)), ClusterOutcome.FAILED)
    return ClusterFailure(outcome, str(error))
