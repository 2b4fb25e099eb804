"""The desk at which a lane makes calls by itself, and the gate of the module that it calls."""

import math
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import pytest
from crossing_support import (
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

from xksproxy.hsm._crossing import Call, Desk, Queue
from xksproxy.hsm.errors import SessionLost
from xksproxy.hsm.gate import Gate


def test_a_desk_encrypts_with_what_it_was_given(desk: Desk, module: Module) -> None:
    call = encryption(b"some text", aad=b"some aad")

    assert made_at(desk, call)
    assert (call.iv, call.output) == (iv(1), b"SOME TEXT" + TAG)
    assert module.made == [Made("C_EncryptInit", 7, 70, iv(1), b"some aad", b"some text", (0x1087, 96, 128))]
    assert call.attempted
    assert call.take_failure() is None


@pytest.mark.parametrize("length", [0, 12, 16])
def test_a_desk_decrypts_with_what_it_was_given(desk: Desk, module: Module, length: int) -> None:
    call = decryption(b"SOME TEXT", iv=bytes(length))

    assert made_at(desk, call)
    assert call.output == b"some text"
    expected = Made("C_DecryptInit", 7, 70, bytes(length), b"aad", b"SOME TEXT" + TAG, (0x1087, 8 * length, 128))
    assert module.made == [expected]


@pytest.mark.parametrize("text", [b"", b"x", b"x" * 8192])
def test_texts_of_any_length_are_made(desk: Desk, text: bytes) -> None:
    sealed = encryption(text, aad=b"")
    assert made_at(desk, sealed)

    opened = decryption(sealed.output[:-16], iv=sealed.iv)
    assert made_at(desk, opened)
    assert opened.output == text


def test_a_call_that_is_not_for_a_desk_is_left_to_python(desk: Desk) -> None:
    call = Call()

    assert not made_at(desk, call)
    assert (call.attempted, call.output, call.iv) == (False, b"", b"")


def test_without_a_desk_calls_are_left_to_python() -> None:
    queue = Queue()
    call = encryption()
    queue.put(call)

    assert queue.get(0, None) is call


@pytest.mark.parametrize("call", [encryption, decryption])
def test_a_key_that_is_not_armed_is_left_to_python(desk: Desk, module: Module, call: Callable[..., Call]) -> None:
    assert not made_at(desk, call(key=1))
    assert not made_at(desk, call(key=1_000_000))
    desk.disarm(0)
    desk.disarm(1_000_000)
    left = call()
    assert not made_at(desk, left)
    assert not left.attempted
    assert module.made == []

    desk.arm(0, 71, FOREVER, True, True, None)
    assert made_at(desk, call())
    assert module.made[0].handle == 71


def test_each_key_has_its_own_handle(desk: Desk, module: Module) -> None:
    numbers = [5, 0, 100, 17, 16, 15, 1000]
    for number in numbers:
        desk.arm(number, 1000 + number, FOREVER, True, True, None)

    assert all(made_at(desk, decryption(key=number)) for number in numbers)
    assert [made.handle for made in module.made] == [1000 + number for number in numbers]
    assert not any(made_at(desk, decryption(key=number)) for number in set(range(1001)) - set(numbers))


def test_a_key_is_used_until_its_time_and_not_after(desk: Desk, module: Module) -> None:
    now = time.monotonic()
    for until in (0.0, now, now - 1, -math.inf, math.nan):
        desk.arm(0, 70, until, True, True, None)
        assert not made_at(desk, encryption())
    assert module.made == []

    desk.arm(0, 70, now + 3600, True, True, None)
    assert made_at(desk, encryption())


def test_a_key_is_used_with_its_own_proof_alone(desk: Desk, module: Module) -> None:
    proof, equal = [["proof"] for _ in range(2)]
    desk.arm(0, 70, FOREVER, True, True, proof)

    for other in (equal, None):
        assert not made_at(desk, encryption(proof=other))
        assert not made_at(desk, decryption(proof=other))
    assert module.made == []
    assert made_at(desk, encryption(proof=proof))
    assert made_at(desk, decryption(proof=proof))


def test_a_key_that_was_used_without_proof_is_not_used_with_one(desk: Desk) -> None:
    assert not made_at(desk, decryption(proof=["proof"]))


@pytest.mark.parametrize(("encrypt", "decrypt"), [(False, True), (True, False), (False, False)])
def test_a_key_is_used_for_what_it_may_do(desk: Desk, encrypt: bool, decrypt: bool) -> None:
    desk.arm(0, 70, FOREVER, encrypt, decrypt, None)

    assert made_at(desk, encryption()) == encrypt
    assert made_at(desk, decryption()) == decrypt


def test_what_is_longer_than_the_module_takes_is_left_to_python(gate: Gate, module: Module) -> None:
    desk = ready(Desk(gate, 7, module.functions, 10, False))

    assert made_at(desk, encryption(b"x" * 10))
    assert made_at(desk, decryption(b"x" * 10))
    assert not made_at(desk, encryption(b"x" * 11))
    assert not made_at(desk, decryption(b"x" * 11))
    assert len(module.made) == 2


def test_each_iv_serves_one_attempt_in_c_or_in_python(desk: Desk, module: Module) -> None:
    desk.stock(ivs(4))
    module.returns = {"C_Encrypt": 5}
    assert not made_at(desk, encryption())  # an attempt that failed has had its IV too
    module.returns = {}
    calls = [encryption() for _ in range(3)]

    assert made_at(desk, calls[0])
    assert desk.take_iv() == iv(3)
    assert made_at(desk, calls[1])
    assert [call.iv for call in calls[:2]] == [iv(2), iv(4)]
    assert not made_at(desk, calls[2])
    assert desk.take_iv() is None
    assert [made.iv for made in module.made] == [iv(1), iv(2), iv(4)]
    assert not calls[2].attempted


def test_a_new_stock_replaces_the_old(desk: Desk) -> None:
    desk.stock(ivs(2, first=50))
    call = encryption()

    assert made_at(desk, call)
    assert call.iv == iv(50)
    assert [desk.take_iv(), desk.take_iv()] == [iv(51), None]
    desk.stock(b"")
    assert desk.take_iv() is None


def test_decryptions_need_no_iv_of_the_stock(desk: Desk) -> None:
    desk.stock(b"")

    assert made_at(desk, decryption(iv=iv(9)))


def test_an_iv_that_the_hsm_writes_is_the_one_that_is_told(gate: Gate) -> None:
    module = Module(writes_iv=b"by the HSM..")
    desk = ready(Desk(gate, 7, module.functions, 0, True))
    call = Call()
    call.for_desk(0, None, True, b"by a caller.", b"aad", b"text")

    assert made_at(desk, call)
    assert module.made[0].iv == bytes(12)
    assert call.iv == b"by the HSM.."
    assert desk.take_iv() == iv(1)


def test_an_iv_of_zeros_is_never_accepted(gate: Gate, module: Module) -> None:
    given = ready(Desk(gate, 7, module.functions, 0, False))
    given.stock(bytes(12))
    written = ready(Desk(gate, 7, module.functions, 0, True))

    for desk in (given, written):
        call = encryption()
        assert not made_at(desk, call)
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
    desk: Desk, module: Module, length: str, make: Callable[[], Call]
) -> None:
    module.writes, module.says = LENGTHS[length]
    call = make()

    assert not made_at(desk, call)
    assert (call.output, call.attempted, call.take_failure()) == (b"", True, None)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("value", [1, 0x82, 0x80000001, 2**64 - 1])
