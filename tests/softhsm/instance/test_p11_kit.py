"""p11-kit as the module: its proxy, which gives another function list at each call, and its client for a server."""

import ctypes.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from fault_support import until
from p11_kit_support import CLIENT, P11KitServer, find_library, server_address
from support import make_environment
from xksproxy_tools.development.softhsm import find_module

from xksproxy.config.load import load_config
from xksproxy.hsm.instance.instance import Instance
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.state.usage import UsageBook

_ROUND_TRIP = """
import sys
from pathlib import Path
import msgspec
from xksproxy.config.pins import read_pin
from xksproxy.config.load import load_config
from xksproxy.hsm.instance.command_sessions import open_session
config = load_config(Path(sys.argv[1]))
hsm = msgspec.structs.replace(config.hsm[0], module=sys.argv[2])
session = open_session(hsm, read_pin(hsm), Path(config.state.directory))
session.test_settings()
sealed = session.encrypt("demo-key", b"text", b"aad")
print(session.decrypt("demo-key", sealed, b"aad").decode())
"""


def _p11_kit() -> str:
    """The shared object to which p11-kit-proxy.so is a link."""
    name = ctypes.util.find_library("p11-kit")
    assert name is not None, "libp11-kit0 is not installed"
    return str(find_library(name) or name)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[P11KitServer]:
    environment = make_environment(tmp_path / "dev")
    made = P11KitServer(tmp_path / "socket", environment.directory / "softhsm2.conf")
    yield made
    made.kill()


def test_a_module_that_gives_new_function_lists_can_be_used(tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "dev")
    modules = tmp_path / "home" / ".config" / "pkcs11" / "modules"
    modules.mkdir(parents=True)
    (modules / "softhsm.module").write_text(f"module: {find_module()}\n")

    done = subprocess.run(
        [sys.executable, "-c", _ROUND_TRIP, str(environment.config), _p11_kit()],
        env={**os.environ, "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "text\n", "")


def _has_logged_in(instance: Instance) -> bool:
    """Whether the last attempt got as far as AES-GCM, which p11-kit before 0.25 does not transport."""
    return instance.serving or "C_EncryptInit: CKR_MECHANISM_INVALID" in instance.reason


async def test_a_remote_token_is_reached_again_after_its_server_was_killed(
    server: P11KitServer, tmp_path: Path
) -> None:
    server.start()
    module = find_library(CLIENT)
    assert module is not None, "p11-kit-modules is not installed"
    hsm = msgspec.structs.replace(
        load_config(tmp_path / "dev" / "xksproxy.toml").hsm[0],
        module=str(module),
        environment=server_address(tmp_path / "socket"),
    )
    instance = Instance(hsm, Modules(PinGuard(tmp_path), UsageBook(tmp_path)))
    instance.start()
    try:
        await until(lambda: _has_logged_in(instance))
        server.kill()
        await until(lambda: "CKR_DEVICE_ERROR" in instance.reason or "the module has none" in instance.reason)

        server.start()
        await until(lambda: _has_logged_in(instance))
    finally:
        instance.stop()
        await instance.ended(20)
