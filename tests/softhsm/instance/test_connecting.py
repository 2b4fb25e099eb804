"""How an HSM is connected: slowly, with few sessions, in another slot, and what the PIN guard learns from it."""

import asyncio
import ctypes
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from fault_support import FaultyHsm, change_key, is_quiet, until, with_second_token

from xksproxy.config.object_names import ObjectName
from xksproxy.config.pins import read_pin
from xksproxy.config.secret import Secret
from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import HsmBusy, HsmError, LoginBarred, LoginRefused, TokenUnavailable
from xksproxy.hsm.instance.gcm_requests import Encryption
from xksproxy.hsm.instance.health import Status, health_of
from xksproxy.hsm.instance.instance import Instance, State
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.state.usage import UsageBook

Faulty = Callable[..., FaultyHsm]

CONNECTING = [
    "C_Initialize",
    "C_GetSlotList",
    "C_GetTokenInfo",
    "C_OpenSession",
    "C_GetSessionInfo",
    "C_Login",
    "C_GenerateRandom",
    "C_GenerateKey",
    "C_EncryptInit",
    "C_Encrypt",
    "C_DecryptInit",
    "C_Decrypt",
]
"""What is called before an HSM serves."""

SERVING = [
    "*",
    "C_GetTokenInfo",
    "C_OpenSession",
    "C_CloseSession",
    "C_GetSessionInfo",
    "C_GetAttributeValue",
    "C_FindObjectsInit",
    "C_FindObjects",
    "C_FindObjectsFinal",
    "C_GenerateRandom",
    "C_GenerateKey",
    "C_EncryptInit",
    "C_Encrypt",
    "C_DecryptInit",
    "C_Decrypt",
]
"""What is called while it serves."""


def later() -> Deadline:
    return Deadline.after(60)


@pytest.fixture
def modules(tmp_path: Path) -> Modules:
    """For the HSMs of one test, with an empty state directory."""
    (tmp_path / "state").mkdir(0o700)
    return Modules(PinGuard(tmp_path / "state"), UsageBook(tmp_path / "state"))


@asynccontextmanager
async def started(modules: Modules, *faulty: FaultyHsm, sessions: int = 2) -> AsyncIterator[list[Instance]]:
    instances = [
        Instance(msgspec.structs.replace(item.hsm, sessions=sessions, check_interval_s=50), modules) for item in faulty
    ]
    for instance in instances:
        instance.start()
    try:
        yield instances
    finally:
        for item in faulty:
            item.tell()
        for instance in instances:
            instance.stop()
        for instance in instances:
            await instance.ended(20)


async def round_trip(instance: Instance) -> None:
    sealed = await instance.call(lambda session: session.encrypt("demo-key", b"text", b""), later())
    assert await instance.call(lambda session: session.decrypt("demo-key", sealed, b""), later()) == b"text"


def open_sessions(faulty: FaultyHsm) -> int:
    """Sessions of this process, as the fault module counts them."""
    return int(ctypes.CDLL(faulty.hsm.module).fault_open_sessions())


# One HSM never waits for another


async def test_an_hsm_that_is_initialised_slowly_reads_its_own_environment_variables(
    make_faulty: Faulty, modules: Modules
) -> None:
    """SoftHSM2 finds its tokens by SOFTHSM2_CONF, which is another file for each of the two and one variable."""
    slow, other = make_faulty(), make_faulty()
    pin = read_pin(slow.hsm).reveal()
    change_key(slow, pin, "only-slow", bytes(32))
    change_key(other, pin, "only-other", bytes(32))
    slow.tell("C_Initialize delay 1000")
    async with started(modules, slow, other) as instances:
        await until(lambda: all(instance.serving for instance in instances))

        assert [instance.keys.labels & {"only-slow", "only-other"} for instance in instances] == [
            {"only-slow"},
            {"only-other"},
        ]


