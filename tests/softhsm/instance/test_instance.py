"""Calls with a deadline, the workers that answer them, and whether an HSM serves."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from fault_support import FaultyHsm, is_quiet, until
from support import make_environment

from xksproxy.config.model import Hsm
from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import (
    CiphertextRejected,
    DataTooLarge,
    DeadlinePassed,
    HsmBusy,
    KeyMissing,
    SessionLost,
    TokenUnavailable,
)
from xksproxy.hsm.instance.health import Status, health_of
from xksproxy.hsm.instance.instance import Instance, State
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.keys import Sealed
from xksproxy.hsm.pkcs11.modules import Modules

Faulty = Callable[..., FaultyHsm]


def soon() -> Deadline:
    """For calls that hang; far enough for an idle worker to take the call before."""
    return Deadline.after(1)


def later() -> Deadline:
    return Deadline.after(60)


@asynccontextmanager
async def started(hsm: Hsm, modules: Modules) -> AsyncIterator[Instance]:
    instance = Instance(hsm, modules)
    instance.start()
    try:
        yield instance
    finally:
        instance.stop()


@asynccontextmanager
async def serving(hsm: Hsm, modules: Modules, sessions: int = 2) -> AsyncIterator[Instance]:
    """One whose first check is over, and the next one far away: it has no calls but those of the test."""
    quiet = msgspec.structs.replace(hsm, sessions=sessions, check_interval_s=600)
    async with started(quiet, modules) as instance:
        await until(lambda: is_quiet(instance))
        yield instance


async def test_what_is_encrypted_decrypts(hsm: Hsm, modules: Modules) -> None:
    async with serving(hsm, modules) as instance:
        sealed = await instance.call(lambda session: session.encrypt("demo-key", b"text", b"aad"), later())

        assert await instance.call(lambda session: session.decrypt("demo-key", sealed, b"aad"), later()) == b"text"


async def test_errors_of_the_session_reach_the_caller(hsm: Hsm, modules: Modules) -> None:
    async with serving(hsm, modules) as instance:
        with pytest.raises(KeyMissing):
            await instance.call(lambda session: session.describe_key("no such key"), later())


def encrypt(session: HsmSession) -> Sealed:
    return session.encrypt("demo-key", b"text", b"aad")


async def test_a_call_that_does_not_return_is_answered_at_its_deadline_and_its_worker_is_replaced(
    make_faulty: Faulty, modules: Modules
) -> None:
    faulty = make_faulty()
    async with serving(faulty.hsm, modules, sessions=1) as instance:
        faulty.tell("C_FindObjectsInit hang", "C_EncryptInit hang")
        with pytest.raises(DeadlinePassed):
            await instance.call(encrypt, Deadline.after(0.2))
        await until(lambda: instance.stuck_sessions == 1)

        await instance.call(HsmSession.logged_in, later())
        faulty.tell()
        await until(lambda: instance.stuck_sessions == 0)
        await instance.call(HsmSession.self_test, later())


async def test_a_call_that_outlasts_its_deadline_and_returns_keeps_its_session_and_is_no_failure(
    make_faulty: Faulty, modules: Modules
) -> None:
    """The deadline of a request says nothing about the HSM."""
    faulty = make_faulty()
    async with serving(faulty.hsm, modules, sessions=1) as instance:
        (worker,) = instance._pool._free.values()
        session = worker._session
        faulty.tell("C_EncryptInit delay 300")
        for _ in range(5):
            with pytest.raises((DeadlinePassed, HsmBusy)):
                await instance.call(encrypt, Deadline.after(0.1))

        faulty.tell()
        await instance.call(encrypt, later())
        assert (instance.serving, instance.stuck_sessions, instance.troubled, instance.returns) == (True, 0, False, 1)
        assert worker._session is session


async def test_time_outside_the_module_is_not_held_against_the_hsm(hsm: Hsm, modules: Modules) -> None:
    release = threading.Event()
    async with serving(hsm, modules, sessions=1) as instance:
        try:
            with pytest.raises(DeadlinePassed):
                await instance.call(lambda _: release.wait(), Deadline.after(3))

            assert instance.stuck_sessions == 0
            assert instance.serving
        finally:
            release.set()


async def test_when_every_session_is_stuck_the_instance_is_out_of_service_until_the_calls_return(
    make_faulty: Faulty, modules: Modules
) -> None:
    faulty = make_faulty(connect_timeout_s=1)
    async with serving(faulty.hsm, modules, sessions=1) as instance:
        faulty.tell("C_FindObjectsInit hang", "C_EncryptInit hang")
        for stuck in (1, 2):
            with pytest.raises(DeadlinePassed):
                await instance.call(encrypt, Deadline.after(0.2))
            await until(lambda stuck=stuck: instance.stuck_sessions == stuck)  # type: ignore[misc]

        assert not instance.serving
        assert "stuck" in instance.reason
        await until(lambda: instance.needs_new_process)
        faulty.tell()
        await until(lambda: instance.serving)
        assert not instance.needs_new_process


async def test_a_call_beside_the_sessions_that_hangs_changes_no_health_and_needs_a_new_process_once_none_serves(
    make_faulty: Callable[..., FaultyHsm], modules: Modules
) -> None:
    faulty = make_faulty(connect_timeout_s=1)
    release = threading.Event()
    async with serving(faulty.hsm, modules) as instance:
        call = asyncio.create_task(asyncio.to_thread(instance.on_own_session, lambda _: release.wait()))
        await until(lambda: instance.needs_new_process)
        assert (instance.serving, instance.degraded, instance.stuck_sessions) == (True, (), 0)
        await instance.call(HsmSession.self_test, later())

        release.set()
        await call
        assert not instance.needs_new_process


async def test_a_call_that_no_worker_could_take_in_time_is_refused_as_busy_and_never_run(
    hsm: Hsm, modules: Modules
) -> None:
    release, ran = threading.Event(), threading.Event()
    async with serving(hsm, modules, sessions=1) as instance:
        hung = asyncio.create_task(instance.call(lambda _: release.wait(), later()))
        await asyncio.sleep(0)
        with pytest.raises(HsmBusy):
            await instance.call(lambda _: ran.set(), soon())
        release.set()
        await hung
        await instance.call(HsmSession.self_test, later())

    assert not ran.is_set()


async def test_the_event_loop_is_not_blocked_by_hsm_calls(hsm: Hsm, modules: Modules) -> None:
    entered, release = threading.Event(), threading.Event()

    def work(_: HsmSession) -> bool:
        entered.set()
        return release.wait(60)

    async with serving(hsm, modules, sessions=1) as instance:
        call = asyncio.create_task(instance.call(work, later()))
        await asyncio.to_thread(entered.wait)
        release.set()  # reached only because the loop runs while the call does not return

        assert await call


async def test_a_lost_session_is_replaced_and_the_call_repeated_once(hsm: Hsm, modules: Modules) -> None:
    used: list[HsmSession] = []

    def lose_the_first(session: HsmSession) -> str:
        used.append(session)
        if len(used) == 1:
            raise SessionLost("CKR_SESSION_HANDLE_INVALID")
        return "done"

    async with serving(hsm, modules, sessions=1) as instance:
        assert await instance.call(lose_the_first, later()) == "done"

    assert used[0] is not used[1]


async def test_a_session_that_is_lost_twice_is_an_error(hsm: Hsm, modules: Modules) -> None:
    def lose(_: HsmSession) -> None:
        raise SessionLost("CKR_SESSION_HANDLE_INVALID")

    async with serving(hsm, modules) as instance:
        with pytest.raises(SessionLost):
            await instance.call(lose, later())


async def test_an_unexpected_exception_in_a_call_is_an_answer_too(hsm: Hsm, modules: Modules) -> None:
    def fail(_: HsmSession) -> None:
        raise ZeroDivisionError

    async with serving(hsm, modules) as instance:
        with pytest.raises(TokenUnavailable, match="ZeroDivisionError"):
            await instance.call(fail, later())
        await instance.call(HsmSession.self_test, later())


async def test_calls_at_once_all_get_their_own_answer(hsm: Hsm, modules: Modules) -> None:
    async with serving(hsm, modules, sessions=4) as instance:

        async def one(number: int) -> bool:
            text = number.to_bytes(8, "big")
            sealed = await instance.call(lambda session: session.encrypt("demo-key", text, b""), later())
            return await instance.call(lambda session: session.decrypt("demo-key", sealed, b""), later()) == text

        assert all(await asyncio.gather(*(one(number) for number in range(300))))


async def test_an_absent_token_is_out_of_service_with_the_reason(hsm: Hsm, modules: Modules) -> None:
    absent = msgspec.structs.replace(hsm, id="absent", token="no such token")
    async with started(absent, modules) as instance:
        await until(lambda: instance.state is State.DOWN)

        assert "0 tokens fit 'no such token'; expected one; the module has: serial '" in instance.reason
        assert f"(label '{hsm.token}', " in instance.reason
        assert "label ''" not in instance.reason  # that of a slot with a token that was never initialised


async def test_a_module_without_any_token_says_so(make_faulty: Faulty, modules: Modules) -> None:
    faulty = make_faulty()
    faulty.tell("absent")
    async with started(faulty.hsm, modules) as instance:
        await until(lambda: instance.state is State.DOWN)

        assert instance.reason.startswith(f"0 tokens fit '{faulty.hsm.token}'; expected one; the module has none")


async def test_all_sessions_dropped_by_the_hsm_heal_within_the_next_call(make_faulty: Faulty, modules: Modules) -> None:
    """C_CloseAllSessions also loses the log-in."""
    faulty = make_faulty()
    async with serving(faulty.hsm, modules) as instance:
        sealed = await instance.call(lambda session: session.encrypt("demo-key", b"text", b""), later())
        faulty.tell("drop")

        opened = await instance.call(lambda session: session.decrypt("demo-key", sealed, b""), later())

        assert opened == b"text"
        assert instance.serving


@pytest.mark.parametrize("code", ["0x30", "0x32", "0x5", "0x80000001"])
async def test_an_hsm_that_fails_three_times_in_a_row_is_out_of_service_and_heals(
    make_faulty: Faulty, modules: Modules, code: str
) -> None:
    faulty = make_faulty()
    async with serving(faulty.hsm, modules) as instance:
        faulty.tell(f"C_EncryptInit return {code}")
        for _ in range(6):  # three in a row; a check that began before may have ended well in between
            with pytest.raises(TokenUnavailable):
                await instance.call(lambda session: session.encrypt("demo-key", b"text", b""), later())
        assert not instance.serving

        faulty.tell()
        await until(lambda: instance.serving)
        await instance.call(lambda session: session.encrypt("demo-key", b"text", b""), later())


async def test_a_token_that_vanishes_and_returns_heals_by_initialising_the_module_again(
    make_faulty: Faulty, modules: Modules
) -> None:
    """SoftHSM2 never heals by itself from this."""
    faulty = make_faulty()
    tokens = Path(faulty.hsm.environment["SOFTHSM2_CONF"]).parent / "tokens"
    async with serving(faulty.hsm, modules) as instance:
        tokens.rename(tokens.with_name("gone"))
        for _ in range(6):
            with pytest.raises((TokenUnavailable, SessionLost)):
                await instance.call(lambda session: session.encrypt("demo-key", b"text", b""), later())
        await until(lambda: instance.state is State.DOWN)

        tokens.with_name("gone").rename(tokens)
        await until(lambda: instance.serving)
        await instance.call(lambda session: session.encrypt("demo-key", b"text", b""), later())


async def test_an_hsm_whose_sessions_ended_with_the_module_does_not_count_as_serving(
    make_faulty: Faulty, modules: Modules
) -> None:
    """One lost session is enough to initialise the module again, which ends the idle sessions too."""
    faulty = make_faulty()
    async with serving(faulty.hsm, modules) as instance:
        faulty.tell("absent", "C_EncryptInit return 0xb3 count=1")
        await instance.call(lambda session: session.encrypt("demo-key", b"text", b""), later())
        await until(lambda: instance.state is State.DOWN)
        assert instance.sessions == 0

        faulty.tell()
        await until(lambda: instance.serving and instance.sessions == 2)


async def test_sessions_that_ended_with_the_module_are_opened_again_without_a_request(
    make_faulty: Faulty, modules: Modules
) -> None:
    faulty = make_faulty()
    async with serving(faulty.hsm, modules) as instance:
        modules.module(faulty.hsm).reinitialize(60)
        await until(lambda: instance.sessions == 0)

        await until(lambda: instance.sessions == 2)
        assert instance.returns == 1


async def test_an_hsm_that_is_down_at_the_start_serves_when_it_comes(make_faulty: Faulty, modules: Modules) -> None:
    faulty = make_faulty()
    faulty.tell("absent")
    async with started(faulty.hsm, modules) as instance:
        await until(lambda: instance.state is State.DOWN)
        faulty.tell()

        await until(lambda: instance.serving)


async def test_each_new_connection_is_read_before_the_hsm_serves(make_faulty: Faulty, modules: Modules) -> None:
    faulty = make_faulty(check_interval_s=1)
    instance = Instance(faulty.hsm, modules)
    states: list[State] = []
    instance.read_when_connected(lambda session: states.append(instance.state) if session.logged_in() else None)
    instance.start()
    try:
        await until(lambda: instance.serving)
        assert states == [State.CONNECTING]
        faulty.tell("* return 0x30")
        await until(lambda: instance.state is State.DOWN)
        faulty.tell()
        await until(lambda: instance.serving)
        assert {*states[1:]} == {State.DOWN}
    finally:
        instance.stop()


async def test_an_hsm_that_failed_returns_although_a_call_is_still_inside(
    make_faulty: Faulty, modules: Modules
) -> None:
    """C_Finalize under a running call would crash the process, so the module is not initialised again."""
    faulty = make_faulty()
    async with serving(faulty.hsm, modules) as instance:
        faulty.tell("C_Encrypt hang")
        with pytest.raises(DeadlinePassed):
            await instance.call(encrypt, Deadline.after(0.2))
        faulty.tell("C_Encrypt hang", "* return 0x30")
        await until(lambda: instance.stuck_sessions == 1)
        for _ in range(3):
            with pytest.raises((TokenUnavailable, SessionLost)):
                await instance.call(HsmSession.logged_in, later())
        await until(lambda: not instance.serving)

        faulty.tell("C_Sign hang")
        await until(lambda: instance.serving and instance.stuck_sessions == 0)


@pytest.mark.parametrize(
    ("preset", "rules", "iv_bytes"),
    [
        ("cloudhsm", ["iv zero"], 12),
        ("nshield", ["iv zero"], 12),
        ("luna", ["iv append"], 16),
        ("vault", ["C_GenerateRandom return 0x54"], 12),
        ("generic", [], 12),
        ("softhsm2", [], 12),
    ],
)
async def test_a_preset_fits_a_module_that_behaves_like_its_own(
    make_faulty: Faulty, modules: Modules, preset: str, rules: list[str], iv_bytes: int
) -> None:
    faulty = make_faulty(preset=preset)
    faulty.tell(*rules)
    async with serving(faulty.hsm, modules) as instance:
        sealed = await instance.call(lambda session: session.encrypt("demo-key", b"text", b"aad"), later())
        opened = await instance.call(lambda session: session.decrypt("demo-key", sealed, b"aad"), later())

        assert (opened, len(sealed.iv)) == (b"text", iv_bytes)
        with pytest.raises(CiphertextRejected):
            await instance.call(lambda session: session.decrypt("demo-key", sealed, b"other"), later())


async def test_throttling_of_cloudhsm_in_a_decryption_is_no_wrong_ciphertext(
    make_faulty: Faulty, modules: Modules
) -> None:
    faulty = make_faulty(preset="cloudhsm")
    faulty.tell("iv zero")
    async with serving(faulty.hsm, modules) as instance:
        sealed = await instance.call(lambda session: session.encrypt("demo-key", b"text", b"aad"), later())
        faulty.tell("iv zero", "C_Decrypt return 0x6 count=1")

        with pytest.raises(HsmBusy):
            await instance.call(lambda session: session.decrypt("demo-key", sealed, b"aad"), later())


async def test_data_above_the_modules_limit_is_refused_before_it_is_sent(make_faulty: Faulty, modules: Modules) -> None:
    faulty = make_faulty(maximum_data_bytes=100)
    async with serving(faulty.hsm, modules) as instance:
        with pytest.raises(DataTooLarge):
            await instance.call(lambda session: session.encrypt("demo-key", bytes(101), b""), later())


async def test_health_says_unavailable_when_the_last_good_check_is_a_minute_old(hsm: Hsm, modules: Modules) -> None:
    """R-HLTH-6: a checker that stalls must not go on saying that all is well."""
    async with serving(hsm, modules) as instance:
        await until(lambda: health_of(instance).status is Status.ACTIVE)
        instance._checked_at = time.monotonic() - 61

        assert health_of(instance).status is Status.UNAVAILABLE


async def test_health_says_degraded_for_stuck_sessions_and_for_keys(make_faulty: Faulty, modules: Modules) -> None:
    faulty = make_faulty()
    async with serving(faulty.hsm, modules) as instance:
        assert health_of(instance, refused_keys=1).status is Status.DEGRADED
        assert health_of(instance, missing_keys=1).status is Status.DEGRADED
        faulty.tell("C_EncryptInit hang")
        with pytest.raises(DeadlinePassed):
            await instance.call(encrypt, Deadline.after(0.2))
        await until(lambda: instance.stuck_sessions == 1)
        health = health_of(instance)
        assert health.status is Status.DEGRADED
        assert "sessions stuck in calls that do not return: 1" in health.reason


async def test_a_hung_hsm_is_out_of_service_and_returns_when_its_calls_do(
    make_faulty: Faulty, modules: Modules
) -> None:
    faulty = make_faulty()
    async with serving(faulty.hsm, modules) as instance:
        faulty.tell("C_Encrypt hang")
        while instance.serving:
            with suppress(DeadlinePassed, HsmBusy, TokenUnavailable):
                await instance.call(encrypt, Deadline.after(0.2))
            await asyncio.sleep(0.05)

        faulty.tell()
        await until(lambda: instance.serving and instance.stuck_sessions == 0)


async def test_a_busy_hsm_is_neither_broken_nor_is_the_key(make_faulty: Faulty, modules: Modules) -> None:
    faulty = make_faulty(busy_codes=("CKR_FUNCTION_FAILED",))
    async with serving(faulty.hsm, modules) as instance:
        sealed = await instance.call(lambda session: session.encrypt("demo-key", b"text", b""), later())
        faulty.tell("C_Decrypt return 0x6 count=5")
        for _ in range(5):
            with pytest.raises(HsmBusy):
                await instance.call(lambda session: session.decrypt("demo-key", sealed, b""), later())

        assert instance.serving


@pytest.mark.parametrize(
    ("mode", "setting", "iv_bytes"), [("iv zero", "written-back", 12), ("iv append", "appended", 16)]
)
async def test_ivs_that_the_hsm_makes_come_back_and_decrypt(
    make_faulty: Faulty, modules: Modules, mode: str, setting: str, iv_bytes: int
) -> None:
    faulty = make_faulty(iv=setting)
    faulty.tell(mode)
    async with serving(faulty.hsm, modules) as instance:
        sealed = [
            await instance.call(lambda session: session.encrypt("demo-key", b"text", b"aad"), later())
            for _ in range(20)
        ]

        assert len({item.iv for item in sealed}) == 20
        assert {len(item.iv) for item in sealed} == {iv_bytes}
        for item in sealed:
            opened = await instance.call(lambda session, item=item: session.decrypt("demo-key", item, b"aad"), later())
            assert opened == b"text"


@pytest.mark.parametrize(
    ("mode", "setting"),
    [
        ("", "written-back"),
        ("", "appended"),
        ("iv change", "caller"),
        ("iv zero", "caller"),
        ("iv append", "caller"),
        ("iv append", "written-back"),
    ],
)
async def test_a_wrong_iv_setting_is_found_before_anything_is_served(
    make_faulty: Faulty, modules: Modules, mode: str, setting: str
) -> None:
    """SoftHSM2 itself would accept an empty IV and use it again and again."""
    faulty = make_faulty(iv=setting)
    faulty.tell(mode)
    async with started(faulty.hsm, modules) as instance:
        await until(lambda: instance.state is State.DOWN)

        assert not instance.serving
        assert "iv" in instance.reason


async def test_a_bad_tag_code_that_the_settings_do_not_name_is_found_before_anything_is_served(
    make_faulty: Faulty, modules: Modules
) -> None:
    faulty = make_faulty(ambiguous_codes=())
    async with started(faulty.hsm, modules) as instance:
        await until(lambda: instance.state is State.DOWN)

        assert "CKR_GENERAL_ERROR" in instance.reason


_WRONG_PIN = """
import sys
from pathlib import Path
from xksproxy.config.pins import read_pin
from xksproxy.config.load import load_config
from xksproxy.config.secret import Secret
from xksproxy.hsm.instance.command_sessions import open_session
from xksproxy.hsm.errors import LoginRefused
config = load_config(Path(sys.argv[1]))
pin = Secret(sys.argv[2]) if sys.argv[2] else read_pin(config.hsm[0])
try:
    open_session(config.hsm[0], pin, Path(config.state.directory))
    print("logged in")
except LoginRefused as error:
    print(error)
"""


def test_a_refused_pin_is_not_tried_again_by_any_process_until_it_changes(tmp_path: Path) -> None:
    """Some tokens lock at the third wrong PIN."""
    environment = make_environment(tmp_path / "dev")

    def attempt(pin: str) -> str:
        command = [sys.executable, "-c", _WRONG_PIN, str(environment.config), pin]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "a wrong one" not in done.stdout + done.stderr
        return done.stdout.strip()

    assert "refuses the PIN" in attempt("a wrong one")
    assert "refused before" in attempt("a wrong one")
    assert attempt("") == "logged in"


def test_an_operator_can_allow_another_attempt(tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "dev")
    wrong = [sys.executable, "-c", _WRONG_PIN, str(environment.config), "a wrong one"]
    allow = [sys.executable, "-m", "xksproxy", "hsm", "allow-login", "softhsm", "--config", str(environment.config)]

    def run(command: list[str]) -> tuple[int, str]:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    assert "refuses the PIN" in run(wrong)[1]
    assert "refused before" in run(wrong)[1]
    assert run(allow)[0] == 0
    assert "refuses the PIN" in run(wrong)[1]
    assert run(allow)[0] == 0
    assert run(allow)[0] == 1
