"""Calls that workers make without the interpreter, on a real token: when, and with the same outcome as in Python."""

import asyncio
import hashlib
import os
import random
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from fault_support import FaultyHsm, change_key, is_quiet, until
from support import PATIENCE_SECONDS

from xksproxy.config.pins import read_pin
from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import (
    CiphertextRejected,
    CiphertextWrong,
    DataTooLarge,
    DeadlinePassed,
    EncryptionsSpent,
    HsmBusy,
    HsmError,
    KeyDiffers,
    KeyRefusesUse,
    SessionLost,
    SettingsMismatch,
    TokenUnavailable,
)
from xksproxy.hsm.instance import gcm_calls, key_table
from xksproxy.hsm.instance.gcm_requests import Decryption, Encryption, VerifiedEncryption
from xksproxy.hsm.instance.instance import Instance
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.keys import KeyFingerprint, Sealed
from xksproxy.hsm.pkcs11.cryptoki import Cryptoki
from xksproxy.hsm.pkcs11.key_objects import destroy_key
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.state.usage import UsageBook

Faulty = Callable[..., FaultyHsm]


def later() -> Deadline:
    return Deadline.after(60)


@pytest.fixture
def modules(tmp_path: Path) -> Modules:
    """For the HSMs of one test; with a book of its own, in which no other test has counted."""
    return Modules(PinGuard(tmp_path), UsageBook(tmp_path))


@pytest.fixture
def in_python(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often sessions encrypted and decrypted in Python: with a key, and by calls to the module."""
    counted: Counter[str] = Counter()

    def count(owner: type, name: str) -> None:
        function = getattr(owner, name)

        def noted(*arguments: Any, **named: Any) -> Any:
            counted[name] += 1
            return function(*arguments, **named)

        monkeypatch.setattr(owner, name, noted)

    for name in ("encrypt", "decrypt"):
        count(HsmSession, name)
        count(Cryptoki, f"gcm_{name}")
    return counted


@asynccontextmanager
async def serving(faulty: FaultyHsm, modules: Modules, sessions: int = 1) -> AsyncIterator[Instance]:
    """One that knows its keys, and has no calls but those of the test."""
    instance = Instance(msgspec.structs.replace(faulty.hsm, sessions=sessions, check_interval_s=600), modules)
    instance.start()
    try:
        await until(lambda: is_quiet(instance))
        yield instance
    finally:
        instance.stop()
        await instance.ended(PATIENCE_SECONDS)


async def encrypt(
    instance: Instance, text: bytes = b"text", *, label: str = "demo-key", fingerprint: KeyFingerprint | None = None
) -> Sealed:
    return await instance.call(Encryption(label, text, b"aad", fingerprint, None), later())


async def decrypt(
    instance: Instance,
    sealed: Sealed,
    *,
    label: str = "demo-key",
    fingerprint: KeyFingerprint | None = None,
    aad: bytes = b"aad",
) -> bytes:
    return await instance.call(Decryption(label, sealed, aad, fingerprint), later())


async def allow_native(instance: Instance, in_python: Counter[str], label: str = "demo-key") -> Sealed:
    """Let the native_session of the one session use a key; nothing is counted so far."""
    sealed = await encrypt(instance, label=label)
    assert await decrypt(instance, sealed, label=label) == b"text"
    in_python.clear()
    return sealed


def session_of(instance: Instance) -> HsmSession:
    (worker,) = instance._pool._free.values()
    assert worker._session
    return worker._session


def replace_key(instance: Instance, modules: Modules) -> None:
    """Put another key under the label, by a session that is not the instance's."""
    session = HsmSession(modules.connect(instance._hsm, read_pin(instance._hsm)))
    destroy_key(session.binding, "demo-key")
    session.create_key("demo-key", bits=256, encrypt=True, decrypt=True)
    session.close()


def encryptions(modules: Modules, label: str = "demo-key") -> int:
    """How many this process has counted."""
    reservation = modules.usage._reservations[label]
    return reservation.total - reservation.unused


# When calls are made natively


async def test_calls_after_the_first_one_need_no_python(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str]
) -> None:
    async with serving(make_faulty(), modules) as instance:
        in_python.clear()
        sealed = [await encrypt(instance, b"%d" % number) for number in range(10)]
        assert (in_python["encrypt"], in_python["decrypt"]) == (1, 0)

        assert [await decrypt(instance, item) for item in sealed] == [b"%d" % number for number in range(10)]
        assert (in_python["encrypt"], in_python["decrypt"]) == (1, 0)
        assert in_python["gcm_encrypt"] == 1
    assert len({item.iv for item in sealed}) == 10