@pytest.mark.parametrize("function", CONNECTING)
async def test_an_hsm_that_connects_slowly_says_where_it_is_and_leaves_the_other_hsm_alone(
    make_faulty: Faulty, modules: Modules, function: str
) -> None:
    slow, other = make_faulty(connect_timeout_s=1), make_faulty()
    slow.tell(f"{function} hang")
    async with started(modules, slow, other) as (first, second):
        await until(lambda: second.serving)
        await round_trip(second)
        await until(lambda: f"in {function} since" in first.reason)
        await until(lambda: "longer than 1 s" in first.reason)
        assert not first.needs_new_process

        slow.tell()
        await until(lambda: first.serving)
        await round_trip(first)


@pytest.mark.parametrize("function", SERVING)
async def test_an_hsm_that_hangs_later_costs_the_other_no_answer(
    make_faulty: Faulty, modules: Modules, function: str
) -> None:
    hung, other = make_faulty(), make_faulty()
    async with started(modules, hung, other) as (first, second):
        await until(lambda: first.serving and second.serving)
        hung.tell(f"{function} hang")
        calls = [
            asyncio.create_task(first.call(work, Deadline.after(1)))
            for work in (
                lambda session: session.describe_key("demo-key"),
                lambda session: session.decrypt("demo-key", session.encrypt("demo-key", b"text", b""), b""),
                HsmSession.self_test,
                HsmSession.list_keys,
            )
        ]
        for _ in range(20):
            await asyncio.gather(*(round_trip(second) for _ in range(4)))
        await asyncio.gather(*calls, return_exceptions=True)

        hung.tell()
        await until(lambda: first.serving and not first.stuck_sessions)
        await round_trip(first)


async def test_an_hsm_whose_next_log_in_is_slow_is_out_of_service_and_says_where_it_is(
    make_faulty: Faulty, modules: Modules
) -> None:
    slow = make_faulty()
    async with started(modules, slow) as (instance,):
        await until(lambda: is_quiet(instance))
        slow.tell("C_Login hang", "drop")
        with pytest.raises(HsmBusy):
            await instance.call(HsmSession.self_test, Deadline.after(0.5))
        await until(lambda: not instance.serving)
        await until(lambda: "it has no session; connecting since" in instance.reason)
        assert "logging in, in C_Login since" in instance.reason

        slow.tell()
        await until(lambda: instance.serving)
        await round_trip(instance)


def test_two_paths_of_one_file_are_one_module(make_faulty: Faulty, modules: Modules, tmp_path: Path) -> None:
    hsm = make_faulty().hsm
    link = tmp_path / "link.so"
    link.symlink_to(hsm.module)

    assert modules.module(hsm) is modules.module(msgspec.structs.replace(hsm, module=str(link)))


# What the PIN guard learns


@pytest.mark.parametrize(
    "fault",
    ["C_OpenSession return 0x31", "C_OpenSession return 0xb1", "C_OpenSession return 0x30"]
    + [f"C_Login return {code}" for code in ("0x2", "0x5", "0x6", "0x30", "0x32", "0xb3", "0x80000001")],
)
async def test_an_hsm_that_fails_at_its_first_log_in_is_not_barred(
    make_faulty: Faulty, modules: Modules, fault: str
) -> None:
    faulty = make_faulty()
    faulty.tell(fault)
    async with started(modules, faulty) as (instance,):
        for _ in range(3):
            await until(lambda: instance._connector._failures > 0)
            assert "refused" not in instance.reason
        faulty.tell()

        await until(lambda: instance.serving)


@pytest.mark.parametrize("code", ["0x30", "0xa4", "0xa0", "0x101", "0xb3"])
def test_a_log_in_that_fails_leaves_no_session_behind(make_faulty: Faulty, modules: Modules, code: str) -> None:
    faulty = make_faulty()
    faulty.tell(f"C_Login return {code}")
    for _ in range(3):
        with pytest.raises(HsmError):
            modules.connect(faulty.hsm, read_pin(faulty.hsm))

    assert open_sessions(faulty) == 0


def test_a_process_that_is_logged_in_already_learns_nothing_about_the_pin(
    make_faulty: Faulty, modules: Modules, tmp_path: Path
) -> None:
    faulty = make_faulty()
    faulty.tell("C_Login return 0x100")
    modules.connect(faulty.hsm, read_pin(faulty.hsm))

    (record,) = (tmp_path / "state").glob("pin-*.json")
    assert "accepted" not in record.read_text()


