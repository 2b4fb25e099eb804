"""Which encryptions are counted before the session makes them."""

from typing import Any

from xksproxy.hsm.instance.gcm_requests import Encryption
from xksproxy.hsm.keys import Sealed


class Session:
    """Notes which encryptions were counted already."""

    def __init__(self) -> None:
        self.counted: list[bool] = []

    def encrypt(self, *_: object, counted: bool) -> Sealed:
        self.counted.append(counted)
        return Sealed(b"", b"", b"")


class Reserved:
    """A usage book in which an encryption is reserved, and the native call for it."""

    def count_if_reserved(self, *_: object) -> bool:
        return True

    def set_gcm(self, *_: object) -> None: ...


def test_an_encryption_that_is_repeated_is_counted_again() -> None:
    session: Any = Session()
    encryption, reserved = Encryption("label", b"", b"", None, None), Reserved()
    encryption.prepare(reserved, 1, reserved)  # type: ignore[arg-type]

    encryption(session)
    encryption(session)

    assert session.counted == [True, False]


def test_an_encryption_that_the_native_session_tried_is_counted_again() -> None:
    session: Any = Session()
    encryption, reserved = Encryption("label", b"", b"", None, None), Reserved()
    encryption.prepare(reserved, 1, reserved)  # type: ignore[arg-type]

    encryption.attempted()
    encryption(session)

    assert session.counted == [False]
