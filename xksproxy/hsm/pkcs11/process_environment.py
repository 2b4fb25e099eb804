"""The environment variables that modules read while they are loaded and initialised."""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

_TURN_SECONDS: Final = 5.0
"""A module reads its environment first of all. What takes longer waits for an HSM; no other HSM must wait for it."""


class ProcessEnvironment:
    """Sets the variables of one module after another where they differ; they belong to the whole process.

    Otherwise one of two modules that are initialised at once would read the settings of the other, and use its token.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: list[Mapping[str, str]] = []

    @contextmanager
    def holding(self, variables: Mapping[str, str]) -> Iterator[None]:
        """Set variables, and keep their values while a module reads them.

        Waits while another thread holds another value of one of them, at most 5 s.
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