async def test_what_the_native_session_encrypts_python_decrypts_and_the_reverse(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str]
) -> None:
    async with serving(make_faulty(), modules) as instance:
        for text in (b"", b"x", bytes(8192)):
            await allow_native(instance, in_python)
            natively = await encrypt(instance, text)
            assert not in_python

            def in_session(session: HsmSession, sealed: Sealed = natively, text: bytes = text) -> Sealed:
                assert session.decrypt("demo-key", sealed, b"aad") == text
                return session.encrypt("demo-key", text, b"aad")

            made_in_python = await instance.call(in_session, later())
            in_python.clear()
            assert await decrypt(instance, made_in_python) == text
            assert not in_python


async def test_a_key_that_no_listing_has_shown_is_never_served_natively(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str]
) -> None:
    async with serving(make_faulty(), modules) as instance:
        make = lambda session: session.create_key("new", bits=256, encrypt=True, decrypt=True)  # noqa: E731
        await instance.call(make, later())
        in_python.clear()
        for _ in range(3):
            await encrypt(instance, label="new")

        assert in_python["encrypt"] == 3


async def test_once_a_key_has_to_be_looked_at_again_the_next_call_is_pythons(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(make_faulty(), modules) as instance:
        with monkeypatch.context() as changed:
            changed.setattr(key_table, "_RECHECK_SECONDS", 0)  # allowed for no time at all
            sealed = await encrypt(instance)
        in_python.clear()

        assert await decrypt(instance, sealed) == b"text"
        assert in_python["decrypt"] == 1
        assert await decrypt(instance, sealed) == b"text"
        assert in_python["decrypt"] == 1


async def test_a_key_is_served_natively_until_five_seconds_after_it_was_checked(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after it was last used: a key in constant use would never be looked at again."""
    async with serving(make_faulty(), modules) as instance:
        await allow_native(instance, in_python)
        session = session_of(instance)
        until_when: list[float] = []

        class Noted:
            """The native_session of a key table that only notes."""

            def allow_key(self, *arguments: Any) -> None:
                until_when.append(arguments[2])

        monkeypatch.setattr(session._keys, "_native_session", Noted())
        key = session._keys._known["demo-key"]
        await instance.call(lambda session: session.allow_native("demo-key", 0, None), later())

        assert until_when == [key.checked_at + 5]


async def test_each_session_has_to_look_at_a_key_itself(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str]
) -> None:
    async with serving(make_faulty(), modules, sessions=2) as instance:
        meeting = threading.Barrier(2)
        in_python.clear()

        def meet_and_encrypt(session: HsmSession) -> Sealed:
            meeting.wait(PATIENCE_SECONDS)
            return session.encrypt("demo-key", b"text", b"aad")

        await asyncio.gather(*(instance.call(meet_and_encrypt, later()) for _ in range(2)))
        in_python.clear()
        for _ in range(200):  # by whichever worker is the faster one
            await encrypt(instance)

        native_sessions = [
            worker._session.native_session for worker in instance._pool._free.values() if worker._session
        ]
        assert len(set(map(id, native_sessions))) == 2
        assert 1 <= in_python["encrypt"] < 100


async def test_a_waiting_worker_keeps_no_plaintext(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str]
) -> None:
    async with serving(make_faulty(), modules) as instance:
        text = os.urandom(32)
        before = sys.getrefcount(text)
        for _ in ("in Python", "at the native_session"):
            await encrypt(instance, text)
            await until(lambda: sys.getrefcount(text) == before)

    assert in_python["encrypt"] == 1


# Keys that change


async def test_a_key_that_was_replaced_under_its_label_is_found_anew(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str]
) -> None:
    async with serving(make_faulty(), modules) as instance:
        old = await allow_native(instance, in_python)
        replace_key(instance, modules)

        new = await encrypt(instance)

        assert in_python["encrypt"] == 1
        with pytest.raises(CiphertextRejected):
            await decrypt(instance, old)
        assert await decrypt(instance, new) == b"text"
        in_python.clear()
        assert await decrypt(instance, await encrypt(instance)) == b"text"
        assert not in_python


async def test_a_handle_that_has_come_to_mean_another_key_is_used_no_longer_than_it_was_looked_at(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(make_faulty(), modules) as instance:
        monkeypatch.setattr(key_table, "_RECHECK_SECONDS", 0)
        await allow_native(instance, in_python)
        key = session_of(instance)._keys._known["demo-key"]
        other = session_of(instance)._keys.search("encrypt-only-key")
        key.handle = other[0]

        sealed = await encrypt(instance)

        assert await decrypt(instance, sealed) == b"text"  # which the other key may not


def reuse_handle(instance: Instance, label: str) -> None:
    """Let the handle of demo-key be that of another key, as after a module has given it to another object."""
    keys = session_of(instance)._keys
    key = keys._known["demo-key"]
    (key.handle,) = keys.search(label)
    assert key.number is not None
    keys.allow_key("demo-key", key.number, None, encrypt=True)


async def test_a_ciphertext_that_is_refused_because_the_handle_means_another_key_is_decrypted_with_the_right_one(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str]
) -> None:
    faulty = make_faulty()
    pin = read_pin(faulty.hsm)
    assert pin
    change_key(faulty, pin.reveal(), "other", os.urandom(32))
    async with serving(faulty, modules) as instance:
        sealed = await allow_native(instance, in_python)
        reuse_handle(instance, "other")

        assert await decrypt(instance, sealed) == b"text"


async def test_a_use_that_is_refused_because_the_handle_means_another_key_is_refused_once(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str]
) -> None:
    async with serving(make_faulty(), modules) as instance:
        sealed = await allow_native(instance, in_python)
        reuse_handle(instance, "encrypt-only-key")

        with pytest.raises(KeyRefusesUse):
            await decrypt(instance, sealed)
        assert await decrypt(instance, sealed) == b"text"


async def test_a_key_that_is_looked_for_anew_is_pythons_first(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str]
) -> None:
    async with serving(make_faulty(), modules) as instance:
        await allow_native(instance, in_python)
        await instance.call(lambda session: session.describe_key("demo-key"), later())

        await encrypt(instance)
        await encrypt(instance)

        assert in_python["encrypt"] == 1


async def test_a_stale_handle_is_held_against_the_old_key_alone(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the key has to be looked at again just when a call at the native_session has failed."""
    async with serving(make_faulty(), modules) as instance:
        await allow_native(instance, in_python)
        session = session_of(instance)
        replace_key(instance, modules)
        monkeypatch.setattr(key_table, "_RECHECK_SECONDS", -1)

        sealed = await encrypt(instance)

        assert session_of(instance) is session
        assert await decrypt(instance, sealed) == b"text"


async def test_keys_are_not_mixed_up(make_faulty: Faulty, modules: Modules, in_python: Counter[str]) -> None:
    async with serving(make_faulty(), modules) as instance:
        labels = ["one", "two", "three"]
        for label in labels:
            create = lambda session, label=label: session.create_key(label, bits=256, encrypt=True, decrypt=True)  # noqa: E731
            await instance.call(create, later())
        instance.listing._not_before = 0
        await instance.listing.refresh()
        for label in labels:
            await allow_native(instance, in_python, label)
        sealed = {label: await encrypt(instance, label.encode(), label=label) for label in labels}
        assert not in_python

        for label in labels:
            for other in labels:
                if label == other:
                    assert await decrypt(instance, sealed[label], label=other) == label.encode()
                else:
                    with pytest.raises(CiphertextRejected):
                        await decrypt(instance, sealed[label], label=other)


async def test_a_key_is_compared_with_each_fingerprint_before_the_native_session_uses_it(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str]
) -> None:
    async with serving(make_faulty(), modules) as instance:
        fingerprint: KeyFingerprint = await instance.call(lambda session: session.make_fingerprint("demo-key"), later())
        same = msgspec.structs.replace(fingerprint)
        wrong = KeyFingerprint(b"\0\0\0", None)
        await encrypt(instance, fingerprint=fingerprint)
        in_python.clear()
        sealed = await encrypt(instance, fingerprint=fingerprint)
        assert not in_python

        with pytest.raises(KeyDiffers):
            await encrypt(instance, fingerprint=wrong)
        with pytest.raises(KeyDiffers):
            await decrypt(instance, sealed, fingerprint=wrong)
        in_python.clear()
        assert await decrypt(instance, sealed, fingerprint=same) == b"text"
        assert in_python["decrypt"] == 1
        assert await decrypt(instance, sealed, fingerprint=same) == b"text"
        assert in_python["decrypt"] == 1


@pytest.mark.parametrize(("label", "allowed"), [("encrypt-only-key", "encrypt"), ("decrypt-only-key", "decrypt")])
async def test_a_key_is_used_natively_for_what_it_may_do(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str], label: str, allowed: str
) -> None:
    armings: list[tuple[bool, bool]] = []
    async with serving(make_faulty(), modules) as instance:

        def look(session: HsmSession) -> None:
            native_session = session.native_session
            session._keys.find(label)

            class Noted:
                """The native_session of a key table that only notes."""

                def allow_key(self, *arguments: Any) -> None:
                    armings.append(arguments[3:5])

            session._keys._native_session = Noted()  # type: ignore[assignment]
            session.allow_native(label, 1, None)
            session._keys._native_session = native_session

        await instance.call(look, later())

    assert armings == [(allowed == "encrypt", allowed == "decrypt")]


