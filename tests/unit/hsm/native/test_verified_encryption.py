"""Encryption, integrity value and trial decrypt as one native call (R-CDIV-5, R-CDIV-6)."""

import hashlib
from collections.abc import Callable
from ctypes import CFUNCTYPE, c_size_t, c_void_p, cast, memmove, string_at
from typing import Any, Final

import pytest
from native_support import FOREVER, TAG, Module, encryption, iv, made_at, ready

from xksproxy.hsm._native import Call, NativeSession
from xksproxy.hsm.instance.openssl import sha256_address
from xksproxy.hsm.pkcs11.module_lock import ModuleLock

PREFIX: Final = b"aad and metadata"

_Sha256 = CFUNCTYPE(c_void_p, c_void_p, c_size_t, c_void_p)


class Sha256:
    """SHA256(3) that records what it is given; ``afterwards`` runs with the address and length of that."""

    def __init__(self, afterwards: Callable[[int, int], None] = lambda *_: None) -> None:
        self.hashed: list[bytes] = []
        self._afterwards = afterwards
        self._function = _Sha256(self._hash)
        self.address = cast(self._function, c_void_p).value or 0

    def _hash(self, data: Any, length: int, digest: Any) -> Any:
        self.hashed.append(string_at(data, length))
        memmove(digest, hashlib.sha256(self.hashed[-1]).digest(), 32)
        self._afterwards(data, length)
        return digest


def verified(text: bytes = b"text") -> Call:
    call = encryption(text)
    call.set_integrity_prefix(PREFIX)
    return call


def session_with(
    module: Module, module_lock: ModuleLock, sha256: int, *, maximum: int = 0, writes_iv: bool = False
) -> NativeSession:
    return ready(NativeSession(module_lock, 7, module.functions, maximum, writes_iv, sha256))


def test_the_output_is_hashed_and_decrypted_in_one_call(module: Module, module_lock: ModuleLock) -> None:
    native_session = session_with(module, module_lock, sha256_address())
    call = verified()

    assert made_at(native_session, call)
    assert (call.iv, call.output) == (iv(1), b"TEXT" + TAG)
    assert call.integrity_value == hashlib.sha256(PREFIX + iv(1) + b"TEXT" + TAG).digest()
    assert [made.function for made in module.made] == ["C_EncryptInit", "C_DecryptInit"]
    assert module.made[1].data == b"TEXT" + TAG
    assert (module.made[1].iv, module.made[1].aad) == (iv(1), b"aad")


def test_an_empty_plaintext_and_an_empty_prefix_are_verified_too(module: Module, module_lock: ModuleLock) -> None:
    call = encryption(b"")
    call.set_integrity_prefix(b"")

    assert made_at(session_with(module, module_lock, sha256_address()), call)
    assert call.integrity_value == hashlib.sha256(iv(1) + TAG).digest()


def test_the_iv_that_the_hsm_wrote_is_the_one_that_is_hashed(module_lock: ModuleLock) -> None:
    module = Module(writes_iv=b"by the HSM..")
    call = verified()

    assert made_at(session_with(module, module_lock, sha256_address(), writes_iv=True), call)
    assert call.integrity_value == hashlib.sha256(PREFIX + b"by the HSM.." + b"TEXT" + TAG).digest()


def test_what_is_corrupted_after_it_was_hashed_is_never_an_output(module: Module, module_lock: ModuleLock) -> None:
    """R-CDIV-6: the hash comes first, so the trial decrypt sees a corruption that the integrity value does not."""

    def corrupt(address: int, length: int) -> None:
        memmove(address + length - len(TAG) - 1, b"?", 1)

    sha256 = Sha256(corrupt)
    call = verified()

    assert not made_at(session_with(module, module_lock, sha256.address), call)
    assert sha256.hashed == [PREFIX + iv(1) + b"TEXT" + TAG]
    assert (call.differs, call.attempted, call.output) == (True, True, b"")


@pytest.mark.parametrize(
    "decrypted", [b"texx", b"tex", b"textt", b"", b"xext"], ids=["last byte", "short", "long", "empty", "first byte"]
)
def test_a_trial_decrypt_to_something_else_is_reported(module_lock: ModuleLock, decrypted: bytes) -> None:
    module = Module(writes=lambda output: output if output.endswith(TAG) else decrypted)
    call = verified()

    assert not made_at(session_with(module, module_lock, sha256_address()), call)
    assert call.differs
    assert call.take_failure() is None
    with pytest.raises(RuntimeError, match="no verified output"):
        _ = call.integrity_value


@pytest.mark.parametrize("function", ["C_DecryptInit", "C_Decrypt"])
def test_a_trial_decrypt_that_fails_goes_to_python_with_its_return_value(
    module: Module, module_lock: ModuleLock, function: str
) -> None:
    module.returns = {function: 0x30}
    call = verified()

    assert not made_at(session_with(module, module_lock, sha256_address()), call)
    assert call.take_failure() == (function, 0x30)
    assert (call.differs, call.output) == (False, b"")


@pytest.mark.parametrize(("encrypt", "decrypt"), [(True, False), (False, True)])
def test_a_key_has_to_allow_both_uses(module: Module, module_lock: ModuleLock, encrypt: bool, decrypt: bool) -> None:
    native_session = session_with(module, module_lock, sha256_address())
    native_session.allow_key(0, 70, FOREVER, encrypt, decrypt, None)

    assert not made_at(native_session, verified())
    assert module.made == []


def test_without_a_hash_function_it_is_left_to_python(module: Module, module_lock: ModuleLock) -> None:
    native_session = session_with(module, module_lock, 0)
    call = verified()

    assert not made_at(native_session, call)
    assert not call.attempted
    assert made_at(native_session, encryption())


def test_a_prefix_belongs_to_an_encryption_that_is_not_queued_yet() -> None:
    queued = verified()
    for call in (Call(), queued):
        with pytest.raises(RuntimeError, match="one encryption"):
            call.set_integrity_prefix(PREFIX)
    with pytest.raises(TypeError):
        encryption().set_integrity_prefix("text")  # type: ignore[arg-type]
