import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks import processes

_PROGRAM = """
import os, sys, time
if os.fork() == 0:
    while time.process_time() < 0.3: pass
    print("done", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def parent() -> Iterator[int]:
    """A process that rests while its child has worked for 0.3 s."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", _PROGRAM], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"done\n"
        yield process.pid
        process.stdin.close()


def test_processor_time_is_that_of_the_children_too(parent: int) -> None:
    assert len(processes.tree(parent)) == 2
    assert processes.cpu_seconds(parent) >= 0.2


def test_the_proportional_part_of_memory_is_at_most_what_is_resident(parent: int) -> None:
    found = processes.memory(parent)

    assert 1 < found.proportional <= found.resident


def test_who_listens_on_a_port_is_found() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert processes.listening_on(port) is None

        listener.listen()

        assert processes.listening_on(port) is not None
        with socket.create_connection(("127.0.0.1", port)) as client:
            assert processes.listening_on(client.getsockname()[1]) is None


def test_a_process_that_has_ended_took_nothing() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()

    assert processes.cpu_seconds(process.pid) == 0.0