# What fails


FAILURES = [
    *((function, value) for function in ("C_EncryptInit", "C_Encrypt") for value in ("0x5", "0x30", "0x31", "0x68")),
    *((function, value) for function in ("C_EncryptInit", "C_Encrypt") for value in ("0x60", "0x82", "0xb3", "0x71")),
    *((function, value) for function in ("C_DecryptInit", "C_Decrypt") for value in ("0x5", "0x30", "0x31", "0x68")),
    *((function, value) for function in ("C_DecryptInit", "C_Decrypt") for value in ("0x60", "0x82", "0xb3", "0x71")),
    ("C_Decrypt", "0x40"),
    ("C_DecryptInit", "0x40"),
    ("C_Encrypt", "0x80000001"),
]


@pytest.mark.parametrize(("function", "value"), FAILURES)
async def test_a_native_failure_has_the_same_outcome_as_one_in_python(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str], function: str, value: str
) -> None:
    faulty = make_faulty()
    async with serving(faulty, modules) as instance:

        async def outcome(work: Any) -> tuple[object, ...]:
            """What comes of it, whether the session was given up, and how often the module is called from Python."""
            sealed = await allow_native(instance, in_python)
            before = session_of(instance)
            faulty.tell(f"{function} return {value} count=1")
            try:
                await instance.call(work(sealed), later())
            except HsmError as error:
                told: object = (type(error), str(error))
            else:
                told = "done"
            faulty.tell()
            kept = next(iter(instance._pool._free.values()))._session is before
            return told, kept, in_python["gcm_encrypt"] + in_python["gcm_decrypt"]

        if "Encrypt" in function:
            natively = await outcome(lambda _: Encryption("demo-key", b"text", b"aad", None, None))
            in_session = await outcome(lambda _: lambda session: session.encrypt("demo-key", b"text", b"aad"))
        else:
            natively = await outcome(lambda sealed: Decryption("demo-key", sealed, b"aad", None))
            in_session = await outcome(lambda sealed: lambda session: session.decrypt("demo-key", sealed, b"aad"))

    assert natively[:2] == in_session[:2]
    assert natively[2] == in_session[2] - 1  # the one that failed was made natively, and is not made again


