"""p11-kit's proxy as the module: it gives another function list at each C_GetFunctionList."""

import ctypes.util
import os
import subprocess
import sys
from pathlib import Path

from support import make_environment
from xksproxy_tools.development.softhsm import find_module

_ROUND_TRIP = """
import sys
from pathlib import Path
import msgspec
from xksproxy.config.check import read_pin
from xksproxy.config.load import load_config
from xksproxy.hsm.instance.direct import open_session
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
    paths = [path / name for path in (Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib64"), Path("/usr/lib"))]
    return str(next((path for path in paths if path.exists()), name))


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