@pytest.mark.parametrize(
    ("flags", "message"), [("40000", "is locked"), ("20000", "locks its user PIN at the next wrong one")]
)
def test_the_flags_of_the_token_are_respected_before_an_unknown_pin_is_tried(
    make_faulty: Faulty, modules: Modules, flags: str, message: str
) -> None:
    faulty = make_faulty()
    faulty.tell(f"flags {flags}", "C_Login segfault")
    with pytest.raises(LoginBarred, match=message):
        modules.connect(faulty.hsm, read_pin(faulty.hsm))


def test_a_pin_that_was_accepted_is_used_in_spite_of_a_final_try(make_faulty: Faulty, modules: Modules) -> None:
    faulty = make_faulty()
    modules.connect(faulty.hsm, read_pin(faulty.hsm))
    modules.log_out(faulty.hsm)
    faulty.tell("flags 20000")

    modules.connect(faulty.hsm, read_pin(faulty.hsm))


@pytest.mark.parametrize("pin", ["123", "1" * 256, "1" * 5000, "\udc80234"])
def test_a_pin_that_the_token_cannot_have_costs_no_log_in(make_faulty: Faulty, modules: Modules, pin: str) -> None:
    faulty = make_faulty()
    faulty.tell("C_Login segfault")

    with pytest.raises(LoginBarred, match="no log-in is tried") as raised:
        modules.connect(faulty.hsm, Secret(pin))
    assert pin not in str(raised.value)


def test_a_second_hsm_of_a_token_with_another_pin_costs_no_log_in(make_faulty: Faulty, modules: Modules) -> None:
    faulty = make_faulty()
    modules.connect(faulty.hsm, read_pin(faulty.hsm))
    faulty.tell("C_Login segfault")
    second = msgspec.structs.replace(
        faulty.hsm, id="second", token=None, serial=modules.connect(faulty.hsm, None).info.serial
    )

    modules.connect(second, None)
    with pytest.raises(LoginBarred, match=r"is on the same token, serial .*, with another PIN; no log-in is tried"):
        modules.connect(msgspec.structs.replace(second, id="third", pin="wrong-pin"), Secret("wrong-pin"))


def test_a_wrong_pin_is_tried_once(make_faulty: Faulty, modules: Modules) -> None:

    faulty = make_faulty()
    with pytest.raises(LoginRefused, match="refuses the PIN: CKR_PIN_INCORRECT"):
        modules.connect(faulty.hsm, Secret("wrong-pin"))
    faulty.tell("C_Login segfault")
    with pytest.raises(LoginRefused, match="refused before"):
        modules.connect(faulty.hsm, Secret("wrong-pin"))


# As many sessions as there are


@pytest.mark.parametrize(("given", "usable"), [(4, 3), (2, 1), (1, 1)])
async def test_with_fewer_sessions_than_configured_every_call_is_answered_and_health_says_why(
    make_faulty: Faulty, modules: Modules, given: int, usable: int
) -> None:
    """One of them is the session of the log-in, which works too if it is the only one."""
    faulty = make_faulty()
    faulty.tell(f"sessions {given}")
    async with started(modules, faulty, sessions=4) as (instance,):
        await until(lambda: instance.serving and instance.sessions == usable and bool(instance._connector.shortage))
        for _ in range(5):
            await asyncio.gather(*(round_trip(instance) for _ in range(8)))

        assert instance.returns == 1
        health = health_of(instance)
        assert health.status is Status.DEGRADED
        assert f"{usable} of 4 sessions: the token gives no more" in health.reason
        faulty.tell()
        await until(lambda: instance.sessions == (4 if given > 1 else instance.sessions))


@pytest.mark.parametrize("code", ["2", "31", "b4", "201"])
async def test_every_return_value_that_means_no_room_is_a_shortage(
    make_faulty: Faulty, modules: Modules, code: str
) -> None:
    faulty = make_faulty()
    faulty.tell(f"sessions 3 {code}")
    async with started(modules, faulty, sessions=4) as (instance,):
        await until(lambda: instance.serving and "the token gives no more" in health_of(instance).reason)
        await round_trip(instance)


