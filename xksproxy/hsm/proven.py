"""An encryption with the proof that its result decrypts (R-CDIV-6)."""

import hmac
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import CiphertextRejected, CiphertextWrong
from xksproxy.hsm.session import Sealed
from xksproxy.hsm.work import Decryption, Encryption, Work

Witness = TypeVar("Witness")


class Submit(Protocol):
    """Has work done by a session of one HSM."""

    def __call__(self, work: Work[Any], deadline: Deadline, /) -> Awaitable[Any]:
        """The result of the work."""


async def encrypt_proven(
    submit: Submit, encryption: Encryption, witness: Callable[[Sealed], Witness], deadline: Deadline
) -> tuple[Sealed, Witness]:
    """Encrypt, show the result to ``witness``, then decrypt it.

    In this order: what is corrupted after the witness has seen it fails to decrypt.

    Raises:
        CiphertextWrong: it does not decrypt, or not to the plaintext.
        HsmError: what either of the two raises.
    """
    sealed = await submit(encryption, deadline)
    witnessed = witness(sealed)
    try:
        opened = await submit(Decryption(encryption.label, sealed, encryption.aad, encryption.proof), deadline)
    except CiphertextRejected as error:
        raise CiphertextWrong(f"the HSM refuses what it has just encrypted: {error}") from error
    if not hmac.compare_digest(opened, encryption.plaintext):
        raise CiphertextWrong("what the HSM has just encrypted decrypts to something else")
    return sealed, witnessed
