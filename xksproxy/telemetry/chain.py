"""Audit lines chained by HMAC, so that a removed, changed or moved line shows."""

import hashlib
import hmac
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from xksproxy.config.secret import Secret
from xksproxy.telemetry.lines import json_line

CHECKPOINT: Final = "checkpoint"
"""The message of a line that says how far a chain has come."""

_MAC: Final = re.compile(rb',"mac":"(?P<mac>[0-9a-f]{64})"\}')
_MAC_BYTES: Final = len(b',"mac":""}') + 64


class Chain:
    """The lines of one process, each with the chain's id, its number, and an HMAC-SHA256 over itself and its past.

    ``mac`` is the last member of the line's object. It covers the HMAC of the line before, in hex (of the first line:
    the chain's id), a line feed, and the line without ``mac``.
    """

    def __init__(self, key: Secret) -> None:
        self._key = key.reveal().encode()
        self.id = os.urandom(8).hex()
        self._number = 0
        self._last = self.id

    def seal(self, fields: Mapping[str, Any]) -> str:
        """The next line."""
        text = json_line({**fields, "chain": self.id, "number": self._number})
        self._last = _mac(self._key, self._last, text.encode())
        self._number += 1
        return f'{text[:-1]},"mac":"{self._last}"}}'


@dataclass(slots=True)
class ChainReport:
    """What the lines of one chain prove."""

    id: str
    lines: int = 0
    first: int = 0
    """The number of its first line; above 0, earlier ones are elsewhere or gone."""

    last: int = -1
    checkpoint: int | None = None
    """The number of its last checkpoint."""

    checkpoint_time: str | None = None
    _last_mac: str | None = field(default=None, repr=False)

    @property
    def lines_after_checkpoint(self) -> int:
        """Lines at the end whose successors could be cut off without a trace."""
        return self.last - (self.first - 1 if self.checkpoint is None else self.checkpoint)


@dataclass(slots=True)
class Verification:
    """What a log proves, and where it fails to."""

    chains: dict[str, ChainReport] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def verify_lines(lines: Iterable[bytes], key: Secret) -> Verification:
    """Check every line of a log, those of several chains mixed as they were written.

    A chain that does not begin with its first line is a problem too: give the logs in their order, the oldest first.
    """
    verification = Verification()
    secret = key.reveal().encode()
    for place, line in enumerate(lines, 1):
        verification.problems += (
            f"line {place}: {what}" for what in _check(line.rstrip(b"\r\n"), secret, verification)
        )
    return verification


def _check(line: bytes, key: bytes, verification: Verification) -> Iterator[str]:
    parsed = _parse(line)
    if parsed is None:
        yield "it is no line of a chain: changed, or put in"
        return
    fields, text, mac = parsed
    chain_id, number = fields["chain"], fields["number"]
    report = verification.chains.get(chain_id)
    if report is None:
        report = verification.chains[chain_id] = ChainReport(chain_id, first=number, last=number - 1)
        if number:
            yield f"chain {chain_id} begins with number {number}: lines before it are removed or in another file"
        else:
            report._last_mac = chain_id  # noqa: SLF001 - of this module
    elif number > report.last + 1:
        yield f"chain {chain_id} goes from number {report.last} to {number}: {number - report.last - 1} lines removed"
        report._last_mac = None  # noqa: SLF001
    elif number <= report.last:
        yield f"chain {chain_id} goes back from number {report.last} to {number}: repeated, or moved"
        return
    before = report._last_mac  # noqa: SLF001
    if before is not None and not hmac.compare_digest(_mac(key, before, text), mac):
        yield f"chain {chain_id}, number {number}: changed, or sealed with another key"
    report.lines, report.last, report._last_mac = report.lines + 1, number, mac  # noqa: SLF001
    if fields.get("message") == CHECKPOINT:
        report.checkpoint, report.checkpoint_time = number, str(fields.get("time"))


def _parse(line: bytes) -> tuple[dict[str, Any], bytes, str] | None:
    """The members of a line, what its HMAC covers, and the HMAC."""
    match = _MAC.fullmatch(line[-_MAC_BYTES:])
    if match is None:
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


def _mac(key: bytes, before: str, text: bytes) -> str:
    return hmac.new(key, before.encode() + b"\n" + text, hashlib.sha256).hexdigest()