async def test_a_session_that_fails_to_open_costs_the_others_nothing_and_is_tried_again_after_growing_pauses(
    make_faulty: Faulty, modules: Modules
) -> None:
    """Some tokens that have no room for a session say no more than that they fail."""
    faulty = make_faulty()
    faulty.tell("sessions 3 30")
    async with started(modules, faulty, sessions=4) as (instance,):
        await until(lambda: instance.serving and instance.sessions == 2)
        module_lock = modules.module(faulty.hsm).module_lock
        generation = module_lock.generation
        await until(lambda: instance._connector._pauses > 4)

        assert (instance.sessions, instance.returns, module_lock.generation) == (2, 1, generation)
        assert "2 of 4 sessions: no session: CKR_DEVICE_ERROR" in health_of(instance).reason
        await round_trip(instance)
        faulty.tell()
        await until(lambda: instance.sessions == 4)


# The token is found by what it is


async def test_a_token_whose_slot_moves_is_found_again(make_faulty: Faulty, modules: Modules) -> None:
    faulty = make_faulty()
    async with started(modules, faulty) as (instance,):
        await until(lambda: is_quiet(instance))
        faulty.tell("shift 1000", "drop")

        await round_trip(instance)
        assert instance.returns == 1


async def test_a_token_whose_sessions_are_gone_is_looked_for_in_another_slot_without_finalising_the_module(
    make_faulty: Faulty, modules: Modules
) -> None:
    faulty = make_faulty()
    async with started(modules, faulty) as (instance,):
        await until(lambda: is_quiet(instance))
        instance.may_reinitialize = lambda _: False
        faulty.tell("absent", "drop")
        with pytest.raises((TokenUnavailable, HsmBusy)):
            await instance.call(lambda session: session.encrypt("demo-key", b"text", b""), Deadline.after(1))
        await until(lambda: instance.state is State.DOWN)

        faulty.tell("shift 7")
        await until(lambda: instance.serving)
        await round_trip(instance)


async def works(instance: Instance) -> None:
    await instance.call(HsmSession.self_test, later())


async def test_two_tokens_that_swap_their_slots_are_found_again(make_faulty: Faulty, modules: Modules) -> None:
    one = make_faulty()
    async with started(modules, one, with_second_token(one)) as (first, second):
        first.may_reinitialize = second.may_reinitialize = lambda _: False
        await until(lambda: is_quiet(first) and is_quiet(second))
        serials = [instance.info.serial for instance in (first, second) if instance.info]
        one.tell("swap", "drop")

        await round_trip(first)
        await works(second)
        assert [instance.info.serial for instance in (first, second) if instance.info] == serials


async def test_a_token_that_vanishes_and_returns_in_another_slot_serves_while_the_other_token_of_its_module_did(
    make_faulty: Faulty, modules: Modules
) -> None:
    one = make_faulty()
    async with started(modules, one, with_second_token(one)) as both:
        for instance in both:
            instance.may_reinitialize = lambda _: False
        await until(lambda: all(is_quiet(instance) for instance in both))
        one.tell("hide", "drop")
        for instance in both:
            with suppress(HsmError):
                await instance.call(HsmSession.self_test, Deadline.after(2))
        await until(lambda: [instance.state for instance in both].count(State.DOWN) == 1)
        await works(next(instance for instance in both if instance.serving))

        one.tell("swap", "hide")
        await until(lambda: [instance.state for instance in both].count(State.DOWN) == 1)
        one.tell("swap")
        await until(lambda: all(instance.serving for instance in both))
        await round_trip(both[0])
        await works(both[1])


