import subprocess
import sys

import msgspec
import pytest

from xksproxy.decoding import convert, decode_json

_FIRST_USES_AT_ONCE = """
import sys, threading
from dataclasses import dataclass
import msgspec
from xksproxy.decoding import convert, decode_json

def new_type():
    @dataclass(frozen=True, slots=True)
    class Inner:
        number: int
        text: str

    class Outer(msgspec.Struct, frozen=True):
        one: tuple[Inner, ...]
        more: dict[str, tuple[str, ...]] = {}

    return msgspec.defstruct("Kind", [("outer", tuple[Outer, ...]), ("inner", tuple[Inner, ...])])

sys.setswitchinterval(1e-6)
content = {"outer": [{"one": [{"number": 1, "text": "a"}]}], "inner": [{"number": 1, "text": "a"}]}
encoded = msgspec.json.encode(content)
for _ in range(200):
    kind, start = new_type(), threading.Barrier(4)

    def decode(number):
        start.wait()
        if number % 2:
            decode_json(encoded, kind)
        else:
            convert(content, kind)

    threads = [threading.Thread(target=decode, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


class Point(msgspec.Struct):
    x: int


def test_several_threads_may_be_the_first_to_decode_a_type() -> None:
    """Without a lock most runs of this program end by a signal."""
    done = subprocess.run([sys.executable, "-c", _FIRST_USES_AT_ONCE], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def test_what_is_of_another_type_is_refused() -> None:
    assert decode_json(b'{"x": 1}', Point) == convert({"x": 1}, Point) == Point(1)
    for refused in (b"{", b'{"x": "1"}'):
        with pytest.raises(msgspec.MsgspecError):
            decode_json(refused, Point)
    with pytest.raises(msgspec.ValidationError):
        convert({}, Point)


@pytest.mark.parametrize("content", [b'{"a": "\xff"}', b"[" * 100_000, b"{", b"1"])
def test_whatever_is_not_of_the_type_is_one_kind_of_error(content: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_json(content, dict[str, str])


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b'{"y": "\xc6\x41"}', "it is not UTF-8 text"), (b"[" * 50_000, "it is nested too deeply")],
)
def test_a_refusal_says_in_plain_words_what_is_wrong(content: bytes, expected: str) -> None:
    with pytest.raises(msgspec.DecodeError, match=expected):
        decode_json(content, dict[str, str] if content.startswith(b"{") else list)