async def test_data_above_the_modules_limit_is_refused_natively_too(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str]
) -> None:
    async with serving(make_faulty(maximum_data_bytes=100), modules) as instance:
        await allow_native(instance, in_python)

        assert await encrypt(instance, bytes(100))
        assert not in_python
        with pytest.raises(DataTooLarge):
            await encrypt(instance, bytes(101))


@pytest.mark.parametrize("part", ["iv", "ciphertext", "tag", "aad"])
async def test_any_changed_part_is_a_rejected_ciphertext_natively_too(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str], part: str
) -> None:
    async with serving(make_faulty(), modules) as instance:
        sealed = await allow_native(instance, in_python)
        parts = {"iv": sealed.iv, "ciphertext": sealed.ciphertext, "tag": sealed.tag, "aad": b"aad"}
        parts[part] = bytes([parts[part][0] ^ 1]) + parts[part][1:]

        with pytest.raises(CiphertextRejected):
            await decrypt(instance, Sealed(parts["iv"], parts["ciphertext"], parts["tag"]), aad=parts["aad"])

        # Tried once more; and the self-test.
        assert in_python == {"decrypt": 1, "gcm_encrypt": 1, "gcm_decrypt": 2}
        assert await decrypt(instance, sealed) == b"text"
        in_python.clear()
        assert await decrypt(instance, sealed) == b"text"
        assert not in_python


