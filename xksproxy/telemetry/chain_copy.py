"""Verification of a copy of a chained audit log, as a collector makes it: in any order, and with repeated lines."""

import hmac
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from xksproxy.config.secret import Secret
from xksproxy.telemetry.chain import CHECKPOINT, Beginnings, ChainReport, mac_of, parse_line


@dataclass(slots=True)
class CopyVerification:
    """The result for a copy."""

    chains: dict[str, ChainReport] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    """Beginnings of lines that follow completely."""

    gaps: list[str] = field(default_factory=list)
    """Lines that are in none of the files, between the end of one and the beginning of another."""


@dataclass(slots=True)
class _Line:
    mac: str
    file: int
    place: str


class _Chain:
    """The lines of one chain that were found, by their numbers."""

    def __init__(self, chain_id: str, key: bytes) -> None:
        self._id = chain_id
        self._key = key
        self._lines: dict[int, _Line] = {}
        self._waiting: dict[int, bytes] = {}
        """What the HMAC of a line covers, until the line before is found."""
        self._checkpoints: dict[int, str] = {}

    def add(self, fields: Mapping[str, Any], text: bytes, line: _Line) -> Iterator[str]:
        """Add a line; yields what is wrong with it."""
        number = fields["number"]
        known = self._lines.get(number)
        if known is not None:
            if known.mac != line.mac:
                yield f"{line.place}: chain {self._id} has two lines with the number {number}; see {known.place}"
            return
        self._lines[number] = line
        self._waiting[number] = text
        if fields.get("message") == CHECKPOINT:
            self._checkpoints[number] = str(fields.get("time"))
        for each in (number, number + 1):
            yield from self._check(each)

    def _check(self, number: int) -> Iterator[str]:
        before = self._id if number == 0 else self._mac(number - 1)
        if before is None or number not in self._waiting:
            return
        line = self._lines[number]
        if not hmac.compare_digest(mac_of(self._key, before, self._waiting.pop(number)), line.mac):
            yield (
                f"{line.place}: chain {self._id}, number {number}: the line was changed, or its HMAC was made with"
                " another key"
            )

    def _mac(self, number: int) -> str | None:
        line = self._lines.get(number)
        return None if line is None else line.mac

    def report(self) -> ChainReport:
        """What was found of the chain."""
        checkpoint = max(self._checkpoints, default=None)
        time = None if checkpoint is None else self._checkpoints[checkpoint]
        return ChainReport(self._id, len(self._lines), min(self._lines), max(self._lines), checkpoint, time)

    def missing(self) -> Iterator[tuple[bool, str]]:
        """The lines that were not found; True if these are between two files."""
        before: int | None = None
        for number in sorted(self._lines):
            line = self._lines[number]
            if before is None and number > 0:
                yield True, f"chain {self._id}: {_numbers(0, number - 1)} in none of the files, before {line.place}"
            elif before is not None and number > before + 1:
                last = self._lines[before]
                text = f"chain {self._id}: {_numbers(before + 1, number - 1)} missing"
                yield last.file != line.file, f"{text} between {last.place} and {line.place}"
            before = number


def verify_copy(files: Iterable[tuple[str, Iterable[bytes]]], key: Secret) -> CopyVerification:
    """Verify the lines of files, given with their names, in which lines may be in any order and more than once.

    A line that is missing between two lines of one file is a problem; one that is missing between two files is a gap.
    The first line after a gap cannot be verified, those after it are.
    """
    verification = CopyVerification()
    chains: dict[str, _Chain] = {}
    secret = key.reveal().encode()
    for index, (name, lines) in enumerate(files):
        beginnings = Beginnings()
        for number, ended in enumerate(lines, 1):
            stripped = ended.rstrip(b"\r\n")
            parsed = parse_line(stripped)
            if parsed is None:
                beginnings.add(number, stripped)
                continue
            fields, text, mac = parsed
            chain = chains.setdefault(fields["chain"], _Chain(fields["chain"], secret))
            found = [*chain.add(fields, text, _Line(mac, index, f"{name}, line {number}"))]
            verification.problems += found
            if not found:
                beginnings.complete(number, stripped)
        verification.problems += (f"{name}, line {number}: {problem}" for number, problem in beginnings.problems())
        verification.incomplete += (f"{name}, {beginning}" for beginning in beginnings.incomplete)
    for chain_id, chain in chains.items():
        verification.chains[chain_id] = chain.report()
        for is_gap, missing in chain.missing():
            (verification.gaps if is_gap else verification.problems).append(missing)
    return verification


def _numbers(first: int, last: int) -> str:
    return f"number {first} is" if first == last else f"numbers {first} to {last} are"
