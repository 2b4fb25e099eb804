"""An encryption with the fingerprint that its result decrypts (R-CDIV-6)."""

import hmac
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import CiphertextRejected, CiphertextWrong
from xksproxy.hsm.instance.gcm import Decryption, Encryption, Operation
from xksproxy.hsm.keys import Sealed

IntegrityValue = TypeVar("IntegrityValue")


class Submit(Protocol):
    """Has work done by a session of one HSM."""

    def __call__(self, work: Operation[Any], deadline: Deadline, /) -> Awaitable[Any]:
        """The result of the work."""


async def encrypt_verified(
    submit: Submit, encryption: Encryption, integrity_of: Callable[[Sealed], IntegrityValue], deadline: Deadline
) -> tuple[Sealed, IntegrityValue]:
    """Encrypt, show the result to ``integrity_of``, then decrypt it.

    In this order: what is corrupted after the integrity_of has seen it fails to decrypt.

    Raises:
        CiphertextWrong: it does not decrypt, or not to the plaintext.
        HsmError: what either of the two raises.
    """
    sealed = await submit(encryption, deadline)
    integrity_value = integrity_of(sealed)
    try:
        opened = await submit(Decryption(encryption.label, sealed, encryption.aad, encryption.fingerprint), deadline)
    except CiphertextRejected as error:
        raise CiphertextWrong(f"the HSM refuses what it has just encrypted: {error}") from error
    if not hmac.compare_digest(opened, encryption.plaintext):
        raise CiphertextWrong("what the HSM has just encrypted decrypts to something else")
    return sealed, integrity_value