@pytest.mark.parametrize("native", [True, False])
async def test_a_failure_in_passing_that_could_mean_a_wrong_tag_rejects_no_ciphertext(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str], native: bool
) -> None:
    faulty = make_faulty()
    async with serving(faulty, modules) as instance:
        sealed = await (allow_native(instance, in_python) if native else encrypt(instance))
        faulty.tell("C_Decrypt fail 0x5 count=1")

        assert await decrypt(instance, sealed) == b"text"


async def test_such_a_failure_does_not_make_a_key_another_one(make_faulty: Faulty, modules: Modules) -> None:
    """The canary of a key without a check value is decrypted once more, too."""
    faulty, label = make_faulty(), "silent"
    pin = read_pin(faulty.hsm)
    assert pin
    change_key(faulty, pin.reveal(), label, os.urandom(32), silent=True)
    async with serving(faulty, modules) as instance:
        fingerprint = await instance.call(lambda session: session.make_fingerprint(label), later())
        faulty.tell("C_Decrypt fail 0x5 count=1")

        assert await encrypt(instance, label=label, fingerprint=fingerprint)


def verified() -> VerifiedEncryption:
    return VerifiedEncryption(Encryption("demo-key", b"text", b"aad", None, None), b"prefix")


async def test_a_verified_encryption_is_one_native_call(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str]
) -> None:
    """R-CDIV-5."""
    async with serving(make_faulty(), modules) as instance:
        await allow_native(instance, in_python)

        sealed, integrity_value = await instance.call(verified(), later())

        assert not in_python
        assert integrity_value == hashlib.sha256(b"prefix" + sealed.iv + sealed.ciphertext + sealed.tag).digest()
        assert await decrypt(instance, sealed) == b"text"


async def test_a_verified_encryption_in_python_comes_to_the_same(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str]
) -> None:
    async with serving(make_faulty(), modules) as instance:
        sealed, integrity_value = await instance.call(verified(), later())

        assert in_python["encrypt"] == in_python["decrypt"] == 1
        assert integrity_value == hashlib.sha256(b"prefix" + sealed.iv + sealed.ciphertext + sealed.tag).digest()
        assert await decrypt(instance, sealed) == b"text"


@pytest.mark.parametrize(
    ("native", "rule"),
    [(True, "C_Decrypt corrupt count=1"), (False, "C_Decrypt corrupt count=1"), (False, "C_Encrypt corrupt count=1")],
)
async def test_an_output_that_does_not_decrypt_to_the_plaintext_is_never_an_answer(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str], native: bool, rule: str
) -> None:
    """R-CDIV-6."""
    faulty = make_faulty()
    async with serving(faulty, modules) as instance:
        if native:
            await allow_native(instance, in_python)
        faulty.tell(rule)

        with pytest.raises(CiphertextWrong):
            await instance.call(verified(), later())


@pytest.mark.parametrize(
    "rule",
    [
        "C_Encrypt corrupt count=1",
        "C_Decrypt fail 0x5 count=1",
        "C_DecryptInit return 0xb3 count=1",
        "C_Decrypt return 0xb3 count=1",
    ],
)
async def test_after_a_trial_decrypt_that_fails_natively_the_encryption_is_made_anew(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str], rule: str
) -> None:
    """The output may be damaged, the device failed in passing, or the session is lost."""
    faulty = make_faulty()
    async with serving(faulty, modules) as instance:
        await allow_native(instance, in_python)
        faulty.tell(rule)

        sealed, _ = await instance.call(verified(), later())

        assert await decrypt(instance, sealed) == b"text"


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    "rule", [f"{function} spoil {code} count=1" for function in ("C_Encrypt", "C_Decrypt") for code in ("0x30", "0x0")]
)
async def test_a_module_that_changes_what_it_is_given_changes_nothing_of_the_next_attempt(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str], native: bool, rule: str
) -> None:
    faulty = make_faulty()
    async with serving(faulty, modules) as instance:
        if native:
            await allow_native(instance, in_python)
        faulty.tell(rule)
        plain = await encrypt(instance)
        faulty.tell(rule)

        checked, integrity_value = await instance.call(verified(), later())

        assert await decrypt(instance, plain) == await decrypt(instance, checked) == b"text"
        assert integrity_value == hashlib.sha256(b"prefix" + checked.iv + checked.ciphertext + checked.tag).digest()


