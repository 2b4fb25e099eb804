"""Changed credentials and certificates that could not be used."""

import time
from typing import Final

_TRY_AGAIN_SECONDS: Final = 5.0


class RefusedFiles:
    """Changed files that were refused. They are tried again, because the cause may have been a passing one."""

    def __init__(self) -> None:
        self._problems: tuple[str, ...] = ()
        self._next = 0.0

    def again(self) -> bool:
        """Whether it is time to try them again."""
        return bool(self._problems) and time.monotonic() >= self._next

    @property
    def problems(self) -> tuple[str, ...]:
        """Why they were refused the last time; empty if none is refused."""
        return self._problems

    def note(self, problems: tuple[str, ...]) -> bool:
        """Note a refusal, and return whether its problems are new."""
        is_new = problems != self._problems
        self._problems, self._next = problems, time.monotonic() + _TRY_AGAIN_SECONDS
        return is_new
