"""The native_session at which a worker makes calls by itself, and the module_lock of the module that it calls."""

import math
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import pytest
from native_support import (
    FOREVER,
    FUNCTIONS,
    TAG,
    Made,
    Module,
    decryption,
    encryption,
    ended,
    iv,
    ivs,
    made_at,
    ready,
    started,
)
from support import PATIENCE_SECONDS

from xksproxy.hsm._native import Call, CallQueue, NativeSession
from xksproxy.hsm.errors import SessionLost
from xksproxy.hsm.pkcs11.module_lock import ModuleLock


def test_a_native_session_encrypts_with_what_it_was_given(native_session: NativeSession, module: Module) -> None:
    call = encryption(b"some text", aad=b"some aad")

    assert made_at(native_session, call)
    assert (call.iv, call.output) == (iv(1), b"SOME TEXT" + TAG)
    assert module.made == [Made("C_EncryptInit", 7, 70, iv(1), b"some aad", b"some text", (0x1087, 96, 128))]
    assert call.attempted
    assert call.take_failure() is None


@pytest.mark.parametrize("length", [0, 12, 16])
def test_a_native_session_decrypts_with_what_it_was_given(
    native_session: NativeSession, module: Module, length: int
) -> None:
    call = decryption(b"SOME TEXT", iv=bytes(length))

    assert made_at(native_session, call)
    assert call.output == b"some text"
    expected = Made("C_DecryptInit", 7, 70, bytes(length), b"aad", b"SOME TEXT" + TAG, (0x1087, 8 * length, 128))
    assert module.made == [expected]


@pytest.mark.parametrize("text", [b"", b"x", b"x" * 8192])
def test_texts_of_any_length_are_made(native_session: NativeSession, text: bytes) -> None:
    sealed = encryption(text, aad=b"")
    assert made_at(native_session, sealed)

    opened = decryption(sealed.output[:-16], iv=sealed.iv)
    assert made_at(native_session, opened)
    assert opened.output == text


@pytest.mark.parametrize("call", [encryption, decryption])
def test_a_key_that_is_not_allowed_is_left_to_python(
    native_session: NativeSession, module: Module, call: Callable[..., Call]
) -> None:
    assert not made_at(native_session, call(key=1))
    assert not made_at(native_session, call(key=1_000_000))
    native_session.revoke_key(0)
    native_session.revoke_key(1_000_000)
    left = call()
    assert not made_at(native_session, left)
    assert not left.attempted
    assert module.made == []

    native_session.allow_key(0, 71, FOREVER, True, True, None)
    assert made_at(native_session, call())
    assert module.made[0].handle == 71


def test_each_key_has_its_own_handle(native_session: NativeSession, module: Module) -> None:
    numbers = [5, 0, 100, 17, 16, 15, 1000]
    for number in numbers:
        native_session.allow_key(number, 1000 + number, FOREVER, True, True, None)

    assert all(made_at(native_session, decryption(key=number)) for number in numbers)
    assert [made.handle for made in module.made] == [1000 + number for number in numbers]
    assert not any(made_at(native_session, decryption(key=number)) for number in set(range(1001)) - set(numbers))


def test_a_key_is_used_until_its_time_and_not_after(native_session: NativeSession, module: Module) -> None:
    now = time.monotonic()
    for until in (0.0, now, now - 1, -math.inf, math.nan):
        native_session.allow_key(0, 70, until, True, True, None)
        assert not made_at(native_session, encryption())
    assert module.made == []

    native_session.allow_key(0, 70, now + 3600, True, True, None)
    assert made_at(native_session, encryption())


def test_a_key_is_used_with_its_own_fingerprint_alone(native_session: NativeSession, module: Module) -> None:
    fingerprint, equal = [["fingerprint"] for _ in range(2)]
    native_session.allow_key(0, 70, FOREVER, True, True, fingerprint)

    for other in (equal, None):
        assert not made_at(native_session, encryption(fingerprint=other))
        assert not made_at(native_session, decryption(fingerprint=other))
    assert module.made == []
    assert made_at(native_session, encryption(fingerprint=fingerprint))
    assert made_at(native_session, decryption(fingerprint=fingerprint))