@pytest.mark.parametrize("function", ["C_EncryptInit", "C_Encrypt"])
async def test_a_call_that_hangs_natively_costs_its_worker_which_ends_when_it_returns(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str], function: str
) -> None:
    faulty = make_faulty()
    async with serving(faulty, modules) as instance:
        sealed = await allow_native(instance, in_python)
        (worker,) = instance._pool._free.values()
        faulty.tell(f"{function} hang")

        with pytest.raises(DeadlinePassed):
            await instance.call(Encryption("demo-key", b"text", b"aad", None, None), Deadline.after(0.1))
        await until(lambda: instance.stuck_sessions == 1)

        assert not in_python
        assert worker not in instance._pool._free.values()
        assert await decrypt(instance, sealed) == b"text"

        faulty.tell()
        await until(lambda: instance.stuck_sessions == 0)
        await asyncio.to_thread(worker.join, PATIENCE_SECONDS)
        assert not worker._thread.is_alive()
        assert not in_python["encrypt"]  # nor did it do for nobody what had been given up
        assert await decrypt(instance, await encrypt(instance)) == b"text"


async def test_a_call_that_hangs_after_its_caller_has_gone_costs_its_worker_too(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str]
) -> None:
    """As the slower one of two hedged calls; else the worker would be missing, and nobody would know."""
    faulty = make_faulty()
    async with serving(faulty, modules) as instance:
        await allow_native(instance, in_python)
        faulty.tell("C_EncryptInit hang")
        call = asyncio.create_task(encrypt(instance))
        await until(lambda: any(waiting.claimed_at for waiting in instance._pool.calls))
        call.cancel()
        await until(lambda: instance.stuck_sessions == 1)

        faulty.tell()
        await until(lambda: instance.stuck_sessions == 0)
        await encrypt(instance)


async def test_an_instance_that_has_ended_leaves_nothing_to_the_event_loop(
    make_faulty: Faulty, modules: Modules
) -> None:
    """Its descriptor would stay open as long as the loop, for each log-in of the emulator's clusters."""
    async with serving(make_faulty(), modules, sessions=2) as instance:
        call = asyncio.create_task(encrypt(instance))
        await asyncio.sleep(0)

    assert isinstance(await call, Sealed)
    assert not asyncio.get_running_loop().remove_reader(instance._pool._queue.fileno())


async def test_an_instance_whose_threads_do_not_end_in_time_answers_all_the_same(
    make_faulty: Faulty, modules: Modules
) -> None:
    release = threading.Event()
    async with serving(make_faulty(), modules) as instance:
        call = asyncio.create_task(instance.call(lambda _: release.wait(), later()))
        await asyncio.sleep(0)
        instance.stop()
        await instance.ended(0)
        release.set()

        assert await call


# What is counted


async def test_each_encryption_is_counted_once(make_faulty: Faulty, modules: Modules, in_python: Counter[str]) -> None:
    async with serving(make_faulty(), modules, sessions=2) as instance:
        await encrypt(instance)
        before = encryptions(modules)
        in_python.clear()

        async def client() -> None:
            for _ in range(100):
                await decrypt(instance, await encrypt(instance))

        await asyncio.gather(*(client() for _ in range(4)))

    assert encryptions(modules) == before + 400
    assert in_python["encrypt"] < 200


async def test_a_limited_key_makes_as_many_encryptions_as_it_may(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str]
) -> None:
    async with serving(make_faulty(), modules, sessions=2) as instance:
        limited = (instance.call(Encryption("demo-key", b"text", b"", None, 50), later()) for _ in range(80))
        outcomes = await asyncio.gather(*limited, return_exceptions=True)

    assert sum(isinstance(outcome, Sealed) for outcome in outcomes) == 50
    assert all(isinstance(outcome, Sealed | EncryptionsSpent) for outcome in outcomes)


