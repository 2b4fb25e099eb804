"""Commands whose HSM hangs: they end, and say in which function of the module it is."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from command_support import Finished
from commands import start_command
from fault_support import FaultyHsm, unique
from support import PATIENCE_SECONDS, eventually
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.config.load import load_config
from xksproxy.config.secret import Secret
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.state.private_files import make_directory

FUNCTIONS = ["C_Initialize", "C_GetSlotList", "C_OpenSession", "C_Login", "C_GenerateRandom", "C_FindObjects"]


@pytest.fixture
def configured(
    environment: DevEnvironment, make_faulty: Callable[..., FaultyHsm], tmp_path: Path
) -> Callable[..., Path]:
    """A configuration like that of the tests, whose HSMs are faulty ones that hang in a function, and whole ones."""

    def configure(*functions: str) -> Path:
        text = environment.config.read_text()
        start, end = text.index("[[hsm]]"), text.index("[[keystore]]")
        table, tables = text[start:end], ""
        for function in functions:
            faulty = make_faulty()
            settings = {"id": faulty.hsm.id, "module": faulty.hsm.module}
            lines = [line for line in table.splitlines() if line.split(" =")[0] not in ("id", "module", "environment")]
            lines += [f'{name} = "{value}"' for name, value in settings.items()]
            lines.append(f'environment = {{ SOFTHSM2_CONF = "{faulty.hsm.environment["SOFTHSM2_CONF"]}" }}')
            if function:
                faulty.tell(f"{function} hang")
                lines.append("connect_timeout_s = 1")
            tables += "\n".join(lines) + "\n\n"
            first = faulty.hsm.id
        text = f"{text[:start]}{tables}{text[end:]}".replace('hsms = ["softhsm"]', f'hsms = ["{first}"]')
        config = environment.directory / f"{unique('hung')}.toml"
        config.write_text(text.replace('directory = "state"', f'directory = "{tmp_path}/state"'))
        return config

    return configure


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_live_check_gives_up_an_hsm_that_hangs_says_where_and_checks_the_others(
    configured: Callable[..., Path], spawn: Callable[..., Finished], function: str
) -> None:
    done = spawn("check-config", "--live", "--json", "--config", configured(function, ""))

    assert done.code == 1
    hung, whole = json.loads(done.out)["live"]
    assert "given up after 1 s (connect_timeout_s): " in hung["failure"]
    assert f", in {function} since " in hung["failure"]
    assert whole["failure"] == ""
    assert whole["keys"]


def test_a_command_that_needs_a_session_gives_up_and_says_where(
    configured: Callable[..., Path], spawn: Callable[..., Finished]
) -> None:
    config = configured("C_Login")
    for command in (("keys", "list"), ("keys", "show", "demo-key"), ("keys", "rotate", "demo-key")):
        done = spawn(*command, "--keystore", "dev", "--config", config)

        assert done.code == 2
        assert "in C_Login since " in done.err or "was cut off inside C_Login" in done.err


def test_the_live_check_says_what_it_waits_for(configured: Callable[..., Path], spawn: Callable[..., Finished]) -> None:
    config = configured("C_Login")
    config.write_text(config.read_text().replace("connect_timeout_s = 1", "connect_timeout_s = 4"))

    done = spawn("check-config", "--live", "--config", config, **os.environ)

    assert "since 3 s: logging in, in C_Login since 3 s" in done.err


def test_allow_login_says_at_once_that_it_waits_for_a_log_in(configured: Callable[..., Path], tmp_path: Path) -> None:
    config = configured("")
    hsm_id = load_config(config).hsm[0].id
    output = tmp_path / "output"
    guard = PinGuard(tmp_path / "state")
    make_directory(tmp_path / "state")
    with output.open("wb") as out, guard.attempt(hsm_id, Secret("1234")):
        allow = start_command(["hsm", "allow-login", hsm_id, "--config", config], out, out)
        told = f"another process is logging in to the token of {hsm_id}; waiting for it, at most 60 s"
        eventually(lambda: told in output.read_text())
        assert allow.poll() is None

    assert allow.wait(PATIENCE_SECONDS) == 1
    assert "no PIN of" in output.read_text()
