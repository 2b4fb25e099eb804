"""How many series a scrape has at most, and which are folded into one."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from xksproxy.decoding import decode_json
from xksproxy.runtime_file import read_runtime_file, replace_runtime_file

_SHOWN: Final = "shown-key-stores"


def allot(wanted: Mapping[str, int], available: int) -> dict[str, int]:
    """Divide ``available`` among those that want something: who wants less than an equal part gets all of it."""
    allotted: dict[str, int] = {}
    left = max(0, available)
    for position, (name, number) in enumerate(sorted(wanted.items(), key=lambda item: item[1])):
        allotted[name] = min(number, left // (len(wanted) - position))
        left -= allotted[name]
    return allotted


class ShownStores:
    """The key stores that have series of their own where not all can have them.

    A counter that moves between a series of its own and ``other`` would look to Prometheus like a restart, and a burst.
    So the choice is kept in a file for all workers while the service runs: a key store stays, and others join it, the
    busiest first, while there is room.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / _SHOWN
        self._known: tuple[str, ...] = ()

    def choose(self, busiest_first: Iterable[str], most: int) -> tuple[str, ...]:
        """At most so many of these key stores."""
        before = dict.fromkeys(self._read())
        chosen = tuple(dict.fromkeys([*before, *busiest_first]))[: max(most, 0)]
        if chosen != tuple(before):
            self._write(chosen)
        self._known = chosen
        return chosen

    def _read(self) -> tuple[str, ...]:
        with suppress(OSError, msgspec.MsgspecError):
            return decode_json(read_runtime_file(self._path), tuple[str, ...])
        return self._known

    def _write(self, chosen: tuple[str, ...]) -> None:
        """A choice that cannot be written is remembered by this worker alone."""
        with suppress(OSError):
            replace_runtime_file(self._path, msgspec.json.encode(chosen))
