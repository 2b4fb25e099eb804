"""Audit lines that are chained by HMAC, so that a removed, changed or moved line is detected."""

import hashlib
import hmac
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final

from xksproxy.config.secret import Secret
from xksproxy.telemetry.lines import json_line

CHECKPOINT: Final = "checkpoint"
"""The ``message`` of a checkpoint line."""

MAXIMUM_LINE_BYTES: Final = 1024 * 1024
"""The longest line that is verified. Commands and requests cannot make such lines."""

_MAC: Final = re.compile(rb',"mac":"(?P<mac>[0-9a-f]{64})"\}')
_MAC_BYTES: Final = len(b',"mac":""}') + 64


class Chain:
    """The chain of the lines of one process. Each line has the chain's id, its number, and an HMAC-SHA256.

    The HMAC, ``mac``, is the last member of the line. It covers: the HMAC of the line before in hex, or for the first
    line the chain's id; a line feed; and the line without ``mac``.
    """

    def __init__(self, key: Secret) -> None:
        self._key = key.reveal().encode()
        self.id = os.urandom(8).hex()
        self._number = 0
        self._last = self.id

    def next_line(self, fields: Mapping[str, Any]) -> str:
        """Return the next line of the chain, as JSON."""
        text = json_line({**fields, "chain": self.id, "number": self._number})
        self._last = mac_of(self._key, self._last, text.encode())
        self._number += 1
        return f'{text[:-1]},"mac":"{self._last}"}}'


@dataclass(slots=True)
class ChainReport:
    """The result for the lines of one chain."""

    id: str
    lines: int = 0
    first: int = 0
    """The number of the first line. If it is above 0, earlier lines are in another file or removed."""

    last: int = -1
    checkpoint: int | None = None
    """The number of the last checkpoint."""

    checkpoint_time: str | None = None
    _last_mac: str | None = field(default=None, repr=False)

    @property
    def lines_after_checkpoint(self) -> int:
        """The number of lines after the last checkpoint. Removed lines after them are not detected."""
        return self.last - (self.first - 1 if self.checkpoint is None else self.checkpoint)


@dataclass(slots=True)
class Verification:
    """The result for a log: its chains, and the problems found."""

    chains: dict[str, ChainReport] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    """Beginnings of lines that follow completely: a full disk leaves them, and they hide nothing."""


class Beginnings:
    """Lines that are none of a chain: beginnings of lines that follow completely, or else problems."""

    def __init__(self) -> None:
        self._waiting: dict[int, bytes] = {}
        self._too_long: list[int] = []
        self.incomplete: list[str] = []
        """The beginnings of lines that followed."""

    def add(self, number: int, line: bytes) -> None:
        """Note a line that is none of a chain, by its number in the file."""
        if len(line) > MAXIMUM_LINE_BYTES:
            self._too_long.append(number)
        else:
            self._waiting[number] = line

    def complete(self, number: int, line: bytes) -> None:
        """Note a line of a chain, which may be what others began."""
        for at in [at for at, beginning in self._waiting.items() if beginning and line.startswith(beginning)]:
            del self._waiting[at]
            self.incomplete.append(f"line {at}: the beginning of line {number}")

    def problems(self) -> Iterator[tuple[int, str]]:
        """Those that no line followed, with their numbers."""
        for at in self._waiting:
            yield at, "not a line of a chain: it was changed or inserted"
        for at in self._too_long:
            yield at, f"damaged: it has more than {MAXIMUM_LINE_BYTES} bytes"


def lines_of(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file. Of one with more than ``MAXIMUM_LINE_BYTES`` it yields the beginning, which is longer too.

    Raises:
        OSError: the file cannot be read.
    """
    while part := file.readline(MAXIMUM_LINE_BYTES + 1):
        yield part
        while len(part) > MAXIMUM_LINE_BYTES and not part.endswith(b"\n"):
            part = file.readline(MAXIMUM_LINE_BYTES + 1)


def verify_lines(lines: Iterable[bytes], key: Secret) -> Verification:
    """Verify every line of a log. The lines of several chains may be mixed.

    A chain that does not begin with its first line is a problem. So give rotated logs in order, the oldest first.
    """
    verification = Verification()
    secret = key.reveal().encode()
    found: list[tuple[int, str]] = []
    beginnings = Beginnings()
    for number, ended in enumerate(lines, 1):
        line = ended.rstrip(b"\r\n")
        parsed = parse_line(line)
        if parsed is None:
            beginnings.add(number, line)
            continue
        problems = [*_check(*parsed, secret, verification)]
        found += ((number, problem) for problem in problems)
        if not problems:
            beginnings.complete(number, line)
    found += beginnings.problems()
    verification.incomplete = beginnings.incomplete
    verification.problems += (
        f"line {number}: {problem}" for number, problem in sorted(found, key=lambda item: item[0])
    )
    return verification


def _check(fields: Mapping[str, Any], text: bytes, mac: str, key: bytes, verification: Verification) -> Iterator[str]:
    chain_id, number = fields["chain"], fields["number"]
    report = verification.chains.get(chain_id)
    if report is None:
        report = verification.chains[chain_id] = ChainReport(chain_id, first=number, last=number - 1)
        if number:
            yield f"chain {chain_id} begins with number {number}: earlier lines were removed or are in another file"
        else:
            report._last_mac = chain_id  # noqa: SLF001 - of this module
    elif number > report.last + 1:
        missing = number - report.last - 1
        yield f"chain {chain_id} has number {number} after {report.last}: {missing} lines were removed"
        report._last_mac = None  # noqa: SLF001
    elif number <= report.last:
        yield f"chain {chain_id} has number {number} after {report.last}: the line was repeated or moved"
        return
    before = report._last_mac  # noqa: SLF001
    if before is not None and not hmac.compare_digest(mac_of(key, before, text), mac):
        yield f"chain {chain_id}, number {number}: the line was changed, or its HMAC was made with another key"
    report.lines, report.last, report._last_mac = report.lines + 1, number, mac  # noqa: SLF001
    if fields.get("message") == CHECKPOINT:
        report.checkpoint, report.checkpoint_time = number, str(fields.get("time"))


def parse_line(line: bytes) -> tuple[dict[str, Any], bytes, str] | None:
    """The members of a line, the text that its HMAC covers, and the HMAC."""
    match = _MAC.fullmatch(line[-_MAC_BYTES:])
    if match is None or len(line) > MAXIMUM_LINE_BYTES:
        return None
    text = line[:-_MAC_BYTES] + b"}"
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not (
        isinstance(fields, dict) and isinstance(fields.get("chain"), str) and isinstance(fields.get("number"), int)
    ):
        return None
    return fields, text, match["mac"].decode()


def mac_of(key: bytes, before: str, text: bytes) -> str:
    """The HMAC of a line in hexadecimal; ``before`` is that of the line before, or the id of the chain."""
    return hmac.new(key, before.encode("utf-8", "surrogatepass") + b"\n" + text, hashlib.sha256).hexdigest()