async def test_an_native_attempt_and_one_in_python_are_two(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str]
) -> None:
    faulty = make_faulty()
    async with serving(faulty, modules) as instance:
        await allow_native(instance, in_python)
        before = encryptions(modules)
        faulty.tell("C_EncryptInit return 0x82 count=1")

        await encrypt(instance)

    assert in_python["gcm_encrypt"] == 1
    assert encryptions(modules) == before + 2


@pytest.mark.parametrize("value", ["0x82", "0xb3"])
async def test_two_attempts_in_python_are_two(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str], value: str
) -> None:
    """The first of them is counted before a worker has it, as for a native_session."""
    faulty = make_faulty()
    async with serving(faulty, modules) as instance:
        await allow_native(instance, in_python)
        await instance.call(
            lambda session: session.native_session.revoke_key(instance._pool._key_numbers["demo-key"]), later()
        )
        before = encryptions(modules)
        faulty.tell(f"C_EncryptInit return {value} count=1")

        await encrypt(instance)

    assert in_python["gcm_encrypt"] == 2
    assert encryptions(modules) == before + 2


@pytest.mark.parametrize("native", [True, False])
async def test_a_module_that_begins_to_change_the_iv_that_it_is_given_encrypts_nothing_more(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str], native: bool
) -> None:
    """Nobody knows with which IV it has encrypted, and whether that was used before."""
    faulty = make_faulty()
    async with serving(faulty, modules) as instance:
        await (allow_native(instance, in_python) if native else encrypt(instance))
        faulty.tell("iv change")

        with pytest.raises(SettingsMismatch, match="changed the IV"):
            await encrypt(instance)

        await until(lambda: not instance.serving)


async def test_an_native_attempt_with_an_impossible_outcome_is_counted_too(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str]
) -> None:
    """An HSM that stops writing its own IV has encrypted under zeros twice before it is found out."""
    faulty = make_faulty(iv="written-back")
    faulty.tell("iv zero")
    async with serving(faulty, modules) as instance:
        await allow_native(instance, in_python)
        before = encryptions(modules)
        faulty.tell()

        with pytest.raises(SettingsMismatch, match="all-zero"):
            await encrypt(instance)

    assert in_python["gcm_encrypt"] == 1
    assert encryptions(modules) == before + 2


async def test_no_iv_serves_two_attempts(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[bytes] = []
    random_bytes = Cryptoki.random_bytes

    def noted(self: Cryptoki, session: int, length: int) -> bytes:
        drawn.append(random_bytes(self, session, length))
        return drawn[-1]

    monkeypatch.setattr(Cryptoki, "random_bytes", noted)
    monkeypatch.setattr(gcm_calls, "os", SimpleNamespace(urandom=bytes))  # zeros: the token's bytes alone make the IVs
    faulty = make_faulty()
    async with serving(faulty, modules) as instance:
        sealed = [await encrypt(instance) for _ in range(40)]
        faulty.tell("C_EncryptInit return 0x82 count=1")  # at the native_session, then again in Python
        sealed += [await encrypt(instance) for _ in range(160)]

    assert 0 < in_python["gcm_encrypt"] < 50
    assert len({item.iv for item in sealed}) == 200
    in_order = [block[at : at + 12] for block in drawn for at in range(0, len(block), 12)]
    used = [in_order.index(item.iv) for item in sealed]
    assert used == sorted(used)
    assert used[40] == used[39] + 2


@pytest.mark.parametrize("setting", ["written-back", "appended"])
async def test_ivs_that_the_hsm_makes_come_back_natively_too(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str], setting: str
) -> None:
    faulty = make_faulty(iv=setting)
    faulty.tell("iv zero" if setting == "written-back" else "iv append")
    async with serving(faulty, modules) as instance:
        await allow_native(instance, in_python)
        sealed = [await encrypt(instance) for _ in range(10)]
        assert in_python["encrypt"] == (10 if setting == "appended" else 0)

        assert [await decrypt(instance, item) for item in sealed] == [b"text"] * 10
        assert in_python["decrypt"] == 0
    assert len({item.iv for item in sealed}) == 10
    assert all(any(item.iv) for item in sealed)


# Many at once


@pytest.fixture
def ended_by_itself() -> Iterator[threading.Event]:
    """Set at the end, whatever happens, so that no thread outlives its test."""
    event = threading.Event()
    yield event
    event.set()


