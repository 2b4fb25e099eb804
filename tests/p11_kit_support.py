"""`p11-kit server`: a token that is reached over a socket, by p11-kit-client.so as the module."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Final

from support import eventually
from xksproxy_tools.development.softhsm import find_module

CLIENT: Final = "pkcs11/p11-kit-client.so"


def find_library(name: str) -> Path | None:
    """A shared object of the system, by its name below a directory of libraries; None if it is not installed."""
    directories = [*sorted(Path("/usr/lib").glob("*-linux-gnu")), Path("/usr/lib64"), Path("/usr/lib")]
    return next((path for directory in directories if (path := directory / name).exists()), None)


class P11KitServer:
    """`p11-kit server` before SoftHSM2. It serves each client in a process of its own."""

    def __init__(self, socket: Path, softhsm_configuration: Path) -> None:
        self._socket = socket
        self._environment = {**os.environ, "SOFTHSM2_CONF": str(softhsm_configuration)}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = ["p11-kit", "server", "--foreground", f"--name={self._socket}", f"--provider={find_module()}"]
        self._process = subprocess.Popen(
            [*command, "pkcs11:"], env=self._environment, stdout=subprocess.DEVNULL, start_new_session=True
        )
        eventually(self._socket.exists)

    def kill(self) -> None:
        """Kill it, with the processes of its clients."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._socket.unlink(missing_ok=True)
            self._process = None


def server_address(socket: Path) -> dict[str, str]:
    """The environment in which the client finds the server."""
    return {"P11_KIT_SERVER_ADDRESS": f"unix:path={socket}"}