def test_a_key_allowed_without_a_fingerprint_is_not_used_with_one(native_session: NativeSession) -> None:
    assert not made_at(native_session, decryption(fingerprint=["fingerprint"]))


@pytest.mark.parametrize(("encrypt", "decrypt"), [(False, True), (True, False), (False, False)])
def test_a_key_is_used_for_what_it_may_do(native_session: NativeSession, encrypt: bool, decrypt: bool) -> None:
    native_session.allow_key(0, 70, FOREVER, encrypt, decrypt, None)

    assert made_at(native_session, encryption()) == encrypt
    assert made_at(native_session, decryption()) == decrypt


def test_what_is_longer_than_the_module_takes_is_left_to_python(module_lock: ModuleLock, module: Module) -> None:
    native_session = ready(NativeSession(module_lock, 7, module.functions, 10, False))

    assert made_at(native_session, encryption(b"x" * 10))
    assert made_at(native_session, decryption(b"x" * 10))
    assert not made_at(native_session, encryption(b"x" * 11))
    assert not made_at(native_session, decryption(b"x" * 11))
    assert len(module.made) == 2


def test_each_iv_serves_one_attempt_in_c_or_in_python(native_session: NativeSession, module: Module) -> None:
    native_session.replace_ivs(ivs(4))
    module.returns = {"C_Encrypt": 5}
    assert not made_at(native_session, encryption())  # an attempt that failed has had its IV too
    module.returns = {}
    calls = [encryption() for _ in range(3)]

    assert made_at(native_session, calls[0])
    assert native_session.take_iv() == iv(3)
    assert made_at(native_session, calls[1])
    assert [call.iv for call in calls[:2]] == [iv(2), iv(4)]
    assert not made_at(native_session, calls[2])
    assert native_session.take_iv() is None
    assert [made.iv for made in module.made] == [iv(1), iv(2), iv(4)]
    assert not calls[2].attempted


def test_a_new_stock_replaces_the_old(native_session: NativeSession) -> None:
    native_session.replace_ivs(ivs(2, first=50))
    call = encryption()

    assert made_at(native_session, call)
    assert call.iv == iv(50)
    assert [native_session.take_iv(), native_session.take_iv()] == [iv(51), None]
    native_session.replace_ivs(b"")
    assert native_session.take_iv() is None


def test_decryptions_need_no_iv_of_the_stock(native_session: NativeSession) -> None:
    native_session.replace_ivs(b"")

    assert made_at(native_session, decryption(iv=iv(9)))


def test_an_iv_that_the_hsm_writes_is_the_one_in_the_result(module_lock: ModuleLock) -> None:
    module = Module(writes_iv=b"by the HSM..")
    native_session = ready(NativeSession(module_lock, 7, module.functions, 0, True))
    call = Call()
    call.set_gcm(0, None, True, b"by a caller.", b"aad", b"text")

    assert made_at(native_session, call)
    assert module.made[0].iv == bytes(12)
    assert call.iv == b"by the HSM.."
    assert native_session.take_iv() == iv(1)


def test_an_iv_of_zeros_is_never_accepted(module_lock: ModuleLock, module: Module) -> None:
    given = ready(NativeSession(module_lock, 7, module.functions, 0, False))
    given.replace_ivs(bytes(12))
    written = ready(NativeSession(module_lock, 7, module.functions, 0, True))

    for native_session in (given, written):
        call = encryption()
        assert not made_at(native_session, call)
        assert (call.output, call.attempted) == (b"", True)


LENGTHS: Final[dict[str, tuple[Callable[[bytes], bytes], Callable[[int], int]]]] = {
    "a byte less": (lambda output: output[:-1], lambda length: length),
    "a byte more": (lambda output: output + b"x", lambda length: length),
    "all of the room": (lambda output: output + b"x" * 16, lambda length: length),
    "nothing": (lambda _: b"", lambda length: length),
    "more than there is room for": (lambda output: output, lambda _: 2**40),
    "more than there can be": (lambda output: output, lambda _: 2**64 - 1),
}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("make", [encryption, decryption])
def test_an_output_of_another_length_is_left_to_python(
    native_session: NativeSession, module: Module, length: str, make: Callable[[], Call]
) -> None:
    module.writes, module.says = LENGTHS[length]
    call = make()

    assert not made_at(native_session, call)
    assert (call.output, call.attempted, call.take_failure()) == (b"", True, None)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("value", [1, 0x82, 0x80000001, 2**64 - 1])