async def test_a_module_is_initialised_again_under_load_without_a_call_inside(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str], ended_by_itself: threading.Event
) -> None:
    """SoftHSM2 crashes the process if there is one."""
    async with serving(make_faulty(), modules, sessions=4) as instance:
        await allow_native(instance, in_python)
        module = modules.module(instance._hsm)
        before = module.module_lock.generation
        answers: Counter[str] = Counter()

        def reinitialize() -> None:
            for _ in range(10):
                module.reinitialize(PATIENCE_SECONDS)

        async def load(number: int) -> None:
            while not ended_by_itself.is_set():
                text = b"%d" % number
                try:
                    assert await decrypt(instance, await encrypt(instance, text)) == text
                    answers["right"] += 1
                except (SessionLost, TokenUnavailable):
                    answers["lost"] += 1
                    await asyncio.sleep(0.001)  # out of service, it refuses without waiting for anything

        loads = [asyncio.create_task(load(number)) for number in range(8)]
        await asyncio.gather(*(asyncio.to_thread(reinitialize) for _ in range(3)))
        generation = module.module_lock.generation
        right = answers["right"]
        await until(lambda: instance.serving and answers["right"] > right + 100)
        ended_by_itself.set()
        await asyncio.gather(*loads)

    assert generation >= before + 10


async def test_threads_that_want_a_module_initialised_again_at_once_get_it_once(
    make_faulty: Faulty, modules: Modules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each for its HSM: the module_lock that the first one opens again is not opened under the second."""
    arrived = threading.Semaphore(0)
    lock = threading.Lock()

    class Noted:
        """The module's lock, which tells who comes to it."""

        def __enter__(self) -> None:
            arrived.release()
            lock.acquire()

        def __exit__(self, *_: object) -> None:
            lock.release()

    async with serving(make_faulty(), modules) as instance:
        module = modules.module(instance._hsm)
        before = module.module_lock.generation
        monkeypatch.setattr(module, "_loading", Noted())
        with module.module_lock:
            tasks = [asyncio.create_task(asyncio.to_thread(module.reinitialize, PATIENCE_SECONDS)) for _ in range(3)]
            for _ in tasks:
                await asyncio.to_thread(arrived.acquire)
        await asyncio.gather(*tasks)

        assert module.module_lock.generation == before + 1
        await until(lambda: instance.serving)


async def test_under_stress_every_answer_is_right(
    make_faulty: Faulty, modules: Modules, in_python: Counter[str]
) -> None:
    """Workers at once, cancelled callers, passed deadlines, failing calls: every caller gets its own answer."""
    faulty = make_faulty()
    chance = random.Random(1)
    outcomes: Counter[str] = Counter()
    async with serving(faulty, modules, sessions=3) as instance:
        await allow_native(instance, in_python, "demo-key")
        faulty.tell(
            "C_Encrypt return 0x82 rate=0.01", "C_DecryptInit return 0xb3 rate=0.01", "C_Decrypt delay 2 rate=0.05"
        )

        async def one(number: int) -> None:
            text = number.to_bytes(4, "big") * chance.randrange(64)
            seconds = chance.choice([60, 60, 60, chance.uniform(0, 0.02)])
            sealed = await instance.call(Encryption("demo-key", text, b"aad", None, None), Deadline.after(seconds))
            opened = await instance.call(Decryption("demo-key", sealed, b"aad", None), Deadline.after(seconds))
            assert opened == text
            outcomes["right"] += 1

        async def client(numbers: range) -> None:
            for number in numbers:
                task = asyncio.create_task(one(number))
                if chance.random() < 0.05:
                    for _ in range(chance.randrange(4)):
                        await asyncio.sleep(0)
                    task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    outcomes["cancelled"] += 1
                except (HsmBusy, DeadlinePassed, SessionLost, TokenUnavailable) as error:
                    outcomes[type(error).__name__] += 1

        await asyncio.gather(*(client(range(first, first + 300)) for first in range(0, 3000, 300)))
        faulty.tell()
        await until(lambda: instance.serving and instance.stuck_sessions == 0)
        assert await decrypt(instance, await encrypt(instance)) == b"text"

    assert sum(outcomes.values()) == 3000
    assert outcomes["right"] > 1000
    assert outcomes["cancelled"]
