"""An encryption whose result is decrypted again before it is answered (R-CDIV-6)."""

import hmac
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import CiphertextRejected, CiphertextWrong
from xksproxy.hsm.instance.gcm_requests import Decryption, Encryption, Operation
from xksproxy.hsm.keys import Sealed

IntegrityValue = TypeVar("IntegrityValue")


class Submit(Protocol):
    """Runs work on a session of one HSM."""

    def __call__(
        self, work: Operation[Any], deadline: Deadline, /, *, calls: int = 1, first: bool = False
    ) -> Awaitable[Any]:
        """The result of the work; see :meth:`xksproxy.hsm.instance.session_pool.SessionPool.submit`."""


async def encrypt_verified(
    submit: Submit, encryption: Encryption, integrity_of: Callable[[Sealed], IntegrityValue], deadline: Deadline
) -> tuple[Sealed, IntegrityValue]:
    """Encrypt, compute the integrity value with ``integrity_of``, then decrypt the result.

    The order matters: a ciphertext that is corrupted after its integrity value was computed fails to decrypt.

    Raises:
        CiphertextWrong: the result does not decrypt to the plaintext.
        HsmError: the encryption or the decryption failed.
    """
    sealed = await submit(encryption, deadline, calls=2)
    integrity_value = integrity_of(sealed)
    try:
        decryption = Decryption(encryption.label, sealed, encryption.aad, encryption.fingerprint)
        opened = await submit(decryption, deadline, first=True)
    except CiphertextRejected as error:
        raise CiphertextWrong(f"the HSM refuses what it has just encrypted: {error}") from error
    if not hmac.compare_digest(opened, encryption.plaintext):
        raise CiphertextWrong("what the HSM has just encrypted decrypts to something else")
    return sealed, integrity_value