def test_a_failure_is_told_once_with_its_function_and_value(
    native_session: NativeSession, module: Module, function: str, value: int
) -> None:
    module.returns = {function: value}
    module.says = lambda _: 2**40
    call = encryption() if "Encrypt" in function else decryption()

    assert not made_at(native_session, call)
    assert call.take_failure() == (function, value)
    assert call.take_failure() is None
    assert (call.output, call.attempted) == (b"", True)


def test_a_worker_makes_every_call_that_the_native_session_can(native_session: NativeSession) -> None:
    queue = CallQueue()
    first, second, other, third = encryption(b"1"), encryption(b"2"), Call(), decryption()
    for call in (first, second, other, third):
        queue.put(call)

    assert queue.get(0, native_session) is other
    assert queue.finished() == [first, second]
    queue.end(1)
    assert queue.get(0, native_session) is None
    assert queue.finished() == [third]


def test_a_native_session_keeps_the_fingerprints_of_its_keys(native_session: NativeSession) -> None:
    class Proof:
        """One that can be referred to weakly."""

    first, second = Proof(), Proof()
    held = [weakref.ref(first), weakref.ref(second)]
    native_session.allow_key(0, 1, FOREVER, True, True, first)
    native_session.allow_key(50, 1, FOREVER, True, True, second)
    del first, second
    assert all(reference() for reference in held)

    native_session.allow_key(0, 1, FOREVER, True, True, None)
    assert [reference() is None for reference in held] == [True, False]
    del native_session


def test_a_call_holds_its_request_and_no_longer_than_it_lives() -> None:
    class Proof:
        """One that can be referred to weakly."""

    fingerprint, aad, data = Proof(), b"some aad"[:7], b"some data"[:8]
    held, before = weakref.ref(fingerprint), (sys.getrefcount(aad), sys.getrefcount(data))
    call = encryption(data, fingerprint=fingerprint, aad=aad)
    del fingerprint
    assert held() is not None
    assert sys.getrefcount(aad) > before[0]

    del call
    assert held() is None
    assert (sys.getrefcount(aad), sys.getrefcount(data)) == before


def test_a_fingerprint_may_arm_the_session_while_it_is_deleted(native_session: NativeSession, module: Module) -> None:
    class Proof:
        """One whose end has a error_class."""

        def __del__(self) -> None:
            native_session.allow_key(0, 72, FOREVER, True, True, None)
            native_session.allow_key(5000, 73, FOREVER, True, True, None)

    native_session.allow_key(0, 71, FOREVER, True, True, Proof())

    native_session.allow_key(0, 74, FOREVER, True, True, None)

    assert made_at(native_session, decryption())
    assert made_at(native_session, decryption(key=5000))
    assert [made.handle for made in module.made] == [72, 73]


# Calls within a module


@dataclass
class Hanging:
    """A worker whose call is within the module until it is let go."""

    queue: CallQueue
    call: Call
    released: threading.Event
    worker: threading.Thread
    returned: list[Call | None]

    def let_go(self) -> None:
        self.released.set()
        self.queue.end(1)
        assert ended(self.worker)


@pytest.fixture
def hanging(native_session: NativeSession, module: Module) -> Iterator[Hanging]:
    entered, released = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert released.wait(PATIENCE_SECONDS)

    module.hold = hold
    queue = CallQueue()
    call = encryption()
    returned: list[Call | None] = []
    queue.put(call)
    worker = started(lambda: returned.append(queue.get(4, native_session)))
    assert entered.wait(PATIENCE_SECONDS)
    yield Hanging(queue, call, released, worker, returned)
    released.set()
    queue.end(1)


