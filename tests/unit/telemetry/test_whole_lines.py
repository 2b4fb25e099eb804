"""Several processes write lines to one pipe, whose reader stops and goes on."""

import os
import select
from collections.abc import Callable
from pathlib import Path

import pytest
from support import eventually

from xksproxy.telemetry.whole_lines import write_first_lines

_LENGTHS = (100, 700, 5000, 1300, 4095, 4096, 4097, 20_000)


def _write_all(descriptor: int, letter: bytes) -> None:
    data = b"".join(letter * length + b"\n" for length in _LENGTHS * 20)
    while data:
        _, written = write_first_lines(descriptor, data)
        data = data[written:]


def _start(action: Callable[[], None]) -> int:
    """Run an action in a process of its own. Returns its id."""
    if process := os.fork():
        return process
    action()
    os._exit(0)


def _read_all(reader: int) -> bytes:
    content = bytearray()
    while block := os.read(reader, 3000):
        content.extend(block)
    return bytes(content)


@pytest.mark.parametrize("blocking", [True, False])
def test_lines_of_several_processes_are_whole_after_the_reader_goes_on(blocking: bool) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, blocking)
    processes = [_start(lambda letter=letter: _write_all(writer, letter)) for letter in (b"a", b"b", b"c")]
    # None of it is read until the pipe is full.
    eventually(lambda: not select.select((), (writer,), (), 0)[1])
    os.close(writer)

    lines = _read_all(reader).split(b"\n")

    os.close(reader)
    for process in processes:
        os.waitpid(process, 0)
    assert lines.pop() == b""
    assert all(len(set(line)) == 1 for line in lines)
    assert sorted(map(len, lines)) == sorted(_LENGTHS * 60)


def test_a_process_that_is_killed_while_the_pipe_is_full_leaves_no_beginning_of_a_line() -> None:
    reader, writer = os.pipe()
    line = b"x" * 999 + b"\n"

    def write() -> None:
        while True:
            write_first_lines(writer, line * 10)

    process = _start(write)
    eventually(lambda: not select.select((), (writer,), (), 0)[1])
    os.kill(process, 9)
    os.waitpid(process, 0)
    os.close(writer)

    content = _read_all(reader)

    os.close(reader)
    assert content
    assert content == line * (len(content) // len(line))


def test_an_error_in_the_middle_of_a_line_is_raised_by_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, room = os.write, 150

    def limited(descriptor: int, data: bytes) -> int:
        nonlocal room
        if not room:
            raise OSError(28, "No space left on device")
        written = write(descriptor, data[:room])
        room -= written
        return written

    monkeypatch.setattr(os, "write", limited)
    descriptor = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
    data = b"x" * 99 + b"\n" + b"y" * 99 + b"\n"

    assert write_first_lines(descriptor, data) == (200, 150)
    with pytest.raises(OSError, match="No space left"):
        write_first_lines(descriptor, data)
    os.close(descriptor)


def test_a_lock_that_is_not_supported_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr("fcntl.lockf", refuse)
    reader, writer = os.pipe()

    assert write_first_lines(writer, b"one\ntwo\n") == (8, 8)
    assert os.read(reader, 100) == b"one\ntwo\n"
    os.close(reader)
    os.close(writer)


def test_the_lock_is_given_up_after_each_write() -> None:
    reader, writer = os.pipe()
    write_first_lines(writer, b"mine\n")
    another = _start(lambda: write_first_lines(writer, b"other\n") and None)

    eventually(lambda: os.waitpid(another, os.WNOHANG), (another, 0))
    assert os.read(reader, 100) == b"mine\nother\n"
    os.close(reader)
    os.close(writer)
