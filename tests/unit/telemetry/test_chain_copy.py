"""Copies of a chained audit log: what a collector does to them is no problem, what somebody else does is one."""

import random
from collections.abc import Sequence

import pytest

from xksproxy.config.secret import Secret
from xksproxy.telemetry.chain import CHECKPOINT, Chain
from xksproxy.telemetry.chain_copy import CopyVerification, verify_copy

_KEY = Secret("k" * 64)


def _lines(count: int, chain: Chain | None = None) -> list[bytes]:
    chain = chain or Chain(_KEY)
    return [
        f"{chain.next_line({'time': str(number), 'message': CHECKPOINT if number % 5 == 4 else 'm'})}\n".encode()
        for number in range(count)
    ]


def _verify(*files: Sequence[bytes]) -> CopyVerification:
    return verify_copy(((f"{index}.log", file) for index, file in enumerate(files)), _KEY)


def test_the_order_of_lines_and_repeated_lines_are_no_problem() -> None:
    lines = _lines(50)
    copied = [*lines, *lines[10:20]]
    random.Random(1).shuffle(copied)

    verification = _verify(copied[:30], copied[30:])

    assert (verification.problems, verification.gaps) == ([], [])
    (report,) = verification.chains.values()
    assert (report.lines, report.first, report.last, report.checkpoint) == (50, 0, 49, 49)


def test_a_file_that_is_missing_is_a_gap_and_the_others_are_verified() -> None:
    lines = _lines(30)

    verification = _verify(lines[5:10], lines[20:])

    assert verification.problems == []
    (chain,) = verification.chains
    assert verification.gaps == [
        f"chain {chain}: numbers 0 to 4 are in none of the files, before 0.log, line 1",
        f"chain {chain}: numbers 10 to 19 are missing between 0.log, line 5 and 1.log, line 1",
    ]


def test_a_line_that_is_missing_within_a_file_is_a_problem() -> None:
    lines = _lines(10)

    verification = _verify([*lines[:4], *lines[5:]])

    (chain,) = verification.chains
    assert verification.problems == [f"chain {chain}: number 4 is missing between 0.log, line 4 and 0.log, line 5"]
    assert verification.gaps == []


@pytest.mark.parametrize("is_first", [False, True])
def test_a_changed_line_is_found_wherever_it_is(is_first: bool) -> None:
    lines = _lines(10)
    lines[3] = lines[3].replace(b'"message":"m"', b'"message":"n"')
    if is_first:
        lines.insert(0, lines.pop(3))

    (problem,) = _verify(lines).problems
    assert problem.endswith(", number 3: the line was changed, or its HMAC was made with another key")


def test_two_lines_of_one_number_are_a_problem() -> None:
    chain = Chain(_KEY)
    lines = _lines(3, chain)
    other = Chain(_KEY)
    other.id = other._last = chain.id
    forged = f"{other.next_line({'message': 'x'})}\n".encode()

    assert any("two lines with the number 0" in problem for problem in _verify([*lines, forged]).problems)


def test_a_line_of_no_chain_is_a_problem_unless_a_line_that_follows_begins_so() -> None:
    lines = _lines(3)

    assert _verify([lines[0], b"nothing\n", *lines[1:]]).problems == [
        "0.log, line 2: not a line of a chain: it was changed or inserted"
    ]
    torn = _verify([lines[0], lines[1][:20], *lines[1:]])
    assert (torn.problems, torn.incomplete) == ([], ["0.log, line 2: the beginning of line 3"])
