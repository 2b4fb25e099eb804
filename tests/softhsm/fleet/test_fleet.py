"""Several HSMs with the same keys, and what a caller notices when one of them fails: nothing."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from fault_support import FaultyHsm, change_key, is_quiet, until
from support import PATIENCE_SECONDS

from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import (
    CiphertextRejected,
    CiphertextWrong,
    DeadlinePassed,
    HsmBusy,
    HsmError,
    KeyAmbiguous,
    KeyDiffers,
    KeyMissing,
    KeyRefusesUse,
    TokenUnavailable,
)
from xksproxy.hsm.fleet import fleet as fleet_module
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.fleet.fleet import Fleet
from xksproxy.hsm.instance.health import Status
from xksproxy.hsm.instance.instance import Instance
from xksproxy.hsm.instance.latency import Latency
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.keys import Sealed, TokenKey
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.request_stats import RequestStats, current_request_stats

Faulty = Callable[..., FaultyHsm]


def deadline(seconds: float = 60) -> Deadline:
    """So far away that no busy machine misses it; a test whose point it is names a nearer one."""
    return Deadline.after(seconds)


@pytest.fixture
def pin(hsm: object, environment: object) -> str:
    return (environment.directory / "pin").read_text().strip()  # type: ignore[attr-defined]


@asynccontextmanager
async def fleet_of(modules: Modules, *faulty: FaultyHsm, all_serving: bool = True) -> AsyncIterator[Fleet]:
    records = FingerprintRecords(faulty[0].control.parent, "dev")
    instances = [Instance(item.hsm, modules) for item in faulty]
    for instance in instances:
        instance.start()
    try:
        await until(lambda: not all_serving or all(instance.serving for instance in instances))
        yield Fleet(instances, records, lambda label: label in {"demo-key", "only-b", "split", "both", "one-use"})
    finally:
        for instance in instances:
            instance.stop()


async def round_trip(fleet: Fleet, seconds: float = 60, label: str = "demo-key") -> None:
    sealed = await fleet.encrypt(TokenKey(label), b"text", b"aad", deadline(seconds))
    assert await fleet.decrypt(TokenKey(label), sealed, b"aad", deadline(seconds)) == b"text"


async def test_a_key_that_is_ambiguous_on_one_hsm_is_used_on_the_other_and_on_none_before_one_was_proven(
    make_faulty: Faulty, modules: Modules, pin: str
) -> None:
    a, b = make_faulty(check_interval_s=1), make_faulty(check_interval_s=1)
    for faulty in (a, b):
        change_key(faulty, pin, "split", bytes(32))
        change_key(faulty, pin, "only-b", bytes(32))
    change_key(a, pin, "only-b", bytes(range(32)))
    async with fleet_of(modules, a, b) as fleet:
        with pytest.raises(KeyAmbiguous):
            await round_trip(fleet, label="only-b")
        await encrypt_in_parallel(fleet, "split")

        change_key(a, pin, "split", bytes(range(32)))
        for _ in range(12):
            await round_trip(fleet, label="split")
        await until(lambda: "split" in fleet.instances[0].keys.ambiguous)
        current_request_stats.set(stats := RequestStats(hsms=[]))
        for _ in range(12):
            await round_trip(fleet, label="split")
        assert set(stats.hsms) == {b.hsm.id}
        (of_a, of_b) = fleet.key_problems()
        assert "split" in of_a.ambiguous
        assert (of_a.differing, of_b.refused) == ((), frozenset())


@pytest.mark.parametrize("lacks", ["not encrypting", "not decrypting"])
async def test_a_key_that_loses_a_use_on_one_hsm_is_used_on_the_other_and_named(
    make_faulty: Faulty, modules: Modules, pin: str, lacks: str
) -> None:
    a, b = make_faulty(check_interval_s=1), make_faulty(check_interval_s=1)
    for faulty in (a, b):
        change_key(faulty, pin, "both", bytes(32))
        change_key(faulty, pin, "one-use", bytes(range(32)), lacks=lacks)
    async with fleet_of(modules, a, b) as fleet:
        await round_trip(fleet, label="both")
        assert [item.restricted for item in fleet.key_problems()] == [(), ()]
        change_key(a, pin, "both", None)
        change_key(a, pin, "both", bytes(32), lacks=lacks)

        for _ in range(12):
            await round_trip(fleet, label="both")

        await until(lambda: [item.restricted for item in fleet.key_problems()] == [("both",), ()])
        for faulty in (a, b):
            change_key(faulty, pin, "both", None)
            change_key(faulty, pin, "both", bytes(32), lacks=lacks)
        with pytest.raises(KeyRefusesUse):
            await round_trip(fleet, label="both")


async def test_a_search_that_finds_several_keys_is_made_good_by_another_hsm(
    make_faulty: Faulty, modules: Modules
) -> None:
    a, b = make_faulty(), make_faulty()
    async with fleet_of(modules, a, b) as fleet:
        await round_trip(fleet)
        let_the_first_fail(fleet, KeyAmbiguous("several keys have the label"), second_seconds=0.01)

        assert (await fleet.encrypt(TokenKey("demo-key"), b"text", b"", deadline())).ciphertext


async def encrypt_in_parallel(fleet: Fleet, label: str) -> list[Sealed]:
    """So many at once that every HSM gets some."""
    return await asyncio.gather(*(fleet.encrypt(TokenKey(label), b"text", b"", deadline()) for _ in range(12)))


async def test_what_one_hsm_encrypts_another_decrypts(make_faulty: Faulty, modules: Modules) -> None:
    a, b = make_faulty(), make_faulty()
    async with fleet_of(modules, a, b) as fleet:
        a.tell("C_EncryptInit return 0x30")
        sealed = await fleet.encrypt(TokenKey("demo-key"), b"text", b"aad", deadline())
        a.tell()
        b.tell("C_DecryptInit return 0x30")

        assert await fleet.decrypt(TokenKey("demo-key"), sealed, b"aad", deadline()) == b"text"


@pytest.mark.parametrize(
    "fault",
    [
        "C_EncryptInit return 0x30",
        "C_Encrypt return 0x5",
        "C_Encrypt return 0x6",
        "C_EncryptInit return 0xb3",
        "C_EncryptInit return 0x82",
        "C_EncryptInit return 0x101",
        "C_EncryptInit return 0x190",
        "C_EncryptInit return 0xb1",
        "C_EncryptInit return 0x80000042",
        "* return 0x30",
    ],
)
async def test_a_failure_of_one_hsm_is_made_good_by_the_other(
    make_faulty: Faulty, modules: Modules, fault: str
) -> None:
    a, b = make_faulty(), make_faulty()
    async with fleet_of(modules, a, b) as fleet:
        a.tell(fault)
        for _ in range(12):
            await round_trip(fleet)


async def test_a_hung_hsm_costs_no_answer(make_faulty: Faulty, modules: Modules) -> None:
    """Every call is answered within the deadline of a request, the ones that hang at first included."""
    a, b = make_faulty(), make_faulty()
    async with fleet_of(modules, a, b) as fleet:
        await round_trip(fleet)
        for instance in fleet.instances:
            pretend_latency(instance, 0.001)  # or a busy machine may make the first one look slower, and never ask it
        a.tell("C_Encrypt hang", "C_Decrypt hang")

        for _ in range(10):
            await asyncio.gather(*(round_trip(fleet, 6) for _ in range(4)))

        assert fleet.health()[0].status is not Status.ACTIVE
        a.tell()
        await until(lambda: fleet.health()[0].status is Status.ACTIVE)


async def test_an_hsm_without_a_session_is_not_asked_while_another_one_has_some(
    make_faulty: Faulty, modules: Modules
) -> None:
    """The first HSM has lost all sessions, and logs in slowly."""
    slow, other = make_faulty(), make_faulty()
    async with fleet_of(modules, slow, other) as fleet:
        await round_trip(fleet)
        slow.tell("C_Login hang", "drop")
        with suppress(HsmError):
            await fleet.instances[0].call(HsmSession.self_test, deadline(0.2))
        await until(lambda: fleet.instances[0].troubled)
        current_request_stats.set(stats := RequestStats(hsms=[]))
        for _ in range(5):
            await round_trip(fleet)
        slow.tell()

        assert set(stats.hsms) == {other.hsm.id}


async def test_a_wrong_tag_is_said_at_once_and_blames_no_hsm(make_faulty: Faulty, modules: Modules) -> None:
    async with fleet_of(modules, make_faulty(check_interval_s=600), make_faulty(check_interval_s=600)) as fleet:
        await first_check(fleet)
        sealed = await fleet.encrypt(TokenKey("demo-key"), b"text", b"aad", deadline())
        for _ in range(8):
            with pytest.raises(CiphertextRejected):
                await fleet.decrypt(TokenKey("demo-key"), sealed, b"other", deadline())

        assert [item.status for item in fleet.health()] == [Status.ACTIVE, Status.ACTIVE]


async def test_a_general_error_of_a_broken_hsm_is_not_taken_for_a_wrong_tag(
    make_faulty: Faulty, modules: Modules
) -> None:
    """SoftHSM2 has one code for both; the self-test, which fails too, tells them apart."""
    a = make_faulty()
    async with fleet_of(modules, a) as fleet:
        sealed = await fleet.encrypt(TokenKey("demo-key"), b"text", b"aad", deadline())
        a.tell("C_Decrypt fail 0x5")

        with pytest.raises(TokenUnavailable):
            await fleet.decrypt(TokenKey("demo-key"), sealed, b"aad", deadline())


async def first_check(fleet: Fleet) -> None:
    """Until the background has no call to make for a while that a fault could hit instead."""
    await until(lambda: all(map(is_quiet, fleet.instances)))


@pytest.mark.parametrize("fault", ["C_Encrypt corrupt", "C_Encrypt corrupt rate=0.5", "C_Decrypt corrupt"])
async def test_a_proven_encryption_that_comes_out_wrong_is_made_again_elsewhere(
    make_faulty: Faulty, modules: Modules, fault: str
) -> None:
    """R-CDIV-6: only what was seen to decrypt is given out."""
    a, b = make_faulty(), make_faulty()
    async with fleet_of(modules, a, b) as fleet:
        a.tell(fault)
        sealed = [
            (await fleet.encrypt_verified(TokenKey("demo-key"), b"text", b"aad", b"prefix", deadline()))[0]
            for _ in range(12)
        ]
        a.tell()

        for item in sealed:
            assert await fleet.decrypt(TokenKey("demo-key"), item, b"aad", deadline()) == b"text"


async def test_a_proven_encryption_that_comes_out_wrong_everywhere_is_an_error(
    make_faulty: Faulty, modules: Modules
) -> None:
    a = make_faulty(check_interval_s=600)
    async with fleet_of(modules, a) as fleet:
        await first_check(fleet)
        await round_trip(fleet)
        a.tell("C_Decrypt corrupt count=1")

        with pytest.raises(CiphertextWrong):
            await fleet.encrypt_verified(TokenKey("demo-key"), b"text", b"aad", b"prefix", deadline())


async def test_a_key_on_one_hsm_only_is_used_there(make_faulty: Faulty, modules: Modules, pin: str) -> None:
    a, b = make_faulty(), make_faulty()
    change_key(b, pin, "only-b", bytes(range(32)))
    async with fleet_of(modules, a, b) as fleet:
        for _ in range(6):
            await round_trip(fleet, label="only-b")


async def test_a_key_that_is_nowhere_is_missing(make_faulty: Faulty, modules: Modules) -> None:
    async with fleet_of(modules, make_faulty(), make_faulty()) as fleet:
        with pytest.raises(KeyMissing):
            await fleet.encrypt(TokenKey("no such key"), b"text", b"", deadline())


async def test_a_key_is_not_called_missing_while_an_hsm_that_may_have_it_is_down(
    make_faulty: Faulty, modules: Modules
) -> None:
    a, b = make_faulty(), make_faulty()
    b.tell("absent")
    async with fleet_of(modules, a, b, all_serving=False) as fleet:
        await until(lambda: fleet.instances[0].serving and bool(fleet.instances[1].reason))

        with pytest.raises(TokenUnavailable, match="others are out of service"):
            await fleet.encrypt(TokenKey("no such key"), b"text", b"", deadline())


async def test_another_key_under_the_same_label_is_never_used(make_faulty: Faulty, modules: Modules, pin: str) -> None:
    """Two tokens that were each asked to generate have two keys; the HSM named first is believed."""
    a, b = make_faulty(), make_faulty()
    change_key(a, pin, "split", bytes(range(32)))
    change_key(b, pin, "split", bytes(range(1, 33)))
    async with fleet_of(modules, a, b) as fleet:
        sealed = [await fleet.encrypt(TokenKey("split"), b"text", b"", deadline()) for _ in range(10)]

        for item in sealed:
            opened = await fleet.instances[0].call(
                lambda session, item=item: session.decrypt("split", item, b""), deadline()
            )
            assert opened == b"text"
        for item in sealed:
            assert await fleet.decrypt(TokenKey("split"), item, b"", deadline()) == b"text"
        # It may not have been asked yet; then its keys are still to be listed in the background.
        await until(lambda: fleet.health()[1].status is Status.DEGRADED)


async def test_an_odd_key_is_refused_rather_than_used_when_the_right_hsm_goes_down(
    make_faulty: Faulty, modules: Modules, pin: str
) -> None:
    a, b = make_faulty(), make_faulty()
    change_key(a, pin, "split", bytes(range(32)))
    change_key(b, pin, "split", bytes(range(1, 33)))
    async with fleet_of(modules, a) as fleet:
        await round_trip(fleet, label="split")
    async with fleet_of(modules, a, b) as fleet:
        for _ in range(4):
            await fleet.encrypt(TokenKey("split"), b"text", b"", deadline())
        a.tell("* return 0x30")

        for _ in range(6):
            with pytest.raises((TokenUnavailable, KeyDiffers)):
                await fleet.encrypt(TokenKey("split"), b"text", b"", deadline())


@pytest.mark.parametrize(("silent_a", "silent_b"), [(False, True), (True, False), (True, True)])
async def test_another_key_that_tells_no_check_value_is_never_used_either(
    make_faulty: Faulty, modules: Modules, pin: str, silent_a: bool, silent_b: bool
) -> None:
    a, b = make_faulty(), make_faulty()
    change_key(a, pin, "split", bytes(range(32)), silent=silent_a)
    change_key(b, pin, "split", bytes(range(1, 33)), silent=silent_b)
    async with fleet_of(modules, a, b) as fleet:
        sealed = [await encrypt_in_parallel(fleet, "split") for _ in range(5)]

        for item in (item for group in sealed for item in group):
            assert await fleet.decrypt(TokenKey("split"), item, b"", deadline()) == b"text"
        # Only a call shows it, and what one has shown is believed for 15 s.
        async with asyncio.timeout(PATIENCE_SECONDS):
            while fleet.health()[1].status is not Status.DEGRADED:
                await encrypt_in_parallel(fleet, "split")


@pytest.mark.parametrize(("silent_a", "silent_b"), [(False, False), (False, True), (True, True)])
async def test_the_same_key_is_used_on_both_whether_or_not_they_tell_check_values(
    make_faulty: Faulty, modules: Modules, pin: str, silent_a: bool, silent_b: bool
) -> None:
    a, b = make_faulty(), make_faulty()
    change_key(a, pin, "split", bytes(range(32)), silent=silent_a)
    change_key(b, pin, "split", bytes(range(32)), silent=silent_b)
    async with fleet_of(modules, a, b) as fleet:
        for _ in range(5):
            await encrypt_in_parallel(fleet, "split")

        # The keys are listed after an instance has come into service, each in its own time.
        await until(lambda: [item.status for item in fleet.health()] == [Status.ACTIVE, Status.ACTIVE])
        a.tell("* return 0x30")
        await round_trip(fleet, label="split")


async def test_a_silent_key_that_is_made_anew_on_one_hsm_is_not_used_there(
    make_faulty: Faulty, modules: Modules, pin: str
) -> None:
    a, b = make_faulty(), make_faulty()
    for item in (a, b):
        change_key(item, pin, "split", bytes(range(32)), silent=True)
    async with fleet_of(modules, a, b) as fleet:
        for _ in range(5):
            await encrypt_in_parallel(fleet, "split")
        change_key(b, pin, "split", None)
        change_key(b, pin, "split", bytes(range(1, 33)), silent=True)

        sealed = [await encrypt_in_parallel(fleet, "split") for _ in range(5)]

        for item in (item for group in sealed for item in group):
            assert await fleet.decrypt(TokenKey("split"), item, b"", deadline()) == b"text"


@pytest.mark.parametrize("silent", [True, False])
async def test_a_lone_hsm_with_another_key_does_not_serve_it_after_a_restart(
    make_faulty: Faulty, modules: Modules, pin: str, silent: bool
) -> None:
    a, b = make_faulty(), make_faulty()
    change_key(a, pin, "split", bytes(range(32)), silent=silent)
    change_key(b, pin, "split", bytes(range(1, 33)), silent=silent)
    async with fleet_of(modules, a) as fleet:
        await round_trip(fleet, label="split")
    a.tell("* return 0x30")

    async with fleet_of(modules, a, b, all_serving=False) as fleet:
        await until(lambda: fleet.instances[1].serving and not fleet.instances[0].serving)
        with pytest.raises(KeyDiffers):
            await fleet.encrypt(TokenKey("split"), b"text", b"", deadline())


async def test_a_key_replaced_on_every_hsm_is_taken_for_right(make_faulty: Faulty, modules: Modules, pin: str) -> None:
    a, b = make_faulty(), make_faulty()
    for item in (a, b):
        change_key(item, pin, "split", bytes(range(32)))
    async with fleet_of(modules, a, b) as fleet:
        await round_trip(fleet, label="split")
        for item in (a, b):
            change_key(item, pin, "split", None)
            change_key(item, pin, "split", bytes(range(1, 33)))

        await round_trip(fleet, label="split")


async def test_all_hsms_down_is_an_error_with_every_reason_and_heals(make_faulty: Faulty, modules: Modules) -> None:
    a, b = make_faulty(), make_faulty()
    async with fleet_of(modules, a, b) as fleet:
        for item in (a, b):
            item.tell("* return 0x30")
        for _ in range(4):
            with pytest.raises((TokenUnavailable, DeadlinePassed)):
                await fleet.encrypt(TokenKey("demo-key"), b"text", b"", deadline())

        # A check that began before may have ended well in between; the next one comes within a second.
        await until(lambda: {item.status for item in fleet.health()} == {Status.UNAVAILABLE})
        with pytest.raises(TokenUnavailable, match=r"no HSM serves.*(?i:device).*(?i:device)"):
            await fleet.encrypt(TokenKey("demo-key"), b"text", b"", deadline())
        for item in (a, b):
            item.tell()
        await until(lambda: all(instance.serving for instance in fleet.instances))
        await round_trip(fleet)


async def test_a_throttling_hsm_is_asked_again_within_the_deadline(make_faulty: Faulty, modules: Modules) -> None:
    a = make_faulty()
    async with fleet_of(modules, a) as fleet:
        await round_trip(fleet)
        a.tell("C_EncryptInit return 0x31 count=3")

        await round_trip(fleet)


async def test_an_hsm_that_only_throttles_is_busy_in_the_end(
    make_faulty: Faulty, modules: Modules, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So the last try, too, has time enough on a busy machine.
    monkeypatch.setattr(fleet_module, "_LEAST_SECONDS", 30)
    a = make_faulty()
    async with fleet_of(modules, a) as fleet:
        await round_trip(fleet)
        a.tell("C_EncryptInit return 0x31")

        with pytest.raises(HsmBusy):
            await fleet.encrypt(TokenKey("demo-key"), b"text", b"", deadline(30.2))


async def test_a_hedged_call_is_answered_by_the_faster_hsm(make_faulty: Faulty, modules: Modules) -> None:
    a, b = make_faulty(), make_faulty()
    async with fleet_of(modules, a, b) as fleet:
        await round_trip(fleet)
        a.tell("C_Encrypt hang")

        for _ in range(3):
            # Without hedging, the hung HSM would use up half of this deadline first, and all of the test's time.
            sealed = await fleet.encrypt(TokenKey("demo-key", hedge_after=0.02), b"text", b"", deadline(3600))
            assert sealed.ciphertext


async def test_calls_go_to_the_hsm_with_the_least_work(make_faulty: Faulty, modules: Modules) -> None:
    slow, fast = make_faulty(), make_faulty()
    async with fleet_of(modules, slow, fast) as fleet:
        await round_trip(fleet)
        slow.tell("C_Encrypt delay 1000")
        counts = {instance.id: 0 for instance in fleet.instances}
        for instance in fleet.instances:
            call = instance.call

            async def counted(work, until, share, call=call, name=instance.id):  # noqa: ANN001, ANN202
                counts[name] += 1
                return await call(work, until, share)

            instance.call = counted  # type: ignore[method-assign]

        async def stream() -> None:
            for _ in range(10):
                await fleet.encrypt(TokenKey("demo-key"), b"text", b"", deadline())

        await asyncio.gather(*(stream() for _ in range(4)))

        assert counts[fast.hsm.id] > 2 * counts[slow.hsm.id]


def let_the_first_fail(fleet: Fleet, error: HsmError, *, second_seconds: float) -> None:
    """Let the calls of the first HSM fail, which looks faster than the second one."""
    first, second = fleet.instances
    pretend_latency(first, 0.001)
    pretend_latency(second, second_seconds)

    async def fail(*_: object) -> Sealed:
        raise error

    first.call = fail  # type: ignore[method-assign, assignment]


def pretend_latency(instance: Instance, seconds: float) -> None:
    """Make an instance believe that its calls take so long."""
    calls = instance._pool.calls
    calls.latency = Latency()
    calls.latency.add(seconds)
    calls.tick(0.1)


async def test_hsms_that_need_more_than_half_of_the_deadline_answer_in_time(
    make_faulty: Faulty, modules: Modules
) -> None:
    a, b = make_faulty(), make_faulty()
    async with fleet_of(modules, a, b) as fleet:
        await round_trip(fleet)
        a.tell("C_Encrypt delay 1000")
        b.tell("C_Encrypt delay 1000")
        for instance in fleet.instances:
            pretend_latency(instance, 1.0)

        sealed = await fleet.encrypt(TokenKey("demo-key"), b"text", b"", deadline(1.9))

        assert sealed.ciphertext


@pytest.mark.parametrize("code", ["0x30", "0x31"])  # a device error; CKR_DEVICE_MEMORY, which asks for fewer calls
async def test_an_hsm_whose_last_calls_were_slow_is_tried_after_another_has_failed(
    make_faulty: Faulty, modules: Modules, code: str
) -> None:
    a, b = make_faulty(), make_faulty()
    async with fleet_of(modules, a, b) as fleet:
        await round_trip(fleet)
        first, second = fleet.instances
        a.tell(f"C_EncryptInit return {code}")
        pretend_latency(first, 0.001)
        pretend_latency(second, 3600.0)

        sealed = await fleet.encrypt(TokenKey("demo-key"), b"text", b"", deadline(20))

        assert sealed.ciphertext


async def test_an_hsm_that_cannot_answer_in_the_time_that_is_left_is_not_tried_after_another_was_busy(
    make_faulty: Faulty, modules: Modules
) -> None:
    a, b = make_faulty(), make_faulty()
    async with fleet_of(modules, a, b) as fleet:
        await round_trip(fleet)
        let_the_first_fail(fleet, HsmBusy("the queue is full"), second_seconds=3600.0)

        with pytest.raises(HsmBusy, match="the queue is full"):
            await fleet.encrypt(TokenKey("demo-key"), b"text", b"", deadline())
        assert fleet.instances[1].load == 0


async def test_an_hsm_whose_slow_calls_are_long_ago_is_tried_after_another_was_busy_and_one_call_shows_that_it_is_fast(
    make_faulty: Faulty, modules: Modules
) -> None:
    """A soak found 38 requests refused: one HSM began to hang, and the other one had recovered 2 s before."""
    a, b = make_faulty(), make_faulty()
    async with fleet_of(modules, a, b) as fleet:
        await round_trip(fleet)
        let_the_first_fail(fleet, HsmBusy("the queue is full"), second_seconds=3600.0)
        fleet.instances[1]._pool.calls.latency._sampled_at -= 1.1

        assert await fleet.encrypt(TokenKey("demo-key"), b"text", b"", deadline())
        assert len(await encrypt_in_parallel(fleet, "demo-key")) == 12


async def test_after_an_error_all_requests_go_to_an_hsm_whose_calls_were_slow_before(
    make_faulty: Faulty, modules: Modules
) -> None:
    """It refuses what exceeds its sessions as long as its average says that it is slow; a soak found 19 such errors."""
    a, b = make_faulty(), make_faulty()
    async with fleet_of(modules, a, b) as fleet:
        await encrypt_in_parallel(fleet, "demo-key")
        let_the_first_fail(fleet, TokenUnavailable("the module does not list its slots"), second_seconds=600.0)

        assert len(await encrypt_in_parallel(fleet, "demo-key")) == 12


async def test_two_overloaded_slow_hsms_stay_in_service_and_refuse_as_busy(
    make_faulty: Faulty, modules: Modules
) -> None:
    """``benchmarks/overload.py`` measures how many requests they answer."""
    a, b = make_faulty(), make_faulty()
    outcomes: Counter[str] = Counter()
    async with fleet_of(modules, a, b) as fleet:
        await round_trip(fleet)
        a.tell("C_Encrypt delay 50")
        b.tell("C_Encrypt delay 50")

        async def request() -> None:
            try:
                await fleet.encrypt(TokenKey("demo-key"), b"text", b"", deadline(0.2))
                outcomes["answered"] += 1
            except HsmError as error:
                outcomes[type(error).__name__] += 1

        requests = []
        for _ in range(300):
            requests.append(asyncio.create_task(request()))
            await asyncio.sleep(0.003)
        await asyncio.gather(*requests)

        assert set(outcomes) <= {"answered", "HsmBusy", "DeadlinePassed"}
        assert outcomes["answered"]
        assert outcomes["HsmBusy"]
        assert [(item.serving, item.returns, item.stuck_sessions) for item in fleet.instances] == [(True, 1, 0)] * 2
        a.tell()
        b.tell()
        await round_trip(fleet)


@pytest.mark.parametrize("silent", [True, False])
async def test_a_key_made_anew_under_its_label_on_a_lone_hsm_is_refused(
    make_faulty: Faulty, modules: Modules, pin: str, silent: bool
) -> None:
    """Otherwise all older ciphertexts would be lost without a word."""
    a = make_faulty()
    change_key(a, pin, "split", bytes(range(32)), silent=silent)
    async with fleet_of(modules, a) as fleet:
        await round_trip(fleet, label="split")
        change_key(a, pin, "split", None)
        change_key(a, pin, "split", bytes(range(1, 33)), silent=silent)

        with pytest.raises(KeyDiffers):
            await fleet.encrypt(TokenKey("split"), b"text", b"", deadline())


async def test_a_fingerprint_that_takes_long_to_make_is_no_failure_of_the_hsm(
    make_faulty: Faulty, modules: Modules
) -> None:
    """Requests wait for it until their deadline; it is made once, and goes on."""
    a = make_faulty()
    async with fleet_of(modules, a) as fleet:
        await first_check(fleet)
        a.tell("C_Encrypt delay 500 count=1")
        outcomes = await asyncio.gather(
            *(fleet.encrypt(TokenKey("demo-key"), b"text", b"", deadline(0.1)) for _ in range(48)),
            return_exceptions=True,
        )
        assert {type(outcome) for outcome in outcomes} == {HsmBusy}

        await round_trip(fleet)
        assert [instance.returns for instance in fleet.instances] == [1]
        assert not fleet.instances[0].troubled


async def test_very_many_key_stores_on_one_hsm_get_their_fingerprints(make_faulty: Faulty, modules: Modules) -> None:
    hsm = make_faulty()
    instance = Instance(hsm.hsm, modules)
    records = FingerprintRecords(hsm.control.parent / "state", "dev")
    fleets = [Fleet([instance], records, lambda _: True) for _ in range(2000)]
    for fleet in fleets:
        fleet.require_fingerprints(["no such key"])
    instance.start()
    try:
        await until(lambda: instance.serving)
        await until(lambda: all(fleet.ready for fleet in fleets))
    finally:
        instance.stop()


async def test_a_fleet_is_ready_once_the_named_keys_have_their_fingerprints(
    make_faulty: Faulty, modules: Modules
) -> None:
    a = make_faulty()
    a.tell("C_FindObjectsInit hang")
    records = FingerprintRecords(a.control.parent, "dev")
    instance = Instance(a.hsm, modules)
    fleet = Fleet([instance], records, lambda _: True)
    fleet.require_fingerprints(["demo-key", "no such key"])
    instance.start()
    try:
        await until(lambda: instance.serving)
        assert not fleet.ready
        a.tell()
        await until(lambda: fleet.ready)
        assert records.get("demo-key") is not None
    finally:
        instance.stop()
