"""Starts commands as forks of one interpreter that has imported what they need.

Each is a process of its own, as PKCS#11 wants it, and takes none of the time of the imports.
"""

import gc
import json
import os
import signal
import socket
import sys

import long_deadline

import xksproxy.server.worker  # noqa: F401 - gunicorn's master imports it before it forks
from xksproxy.cli.main import cli, main

_COMMANDS = (
    "block",
    "check-config",
    "credentials",
    "hsm",
    "keys",
    "kms-config",
    "reload",
    "serve",
    "status",
    "version",
)
_DESCRIPTORS = 3
_LARGEST_REQUEST = 1 << 20
_ORPHAN_SECONDS = 2.0


def serve_frozen(address: str) -> None:
    """Serve requests as :func:`serve`. The forks do not look for garbage in what is there by now."""
    gc.collect()
    gc.freeze()
    serve(address)


def serve(address: str) -> None:
    """Serve requests until the parent process ends. Returns in the process of a command, which is set up to run it.

    A request is a JSON object with ``arguments``, ``cwd``, ``environment`` and ``deadlines``, and three descriptors.
    The answers are the process id of the command, and its exit code when it has ended; each is a line.
    """
    parent = os.getppid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(address)
    listener.listen(64)
    listener.settimeout(_ORPHAN_SECONDS)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            if os.getppid() != parent:
                sys.exit()
            continue
        if os.fork() == 0:
            listener.close()
            _become(*_receive(connection))
            return
        connection.close()


def _receive(connection: socket.socket) -> tuple[dict[str, object], list[int]]:
    """Read a request, and go on in the process of the command; this one waits for its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    data, descriptors, _, _ = socket.recv_fds(connection, _LARGEST_REQUEST, _DESCRIPTORS)
    child = os.fork()
    if child == 0:
        connection.close()
        return json.loads(data), descriptors
    for descriptor in descriptors:
        os.close(descriptor)
    connection.sendall(f"{child}\n".encode())
    _, status = os.waitpid(child, 0)
    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(request: dict[str, object], descriptors: list[int]) -> None:
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    # The streams of this interpreter remember whether its own files could seek.
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    sys.argv = ["xksproxy", *request["arguments"]]
    if request["deadlines"]:
        long_deadline.be_unhurried(*request["deadlines"])


if __name__ == "__main__":
    for name in _COMMANDS:
        cli.get_command(None, name)
    serve_frozen("\0" + sys.argv[1])
    main()
