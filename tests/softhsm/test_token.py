"""Calls with a deadline, the lanes that answer them, and log-in."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from support import make_environment

from xksproxy.config.model import Hsm
from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import DeadlinePassed, HsmBusy, KeyMissing, SessionLost, TokenUnavailable
from xksproxy.hsm.module import Connection, Modules
from xksproxy.hsm.session import HsmSession
from xksproxy.hsm.token import Token

Result = TypeVar("Result")


def soon() -> Deadline:
    return Deadline.after(0.1)


def later() -> Deadline:
    return Deadline.after(20)


@pytest.fixture
def make_token(hsm: Hsm, modules: Modules, connection: Connection) -> Iterator[Callable[[int], Token]]:
    """Tokens with a number of lanes, on this process's log-in; their threads end with the test."""
    made: list[Token] = []

    def make(sessions: int) -> Token:
        token = Token(msgspec.structs.replace(hsm, sessions=sessions), modules)
        token.start()
        made.append(token)
        return token

    yield make
    for token in made:
        token.stop()


def run(coroutine: Awaitable[Result]) -> Result:
    async def main() -> Result:
        return await coroutine

    return asyncio.run(main())


def test_what_is_encrypted_decrypts(make_token: Callable[[int], Token]) -> None:
    token = make_token(2)

    async def round_trip() -> bytes:
        sealed = await token.encrypt("demo-key", b"text", b"aad", later())
        return await token.decrypt("demo-key", sealed, b"aad", later())

    assert run(round_trip()) == b"text"


def test_errors_of_the_session_reach_the_caller(make_token: Callable[[int], Token]) -> None:
    with pytest.raises(KeyMissing):
        run(make_token(1).describe_key("no such key", later()))


def test_a_hung_call_ends_at_its_deadline_and_costs_one_lane_only(make_token: Callable[[int], Token]) -> None:
    token, release = make_token(2), threading.Event()

    async def scenario() -> None:
        hung = asyncio.create_task(token._call(lambda _: release.wait(), soon()))
        with pytest.raises(DeadlinePassed):
            await hung
        await token.self_test(later())

    try:
        run(scenario())
    finally:
        release.set()


def test_a_call_that_no_lane_could_take_in_time_is_refused_as_busy_and_never_run(
    make_token: Callable[[int], Token],
) -> None:
    token, release, ran = make_token(1), threading.Event(), threading.Event()

    async def scenario() -> None:
        hung = asyncio.create_task(token._call(lambda _: release.wait(), later()))
        await asyncio.sleep(0)
        with pytest.raises(HsmBusy):
            await token._call(lambda _: ran.set(), soon())
        release.set()
        await hung
        await token.self_test(later())

    run(scenario())

    assert not ran.is_set()


def test_the_event_loop_is_not_blocked_by_hsm_calls(make_token: Callable[[int], Token]) -> None:
    token, entered, release = make_token(1), threading.Event(), threading.Event()

    async def scenario() -> None:
        def work(_: HsmSession) -> None:
            entered.set()
            release.wait(20)

        call = asyncio.create_task(token._call(work, later()))
        await asyncio.to_thread(entered.wait)
        release.set()  # reached only because the loop runs while the call does not return
        await call

    run(scenario())


def test_a_lost_session_is_replaced_and_the_call_repeated_once(make_token: Callable[[int], Token]) -> None:
    token = make_token(1)
    used: list[HsmSession] = []

    def lose_the_first(session: HsmSession) -> str:
        used.append(session)
        if len(used) == 1:
            raise SessionLost("CKR_SESSION_HANDLE_INVALID")
        return "done"

    assert run(token._call(lose_the_first, later())) == "done"
    assert used[0] is not used[1]


def test_a_session_that_is_lost_twice_is_an_error(make_token: Callable[[int], Token]) -> None:
    def lose(_: HsmSession) -> None:
        raise SessionLost("CKR_SESSION_HANDLE_INVALID")

    with pytest.raises(SessionLost):
        run(make_token(1)._call(lose, later()))


def test_a_session_closed_behind_our_back_is_replaced(make_token: Callable[[int], Token]) -> None:
    token = make_token(1)

    async def scenario() -> None:
        await token._call(lambda session: session._session.close(), later())
        sealed = await token.encrypt("demo-key", b"text", b"", later())
        assert await token.decrypt("demo-key", sealed, b"", later()) == b"text"

    run(scenario())


def test_an_unexpected_exception_in_a_call_is_an_answer_too(make_token: Callable[[int], Token]) -> None:
    token = make_token(1)

    def fail(_: HsmSession) -> None:
        raise ZeroDivisionError

    async def scenario() -> None:
        with pytest.raises(TokenUnavailable, match="ZeroDivisionError"):
            await token._call(fail, later())
        await token.self_test(later())

    run(scenario())


def test_a_token_that_is_absent_is_not_looked_for_with_every_call(
    hsm: Hsm, modules: Modules, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []
    connect = modules.connect
    monkeypatch.setattr(modules, "connect", lambda *args: attempts.append(args) or connect(*args))
    token = Token(msgspec.structs.replace(hsm, id="absent", token="no such token", sessions=1), modules)
    token.start()

    async def scenario() -> list[Any]:
        return await asyncio.gather(*(token.self_test(later()) for _ in range(20)), return_exceptions=True)

    try:
        failures = run(scenario())
    finally:
        token.stop()

    assert {type(failure) for failure in failures} == {TokenUnavailable}
    assert "0 tokens have the label" in str(failures[-1])
    assert len(attempts) < 20


def test_calls_at_once_all_get_their_own_answer(make_token: Callable[[int], Token]) -> None:
    token = make_token(4)

    async def one(number: int) -> bool:
        text = number.to_bytes(8, "big")
        sealed = await token.encrypt("demo-key", text, b"", later())
        return await token.decrypt("demo-key", sealed, b"", later()) == text

    async def scenario() -> list[bool]:
        return await asyncio.gather(*(one(number) for number in range(300)))

    assert all(run(scenario()))


_WRONG_PIN = """
import sys
from pathlib import Path
from xksproxy.config.check import read_pin
from xksproxy.config.load import load_config
from xksproxy.config.secret import Secret
from xksproxy.hsm.errors import LoginRefused
from xksproxy.hsm.module import Modules
hsm = load_config(Path(sys.argv[1])).hsm[0]
modules = Modules()
for pin in (Secret("a wrong one"), read_pin(hsm)):
    try:
        modules.connect(hsm, pin)
    except LoginRefused as error:
        print(error)
"""


def test_a_pin_that_was_refused_is_not_tried_again_in_this_process(tmp_path: Path) -> None:
    """Some tokens lock at the third wrong PIN; so even a right one has to wait for a restart."""
    environment = make_environment(tmp_path / "dev")
    command = [sys.executable, "-c", _WRONG_PIN, str(environment.config)]

    done = subprocess.run(command, capture_output=True, text=True, check=True)

    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert lines[0] == lines[1]
    assert "refuses the PIN" in lines[0]
    assert "a wrong one" not in done.stdout + done.stderr