def test_a_failure_is_told_once_with_its_function_and_value(
    desk: Desk, module: Module, function: str, value: int
) -> None:
    module.returns = {function: value}
    module.says = lambda _: 2**40
    call = encryption() if "Encrypt" in function else decryption()

    assert not made_at(desk, call)
    assert call.take_failure() == (function, value)
    assert call.take_failure() is None
    assert (call.output, call.attempted) == (b"", True)


def test_a_desk_works_on_after_a_failure(desk: Desk, module: Module) -> None:
    module.returns = dict.fromkeys(FUNCTIONS, 5)
    assert not made_at(desk, encryption())
    module.returns = {}

    assert made_at(desk, encryption())


def test_a_lane_makes_all_that_its_desk_can_before_it_returns(desk: Desk) -> None:
    queue = Queue()
    first, second, other, third = encryption(b"1"), encryption(b"2"), Call(), decryption()
    for call in (first, second, other, third):
        queue.put(call)

    assert queue.get(0, desk) is other
    assert queue.finished() == [first, second]
    queue.end(1)
    assert queue.get(0, desk) is None
    assert queue.finished() == [third]


def test_a_desk_holds_the_proof_of_its_keys_as_long_as_it_needs_them(desk: Desk) -> None:
    class Proof:
        """One that can be referred to weakly."""

    first, second = Proof(), Proof()
    held = [weakref.ref(first), weakref.ref(second)]
    desk.arm(0, 1, FOREVER, True, True, first)
    desk.arm(50, 1, FOREVER, True, True, second)
    del first, second
    assert all(reference() for reference in held)

    desk.arm(0, 1, FOREVER, True, True, None)
    assert [reference() is None for reference in held] == [True, False]
    del desk


def test_a_call_holds_its_request_and_no_longer_than_it_lives() -> None:
    class Proof:
        """One that can be referred to weakly."""

    proof, aad, data = Proof(), b"some aad"[:7], b"some data"[:8]
    held, before = weakref.ref(proof), (sys.getrefcount(aad), sys.getrefcount(data))
    call = encryption(data, proof=proof, aad=aad)
    del proof
    assert held() is not None
    assert sys.getrefcount(aad) > before[0]

    del call
    assert held() is None
    assert (sys.getrefcount(aad), sys.getrefcount(data)) == before


