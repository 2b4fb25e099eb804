"""The environment variables that modules read while they are loaded and initialised."""

import os
import threading
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
        self._held: list[Mapping[str, str]] = []

    @contextmanager
    def holding(self, variables: Mapping[str, str]) -> Iterator[None]:
        """Set variables, and keep their values during the block.

        First waits, at most 5 s, while another thread holds another value of one of them.
        """
        with self._changed:
            self._changed.wait_for(lambda: not any(_differ(variables, held) for held in self._held), _TURN_SECONDS)
            os.environ.update(variables)
            self._held.append(variables)
        try:
            yield
        finally:
            with self._changed:
                self._held.remove(variables)
                self._changed.notify_all()


def _differ(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    return any(other.get(name, value) != value for name, value in one.items())
