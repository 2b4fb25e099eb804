"""Chained audit lines: every change of a log is detected, and nothing else is reported."""

import io
import json
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xksproxy.config.secret import Secret
from xksproxy.telemetry.chain import CHECKPOINT, MAXIMUM_LINE_BYTES, Chain, Verification, lines_of, verify_lines
from xksproxy.telemetry.chain_copy import verify_copy

KEY = Secret("k" * 64)


def chain_of(*messages: str, key: Secret = KEY) -> list[bytes]:
    chain = Chain(key)
    return [
        chain.next_line({"time": f"t{place}", "message": message}).encode() for place, message in enumerate(messages)
    ]


def check(lines: list[bytes], key: Secret = KEY) -> Verification:
    return verify_lines([line + b"\n" for line in lines], key)


@given(st.lists(st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=4), min_size=1, max_size=8))
def test_a_log_as_it_was_written_verifies_and_is_json(entries: list[dict[str, str]]) -> None:
    chain = Chain(KEY)
    lines = [chain.next_line({**entry, "message": "request"}).encode() for entry in entries]

    verification = check(lines)

    assert verification.problems == []
    assert [report.lines for report in verification.chains.values()] == [len(entries)]
    assert all(b"\n" not in line and isinstance(json.loads(line), dict) for line in lines)


def test_every_single_changed_bit_shows() -> None:
    lines = chain_of("a", "b", "c")
    for bit in range(8 * len(lines[1])):
        changed = bytearray(lines[1])
        changed[bit // 8] ^= 1 << bit % 8
        if changed[bit // 8] not in b"\r\n":
            assert check([lines[0], bytes(changed), lines[2]]).problems != []


@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_that_is_too_long_is_damaged_and_kept_only_in_part(end: bytes) -> None:
    lines = chain_of("a", "b")
    file = io.BytesIO(lines[0] + b"\n" + b"x" * (3 * MAXIMUM_LINE_BYTES) + b"\n" + lines[1] + end)

    read = list(lines_of(file))

    assert [len(line) for line in read] == [len(lines[0]) + 1, MAXIMUM_LINE_BYTES + 1, len(lines[1]) + len(end)]
    assert verify_lines(read, KEY).problems == [f"line 2: damaged: it has more than {MAXIMUM_LINE_BYTES} bytes"]
    copied = verify_copy([("copy", read)], KEY)
    assert copied.problems == [f"copy, line 2: damaged: it has more than {MAXIMUM_LINE_BYTES} bytes"]


@pytest.mark.parametrize("length", [MAXIMUM_LINE_BYTES, MAXIMUM_LINE_BYTES + 1])
def test_only_a_line_of_the_greatest_length_can_be_one_of_a_chain(length: int) -> None:
    chain = Chain(KEY)
    line = chain.next_line({"message": "a" * (length - len(Chain(KEY).next_line({"message": ""})))}).encode()
    assert len(line) == length

    verification = verify_lines(lines_of(io.BytesIO(line + b"\n")), KEY)

    assert (verification.problems == []) == (length == MAXIMUM_LINE_BYTES)


@pytest.mark.parametrize("gone", range(4))
def test_a_removed_line_shows_unless_it_was_the_last(gone: int) -> None:
    lines = chain_of("a", "b", "c", "d", "e")

    assert check(lines[:gone] + lines[gone + 1 :]).problems != []
    assert check(lines[:-1]).problems == []


@pytest.mark.parametrize("order", [order for order in permutations(range(4)) if order != (0, 1, 2, 3)])
def test_any_other_order_shows(order: tuple[int, ...]) -> None:
    lines = chain_of("a", "b", "c", "d")

    assert check([lines[place] for place in order]).problems != []


@pytest.mark.parametrize("line", [b"", b"{}", b"text", b'{"message":"request"}', b"\xff", b"[1]", b"{" * 5000])
def test_a_line_that_was_put_in_shows(line: bytes) -> None:
    lines = chain_of("a", "b")

    assert check([lines[0], line, lines[1]]).problems == ["line 2: not a line of a chain: it was changed or inserted"]


def test_a_chain_begun_with_another_key_shows() -> None:
    assert check(chain_of("a", key=Secret("x" * 64))).problems != []


def test_a_line_of_another_chain_cannot_take_the_place_of_one() -> None:
    ours, theirs = chain_of("a", "b", "c"), chain_of("a", "b", "c")

    assert check([ours[0], theirs[1], ours[2]]).problems != []


@given(st.data())
def test_chains_of_several_workers_may_be_mixed_in_any_way(data: st.DataObject) -> None:
    one, other = chain_of("a", "b", "c"), chain_of("d", "e", "f")
    mixed = []
    while one or other:
        source = data.draw(st.sampled_from([lines for lines in (one, other) if lines]))
        mixed.append(source.pop(0))

    verification = check(mixed)

    assert verification.problems == []
    assert [report.lines for report in verification.chains.values()] == [3, 3]


def test_the_last_checkpoint_says_how_far_a_removed_end_is_detected() -> None:
    (report,) = check(chain_of("a", CHECKPOINT, "b", "c")).chains.values()

    assert (report.checkpoint, report.checkpoint_time, report.lines_after_checkpoint) == (1, "t1", 2)


def test_without_a_checkpoint_every_line_could_be_the_last() -> None:
    (report,) = check(chain_of("a", "b")).chains.values()

    assert (report.checkpoint, report.lines_after_checkpoint) == (None, 2)


def test_a_missing_beginning_is_reported_and_the_rest_is_verified() -> None:
    lines = chain_of("a", "b", "c", "d")

    assert len(check(lines[2:]).problems) == 1
    assert len(check([lines[2], lines[3].replace(b'"d"', b'"x"')]).problems) == 2


def test_members_that_a_caller_chose_cannot_pass_for_the_chain_s_own() -> None:
    chain = Chain(KEY)
    fields = {"request_metadata": {"chain": "x", "number": 7, "mac": "0" * 64}, "reason": '","mac":"' + "0" * 64 + '"}'}
    lines = [chain.next_line(fields).encode(), chain.next_line({}).encode()]

    assert check(lines).problems == []