async def test_of_two_tokens_with_one_label_none_is_used_unless_the_serial_is_set(
    make_faulty: Faulty, modules: Modules
) -> None:
    one = make_faulty()
    second = with_second_token(one)
    async with started(modules, one, second) as both:
        await until(lambda: all(is_quiet(instance) for instance in both))
        serials = [instance.info.serial for instance in both if instance.info]
        one.tell(f"label {one.hsm.token}", "drop")
        with suppress(HsmError):
            await both[0].call(HsmSession.self_test, Deadline.after(2))
        await until(lambda: both[0].state is State.DOWN)
        assert f"2 tokens fit '{one.hsm.token}'" in both[0].reason
        assert all(f"serial '{serial}' in slot" in both[0].reason for serial in serials)

        by_serial = msgspec.structs.replace(one.hsm, id="by-serial", serial=serials[0])
        async with started(modules, FaultyHsm(by_serial, Path(f"{one.control}-unused"))) as (instance,):
            await until(lambda: instance.serving)
            await round_trip(instance)


# Modules that are not perfect


@pytest.mark.parametrize("rule", ["attribute fail 90", "attribute stop 120", "attribute stop 90"])
async def test_keys_are_found_where_one_attribute_cannot_be_read(
    make_faulty: Faulty, modules: Modules, rule: str
) -> None:
    faulty = make_faulty()
    faulty.tell(rule)
    async with started(modules, faulty) as (instance,):
        await until(lambda: "demo-key" in instance.keys.labels)
        description = await instance.call(lambda session: session.describe_key("demo-key"), later())

        assert (description.is_aes_256, description.can_encrypt, description.can_decrypt) == (True, True, True)


@pytest.mark.parametrize("kind", ["3", "100", "104", "105", "161"])
async def test_a_key_is_not_described_without_an_attribute_that_could_not_be_read(
    make_faulty: Faulty, modules: Modules, kind: str
) -> None:
    """Otherwise a token that fails for a moment would make it a key of another name or type, or with fewer usages."""
    faulty = make_faulty()
    async with started(modules, faulty) as (instance,):
        await until(lambda: is_quiet(instance))
        faulty.tell(f"attribute fail {kind}")
        for read in (HsmSession.read_key, HsmSession.describe_key):
            with pytest.raises(TokenUnavailable, match="C_GetAttributeValue: CKR_FUNCTION_FAILED"):
                await instance.call(lambda session, read=read: read(session, "demo-key"), later())  # type: ignore[misc]


async def test_a_key_that_is_named_by_its_id_is_not_missing_if_that_cannot_be_read(
    make_faulty: Faulty, modules: Modules
) -> None:
    faulty = make_faulty()
    name = str(ObjectName(None, b"\x0a\x1b"))
    async with started(modules, faulty) as (instance,):
        await until(lambda: is_quiet(instance))
        await instance.call(
            lambda session: session.create_key(name, bits=256, encrypt=True, decrypt=True, default_label="by-id"),
            later(),
        )
        faulty.tell("attribute fail 102")
        for read in (HsmSession.read_key, HsmSession.describe_key):
            with pytest.raises(TokenUnavailable, match="C_GetAttributeValue: CKR_FUNCTION_FAILED"):
                await instance.call(lambda session, read=read: read(session, name), later())  # type: ignore[misc]

        assert (await instance.call(lambda session: session.describe_key("by-id"), later())).is_aes_256


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        ("C_OpenSession return 0x31", "no session: CKR_DEVICE_MEMORY"),
        ("C_OpenSession return 0x201", "no session: CKR_TOKEN_RESOURCE_EXCEEDED"),
        ("C_OpenSession return 0x80000b1", "no session: CK_RV 0x080000b1"),
        ("C_GenerateKey return 0x30", "the token makes no AES key: CKR_DEVICE_ERROR"),
    ],
)
async def test_a_reason_has_the_name_of_the_return_value(
    make_faulty: Faulty, modules: Modules, rule: str, name: str
) -> None:
    faulty = make_faulty()
    faulty.tell(rule)
    async with started(modules, faulty) as (instance,):
        await until(lambda: name in instance.reason)


async def test_a_module_without_a_generator_serves_with_the_systems(make_faulty: Faulty, modules: Modules) -> None:
    faulty = make_faulty(iv_source="system")
    faulty.tell("missing C_GenerateRandom")
    async with started(modules, faulty) as (instance,):
        await until(lambda: instance.serving)
        await round_trip(instance)


