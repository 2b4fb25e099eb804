"""HSMs that misbehave on command: the fault module of tests/faults on a copy of the token."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from support import PATIENCE_SECONDS
from xksproxy_tools.development.softhsm import find_module, write_configuration

from xksproxy.config.model import Hsm
from xksproxy.hsm.instance.instance import Instance

_SOURCES = Path(__file__).parent / "faults"

_MAKE_KEY = """
import os, sys
from pkcs11 import Attribute, KeyType, ObjectClass, lib
session = lib(sys.argv[1]).get_token(token_label=sys.argv[2]).open(rw=True, user_pin=sys.argv[3])
if sys.argv[5]:
    attributes = {
        Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES,
        Attribute.VALUE: bytes.fromhex(sys.argv[5]), Attribute.LABEL: sys.argv[4],
        Attribute.TOKEN: True, Attribute.PRIVATE: True, Attribute.SENSITIVE: True,
        Attribute.ENCRYPT: sys.argv[6] != "not encrypting", Attribute.DECRYPT: sys.argv[6] != "not decrypting",
    }
    if sys.argv[6] == "silent":
        attributes[Attribute.CHECK_VALUE] = b""
    session.create_object(attributes)
else:
    for key in list(session.get_objects({Attribute.LABEL: sys.argv[4]})):
        key.destroy()
"""


def compile_fault_module(directory: Path) -> Path:
    """Compile the fault module."""
    return compile_library(directory, "fault")


def compile_library(directory: Path, name: str) -> Path:
    """Compile a library of tests/faults with the system's C compiler."""
    output, source = directory / f"{name}.so", _SOURCES / f"{name}.c"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(output), str(source), "-ldl", "-lpthread"],
        check=True,
    )
    return output


@dataclass(frozen=True)
class FaultyHsm:
    """An HSM of its own: a private copy of the module and of the token, with the fault module before it."""

    hsm: Hsm
    control: Path

    def tell(self, *rules: str) -> None:
        """Replace what the module does wrong; without rules it works."""
        partial = self.control.with_suffix(".partial")
        partial.write_text("".join(f"{rule}\n" for rule in rules))
        partial.rename(self.control)

    def noted_calls(self) -> int:
        """How many calls a rule ``note FUNCTION`` has noted since the first such rule."""
        notes = Path(f"{self.control}.calls")
        return notes.stat().st_size if notes.exists() else 0


def make_faulty_hsm(directory: Path, name: str, fault_module: Path, tokens: Path, like: Hsm) -> FaultyHsm:
    """Make one below ``directory``, with a copy of ``tokens`` and otherwise the settings of ``like``."""
    home = directory / name
    home.mkdir()
    shutil.copytree(tokens, home / "tokens")
    write_configuration(home / "softhsm2.conf", home / "tokens")
    shutil.copy(find_module(), home / "softhsm.so")
    module = home / "fault.so"
    shutil.copy(fault_module, module)
    Path(f"{module}.target").write_text(f"{home / 'softhsm.so'}\n")
    environment = {"SOFTHSM2_CONF": str(home / "softhsm2.conf")}
    hsm = msgspec.structs.replace(like, id=name, module=str(module), environment=environment)
    return FaultyHsm(hsm, Path(f"{module}.control"))


def with_second_token(faulty: FaultyHsm) -> FaultyHsm:
    """A second token in the same module, which has no keys, as another HSM."""
    command = ["softhsm2-util", "--init-token", "--free", "--label", "second", "--pin", "4321", "--so-pin", "8765"]
    subprocess.run(command, env={**os.environ, **faulty.hsm.environment}, check=True, capture_output=True)
    return FaultyHsm(msgspec.structs.replace(faulty.hsm, id="second", token="second", pin="4321"), faulty.control)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, at most as long as :func:`support.eventually`."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 - what is waited for knows no event
            await asyncio.sleep(0.01)


def is_quiet(instance: Instance) -> bool:
    """Whether an instance serves, and makes no calls of its own before its next check is due."""
    return instance.quiet


def unique(name: str) -> str:
    """A name that no other test has; a module once loaded stays in the process."""
    return f"{name}-{os.urandom(3).hex()}"


def change_key(
    faulty: FaultyHsm, pin: str, label: str, value: bytes | None, *, silent: bool = False, lacks: str = ""
) -> None:
    """Put a key on one HSM alone, or take it away, as another process does. A silent key tells no check value.

    ``lacks`` may be ``not encrypting`` or ``not decrypting``.
    """
    module = faulty.control.with_name("softhsm.so")
    value_hex = "" if value is None else value.hex()
    command = [
        sys.executable,
        "-c",
        _MAKE_KEY,
        str(module),
        faulty.hsm.token,
        pin,
        label,
        value_hex,
        "silent" if silent else lacks,
    ]
    subprocess.run(command, check=True, env={**faulty.hsm.environment})
