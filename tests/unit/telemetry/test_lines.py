"""One thread writes lines in order, and callers do not wait for it."""

import json
import os
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import eventually

from xksproxy.telemetry.lines import LineWriter, console_line, escape, json_line

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


DANGEROUS = frozenset(
    chr(code)
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        *(0x061C, 0x200E, 0x200F, 0x2028, 0x2029),
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
        *(0xFEFF, 0xE0001),
    )
)
"""Control characters C0 and C1, the ends of lines, and what changes the direction of text; a mark and a tag."""

hostile = st.text(st.sampled_from(sorted(DANGEROUS)) | st.characters())


@given(st.dictionaries(hostile, hostile | anything, max_size=4))
def test_no_field_can_forge_a_line_or_change_how_it_is_shown(fields: dict[str, Any]) -> None:
    for line in (json_line(fields), console_line(fields), console_line({"message": "m", **fields})):
        assert line.isprintable()
        assert DANGEROUS.isdisjoint(line)
        assert len(line.splitlines() or [""]) == 1


@given(st.dictionaries(hostile, hostile, max_size=4))
def test_a_json_line_reads_back(fields: dict[str, str]) -> None:
    assert json.loads(json_line(fields)) == fields


def test_bytes_that_are_no_text_keep_their_line() -> None:
    assert json.loads(json_line({"path": "\udcff"})) == {"path": "\udcff"}


@given(hostile)
def test_an_escaped_text_is_printable_and_keeps_its_content(text: str) -> None:
    escaped = escape(text)

    assert escaped.isprintable()
    assert json.loads(f'"{escape(json.dumps(text, ensure_ascii=False)[1:-1])}"') == text


def test_control_characters_are_escaped() -> None:
    assert escape("a\x1b[31mb\n\u202ec\U000e0001") == "a\\u001b[31mb\\u000a\\u202ec\\udb40\\udc01"


@pytest.mark.parametrize("text", ["", "plain", "\u00fcber \u20ac \U0001f600"])
def test_printable_text_is_unchanged(text: str) -> None:
    assert escape(text) == text


def test_lines_come_in_order() -> None:
    written: list[int] = []
    writer = LineWriter(written.extend, lambda count: -count, 100_000)
    for number in range(5000):
        writer.put(number)
    writer.flush(60)

    assert written == list(range(5000))


def test_lines_above_the_maximum_are_dropped_counted_and_reported_when_there_is_room() -> None:
    released, written = threading.Event(), list[Any]()

    def write(lines: Sequence[Any]) -> None:
        released.wait()
        written.extend(lines)

    writer = LineWriter(write, lambda count: f"dropped {count}", 10)
    for number in range(30):
        writer.put(number)
    assert writer.full
    released.set()
    writer.flush(60)
    writer.put("last")
    writer.flush(60)

    assert written[-1] == "last"
    assert written[-2] == f"dropped {writer.dropped_in_all}"
    assert len(written) - 2 + writer.dropped_in_all == 30


def test_a_write_that_fails_loses_its_batch_and_nothing_else() -> None:
    written: list[str] = []

    def write(lines: Sequence[str]) -> None:
        if "bad" in lines:
            raise OSError
        written.extend(lines)

    writer = LineWriter(write, str, 10)
    for line in ("good", "bad", "better"):
        writer.put(line)
        writer.flush(60)

    assert written == ["good", "better"]


def test_a_child_process_has_a_thread_of_its_own() -> None:
    reader, output = os.pipe()
    writer = LineWriter(lambda lines: [os.write(output, line) for line in lines] and None, str, 10)
    writer.put(b"parent\n")
    writer.flush(60)
    child = os.fork()
    if child == 0:
        writer.put(b"child\n")
        writer.flush(60)
        os._exit(0)
    os.waitpid(child, 0)

    assert os.read(reader, 100) == b"parent\nchild\n"
    os.close(reader)
    os.close(output)


def test_while_dropped_lines_are_not_reported_there_is_room_for_one_line_less() -> None:
    turns, batches = threading.Semaphore(0), list[list[str]]()

    def write(lines: Sequence[str]) -> None:
        batches.append([*lines])
        assert turns.acquire(timeout=60)

    writer = LineWriter(write, str, 3, gather_seconds=0)
    writer.put("a")
    eventually(lambda: batches, [["a"]])
    for line in ("b", "c", "dropped"):
        writer.put(line)
    turns.release()
    eventually(lambda: batches, [["a"], ["b", "c"]])

    assert writer.full
    writer.put("dropped too")
    assert writer.dropped_in_all == 2
    turns.release()
    writer.flush(60)
    assert not writer.full