@pytest.mark.parametrize("function", ["C_GenerateRandom", "C_FindObjects", "C_OpenSession"])
async def test_a_function_that_a_module_lacks_is_named(make_faulty: Faulty, modules: Modules, function: str) -> None:
    faulty = make_faulty()
    faulty.tell(f"missing {function}")
    async with started(modules, faulty) as (instance,):
        await until(lambda: function in instance.reason)


# Generators


async def test_a_generator_that_repeats_itself_is_found_before_anything_is_served(
    make_faulty: Faulty, modules: Modules
) -> None:
    faulty = make_faulty()
    faulty.tell("random constant")
    async with started(modules, faulty) as (instance,):
        await until(lambda: instance.state is State.DOWN)

        assert "random generator repeats itself" in instance.reason
        assert instance.returns == 0


async def test_a_generator_that_begins_to_repeat_itself_takes_the_hsm_out_of_service(
    make_faulty: Faulty, modules: Modules
) -> None:
    faulty = make_faulty()
    ivs: Counter[bytes] = Counter()
    async with started(modules, faulty, sessions=1) as (instance,):
        await until(lambda: is_quiet(instance))
        faulty.tell("random constant")
        while instance.serving:
            with suppress(TokenUnavailable):
                sealed = await instance.call(Encryption("demo-key", b"text", b"", None, None), later())
                ivs[sealed.iv] += 1

        assert max(ivs.values()) == 1
        await until(lambda: "random generator repeats itself" in instance.reason)


# Slow is not dead, and a passing error is no failure


async def test_an_overloaded_slow_hsm_stays_in_service_and_refuses_as_busy(
    make_faulty: Faulty, modules: Modules
) -> None:
    faulty = make_faulty()
    outcomes: Counter[str] = Counter()
    async with started(modules, faulty) as (instance,):
        await until(lambda: is_quiet(instance))
        await round_trip(instance)
        faulty.tell("C_Encrypt delay 40")

        async def request() -> None:
            try:
                await instance.call(Encryption("demo-key", b"text", b"", None, None), Deadline.after(0.2))
                outcomes["answered"] += 1
            except HsmError as error:
                outcomes[type(error).__name__] += 1

        requests = []
        for _ in range(150):
            requests.append(asyncio.create_task(request()))
            await asyncio.sleep(0.01)
        await asyncio.gather(*requests)

        assert set(outcomes) <= {"answered", "HsmBusy", "DeadlinePassed"}
        assert outcomes["HsmBusy"]
        assert (instance.serving, instance.returns, instance.stuck_sessions) == (True, 1, 0)
        faulty.tell()
        await round_trip(instance)


async def test_an_hsm_that_is_too_slow_for_verified_encryption_says_so(make_faulty: Faulty, modules: Modules) -> None:
    faulty = make_faulty()
    async with started(modules, faulty) as (instance,):
        await until(lambda: is_quiet(instance))
        faulty.tell("C_Encrypt delay 300", "C_Decrypt delay 300")
        for _ in range(12):  # the latency is a moving average, which starts from the fast calls before
            await round_trip(instance)
            if any("Encrypt requests with an integrity value cannot succeed" in text for text in instance.degraded):
                return
    raise AssertionError(instance.degraded)


async def test_five_percent_of_device_errors_cost_hardly_an_answer(make_faulty: Faulty, modules: Modules) -> None:
    faulty = make_faulty()
    failures = 0
    async with started(modules, faulty) as (instance,):
        await until(lambda: is_quiet(instance))
        faulty.tell("C_Encrypt return 0x30 rate=0.05", "C_Decrypt return 0x30 rate=0.05")
        for _ in range(400):
            try:
                await round_trip(instance)
            except TokenUnavailable:
                failures += 1

        assert instance.returns == 1
    assert failures <= 2


async def test_a_session_is_not_taken_by_two_threads(make_faulty: Faulty, modules: Modules) -> None:
    used: set[int] = set()
    faulty = make_faulty()
    async with started(modules, faulty) as (instance,):
        await until(lambda: instance.sessions == 2)

        def note(session: HsmSession) -> None:
            used.add(session.binding.handle)

        await asyncio.gather(*(instance.call(note, later()) for _ in range(100)))
        connection = instance._connector._connection
        assert connection is not None
        assert connection.anchor.handle not in used
