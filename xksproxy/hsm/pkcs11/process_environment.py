"""The environment variables that modules read while they are loaded and initialised."""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

_TURN_SECONDS: Final = 5.0
"""A module reads its environment first. If it takes longer, it waits for its HSM, and other HSMs must not wait too."""


class ProcessEnvironment:
    """Sets the environment variables of modules, of one after another if they differ.

    The variables belong to the whole process. Of two modules that are initialised at once, one could read the settings
    of the other, and use its token.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: dict[object, tuple[Mapping[str, str], float]] = {}
        """The variables of each holder, and the monotonic time until which others wait for it."""

    @contextmanager
    def holding(self, variables: Mapping[str, str]) -> Iterator[None]:
        """Set variables, and keep their values during the block.

        First waits while another thread holds another value of one of them, but for none that has held it for 5 s.
        """
        holder = object()
        with self._changed:
            while (seconds := self._seconds_to_wait(variables)) > 0:
                self._changed.wait(seconds)
            os.environ.update(variables)
            self._held[holder] = (variables, time.monotonic() + _TURN_SECONDS)
        try:
            yield
        finally:
            with self._changed:
                del self._held[holder]
                self._changed.notify_all()

    def _seconds_to_wait(self, variables: Mapping[str, str]) -> float:
        ends = [end for held, end in self._held.values() if _differ(variables, held)]
        return max(ends, default=0) - time.monotonic()


def _differ(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return any(other.get(name, value) != value for name, value in one.items())