def test_a_call_in_a_module_is_finished_when_it_returns(hanging: Hanging) -> None:
    assert not hanging.queue.withdraw(hanging.call)
    assert hanging.queue.finished() == []
    assert hanging.call.output == b""

    hanging.let_go()

    assert hanging.queue.finished() == [hanging.call]
    assert hanging.call.output == b"TEXT" + TAG
    assert hanging.returned == [None]


def test_a_worker_whose_call_was_abandoned_within_the_module_gets_it_back(hanging: Hanging) -> None:
    assert hanging.queue.abandon(hanging.call) == 4

    hanging.let_go()

    assert hanging.returned == [hanging.call]
    assert hanging.call.abandoned
    assert not hanging.queue.finish(hanging.call)
    assert hanging.queue.finished() == []


def test_a_call_that_everybody_has_forgotten_lives_as_long_as_it_is_in_the_module(
    native_session: NativeSession, module: Module
) -> None:
    class Tracked(Call):
        """One that can be referred to weakly."""

    entered, released = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert released.wait(PATIENCE_SECONDS)

    module.hold = hold
    queue = CallQueue()
    text = b"a plaintext of its own"[:-1]
    call = Tracked()
    call.set_gcm(0, None, True, b"", b"an aad"[:-1], text)
    held = weakref.ref(call)
    queue.put(call)
    queue.end(1)
    worker = started(lambda queue=queue, native_session=native_session: queue.get(0, native_session))
    assert entered.wait(PATIENCE_SECONDS)

    del call, text, native_session, queue
    assert held() is not None
    released.set()
    assert ended(worker)

    del worker
    assert held() is None
    assert module.made[0].data == b"a plaintext of its ow"


def test_no_call_is_made_while_the_module_lock_is_closed(
    native_session: NativeSession, module_lock: ModuleLock, module: Module
) -> None:
    assert module_lock.close(0)
    call = encryption()
    assert not made_at(native_session, call)
    assert (module.made, call.attempted, native_session.take_iv()) == ([], False, iv(1))

    module_lock.open()
    assert made_at(native_session, encryption())


def test_the_sessions_of_a_module_that_was_initialised_again_are_used_no_more(
    native_session: NativeSession, module_lock: ModuleLock, module: Module
) -> None:
    before = module_lock.generation
    module_lock.renew()

    assert module_lock.generation == before + 1
    assert not made_at(native_session, encryption())
    assert not made_at(native_session, decryption())
    assert module.made == []
    assert made_at(ready(NativeSession(module_lock, 8, module.functions, 0, False)), encryption())


def test_closing_the_module_lock_waits_for_calls_inside(module_lock: ModuleLock, hanging: Hanging) -> None:
    assert not module_lock.close(0)
    assert not module_lock.close(-1)
    assert not module_lock.close(0.001)

    module_lock.open()
    outcome: list[bool] = []
    closing = started(lambda: outcome.append(module_lock.close(1_000_000)))
    while module_lock.enter():
        module_lock.leave()
    hanging.let_go()

    assert ended(closing)
    assert outcome == [True]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_call_that_failed_has_released_the_module_lock(
    native_session: NativeSession, module_lock: ModuleLock, module: Module, function: str
) -> None:
    module.returns = {function: 5}
    made_at(native_session, encryption())
    made_at(native_session, decryption())
    native_session.replace_ivs(b"")
    made_at(native_session, encryption())

    assert module_lock.close(0)


def test_a_module_lock_is_free_when_every_thread_has_left(module_lock: ModuleLock) -> None:
    with module_lock:
        with module_lock:
            assert not module_lock.close(0)
            module_lock.open()
        assert not module_lock.close(0)
    assert module_lock.close(0)


def test_no_thread_enters_a_closed_module_lock(module_lock: ModuleLock) -> None:
    with module_lock.closed(0) as emptied:
        assert emptied
        with pytest.raises(SessionLost), module_lock:
            pytest.fail("it was open")

    with module_lock, module_lock.closed(0) as emptied:
        assert not emptied
    with module_lock:
        pass


def test_a_thread_that_fails_inside_leaves_the_module_lock(module_lock: ModuleLock) -> None:
    with pytest.raises(ZeroDivisionError), module_lock:
        raise ZeroDivisionError

    assert module_lock.close(0)
