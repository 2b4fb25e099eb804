"""Going over many things a few at a time."""

from collections.abc import Iterable, Iterator
from itertools import islice


class RoundRobin:
    """Takes a few of many names each time, in turn."""

    def __init__(self, number: int) -> None:
        """``number`` of them each time."""
        self._number = number
        self._left: Iterator[str] = iter(())

    def next(self, names: Iterable[str]) -> list[str]:
        """The next ones; after the last, the names are taken anew. Fewer if the names end before."""
        taken = list(islice(self._left, self._number))
        if not taken:
            self._left = iter(list(names))
            taken = list(islice(self._left, self._number))
        return taken