def test_a_proof_that_arms_its_desk_as_it_goes_does_no_harm(desk: Desk, module: Module) -> None:
    class Proof:
        """One whose end has a consequence."""

        def __del__(self) -> None:
            desk.arm(0, 72, FOREVER, True, True, None)
            desk.arm(5000, 73, FOREVER, True, True, None)

    desk.arm(0, 71, FOREVER, True, True, Proof())

    desk.arm(0, 74, FOREVER, True, True, None)

    assert made_at(desk, decryption())
    assert made_at(desk, decryption(key=5000))
    assert [made.handle for made in module.made] == [72, 73]


# Calls within a module


@dataclass
class Hanging:
    """A lane whose call is within the module until it is let go."""

    queue: Queue
    call: Call
    released: threading.Event
    lane: threading.Thread
    returned: list[Call | None]

    def let_go(self) -> None:
        self.released.set()
        self.queue.end(1)
        assert ended(self.lane)


@pytest.fixture
def hanging(desk: Desk, module: Module) -> Iterator[Hanging]:
    entered, released = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert released.wait(PATIENCE_SECONDS)

    module.hold = hold
    queue = Queue()
    call = encryption()
    returned: list[Call | None] = []
    queue.put(call)
    lane = started(lambda: returned.append(queue.get(4, desk)))
    assert entered.wait(PATIENCE_SECONDS)
    yield Hanging(queue, call, released, lane, returned)
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


def test_a_lane_whose_call_was_abandoned_within_the_module_gets_it_back(hanging: Hanging) -> None:
    assert hanging.queue.abandon(hanging.call) == 4

    hanging.let_go()

    assert hanging.returned == [hanging.call]
    assert hanging.call.abandoned
    assert not hanging.queue.finish(hanging.call)
    assert hanging.queue.finished() == []


def test_a_call_that_everybody_has_forgotten_lives_as_long_as_it_is_in_the_module(desk: Desk, module: Module) -> None:
    class Tracked(Call):
        """One that can be referred to weakly."""

    entered, released = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert released.wait(PATIENCE_SECONDS)

    module.hold = hold
    queue = Queue()
    text = b"a plaintext of its own"[:-1]
    call = Tracked()
    call.for_desk(0, None, True, b"", b"an aad"[:-1], text)
    held = weakref.ref(call)
    queue.put(call)
    queue.end(1)
    lane = started(lambda queue=queue, desk=desk: queue.get(0, desk))
    assert entered.wait(PATIENCE_SECONDS)

    del call, text, desk, queue
    assert held() is not None
    released.set()
    assert ended(lane)

    del lane
    assert held() is None
    assert module.made[0].data == b"a plaintext of its ow"


def test_a_closed_gate_is_passed_by_no_call(desk: Desk, gate: Gate, module: Module) -> None:
    assert gate.close(0)
    call = encryption()
    assert not made_at(desk, call)
    assert (module.made, call.attempted, desk.take_iv()) == ([], False, iv(1))

    gate.open()
    assert made_at(desk, encryption())


def test_the_sessions_of_a_module_that_was_initialised_again_are_used_no_more(
    desk: Desk, gate: Gate, module: Module
) -> None:
    before = gate.generation
    gate.renew()

    assert gate.generation == before + 1
    assert not made_at(desk, encryption())
    assert not made_at(desk, decryption())
    assert module.made == []
    assert made_at(ready(Desk(gate, 8, module.functions, 0, False)), encryption())


def test_a_gate_that_is_closed_waits_for_the_calls_within(gate: Gate, hanging: Hanging) -> None:
    assert not gate.close(0)
    assert not gate.close(-1)
    assert not gate.close(0.001)

    gate.open()
    outcome: list[bool] = []
    closing = started(lambda: outcome.append(gate.close(1_000_000)))
    while gate.enter():
        gate.leave()
    hanging.let_go()

    assert ended(closing)
    assert outcome == [True]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_call_that_failed_has_left_the_gate(desk: Desk, gate: Gate, module: Module, function: str) -> None:
    module.returns = {function: 5}
    made_at(desk, encryption())
    made_at(desk, decryption())
    desk.stock(b"")
    made_at(desk, encryption())

    assert gate.close(0)


def test_a_gate_is_empty_when_all_have_left(gate: Gate) -> None:
    with gate:
        with gate:
            assert not gate.close(0)
            gate.open()
        assert not gate.close(0)
    assert gate.close(0)


def test_nobody_enters_a_closed_gate(gate: Gate) -> None:
    with gate.closed(0) as emptied:
        assert emptied
        with pytest.raises(SessionLost), gate:
            pytest.fail("it was open")

    with gate, gate.closed(0) as emptied:
        assert not emptied
    with gate:
        pass


def test_a_gate_is_left_by_who_fails_inside(gate: Gate) -> None:
    with pytest.raises(ZeroDivisionError), gate:
        raise ZeroDivisionError

    assert gate.close(0)
