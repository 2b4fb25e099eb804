"""A PKCS#11 module that is none, calls for it, and what tests of the crossing have in common."""

import math
import threading
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, c_ulong, c_void_p, cast, memmove, string_at
from dataclasses import dataclass, field
from typing import Any, Final

from support import PATIENCE_SECONDS

from xksproxy.hsm._native import Call, CallQueue, NativeSession
from xksproxy.hsm.pkcs11.structures import CK_GCM_PARAMS, CK_MECHANISM

FOREVER: Final = math.inf
TAG: Final = b"T" * 16
FUNCTIONS: Final = ("C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt")

_Init = CFUNCTYPE(c_ulong, c_ulong, POINTER(CK_MECHANISM), c_ulong)
_Run = CFUNCTYPE(c_ulong, c_ulong, c_void_p, c_ulong, c_void_p, POINTER(c_ulong))


@dataclass
class Made:
    """What a module was asked to do."""

    function: str
    session: int
    handle: int
    iv: bytes
    aad: bytes
    data: bytes = b""
    bits: tuple[int, int, int] = (0, 0, 0)


@dataclass
class Module:
    """Four functions that note what they are asked, and answer with the data in capitals and a tag, or without it."""

    returns: dict[str, int] = field(default_factory=dict)
    """By function, what is returned instead."""
    writes_iv: bytes = b""
    writes: Callable[[bytes], bytes] = lambda output: output
    """What becomes of the output."""
    says: Callable[[int], int] = lambda length: length
    """And of its length."""
    hold: Callable[[], object] = lambda: None
    """What happens within the call."""
    made: list[Made] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._functions: list[Any] = [
            _Init(lambda *request: self._init("C_EncryptInit", *request)),
            _Run(lambda *request: self._run("C_Encrypt", *request)),
            _Init(lambda *request: self._init("C_DecryptInit", *request)),
            _Run(lambda *request: self._run("C_Decrypt", *request)),
        ]

    @property
    def functions(self) -> tuple[int, int, int, int]:
        addresses = [cast(function, c_void_p).value or 0 for function in self._functions]
        return (addresses[0], addresses[1], addresses[2], addresses[3])

    def _init(self, function: str, session: int, mechanism: Any, handle: int) -> int:
        told = cast(mechanism.contents.pParameter, POINTER(CK_GCM_PARAMS)).contents
        bits = (mechanism.contents.mechanism, told.ulIvBits, told.ulTagBits)
        given = string_at(told.pIv, told.ulIvLen), string_at(told.pAAD, told.ulAADLen)
        self.made.append(Made(function, session, handle, *given, bits=bits))
        if self.writes_iv and function == "C_EncryptInit":
            memmove(told.pIv, self.writes_iv, len(self.writes_iv))
        return self.returns.get(function, 0)

    def _run(self, function: str, *request: Any) -> int:
        _, data, length, output, output_length = request
        text = self.made[-1].data = string_at(data, length)
        self.hold()
        answer = self.writes(text.upper() + TAG if function == "C_Encrypt" else text[: -len(TAG)].lower())
        assert output_length.contents.value >= len(answer)
        memmove(output, answer, len(answer))
        output_length.contents.value = self.says(len(answer))
        return self.returns.get(function, 0)


def ready(native_session: NativeSession) -> NativeSession:
    native_session.allow_key(0, 70, FOREVER, True, True, None)
    native_session.replace_ivs(ivs(10))
    return native_session


def ivs(number: int, first: int = 1) -> bytes:
    return b"".join(iv(first + which) for which in range(number))


def iv(which: int) -> bytes:
    return which.to_bytes(12, "big")


def encryption(text: bytes = b"text", *, key: int = 0, fingerprint: object = None, aad: bytes = b"aad") -> Call:
    call = Call()
    call.set_gcm(key, fingerprint, True, b"", aad, text)
    return call


def decryption(text: bytes = b"TEXT", *, key: int = 0, fingerprint: object = None, iv: bytes = iv(1)) -> Call:
    call = Call()
    call.set_gcm(key, fingerprint, False, iv, b"aad", text + TAG)
    return call


def made_at(native_session: NativeSession, call: Call) -> bool:
    """Whether the native_session makes it; else the worker gets it."""
    queue = CallQueue()
    end = Call()
    queue.put(call)
    queue.put(end)
    left = queue.get(0, native_session)
    assert left in (call, end)
    assert queue.finished() == ([call] if left is end else [])
    return left is end


def started(target: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def ended(*threads: threading.Thread) -> bool:
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    return not any(thread.is_alive() for thread in threads)
