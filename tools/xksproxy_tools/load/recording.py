"""What happened to every request of a phase: all of them, nothing summed up while it runs."""

from array import array
from typing import Final

from xksproxy.spec.uri import Operation
from xksproxy_tools.load.requests import OK, Verdict

OPERATIONS: Final = tuple(Operation)
_CODES: Final = {operation: code for code, operation in enumerate(OPERATIONS)}


class Recording:
    """Columns with a row for each request, in the order in which they ended. Times are seconds since :attr:`start`.

    A request that got no answer ends when it is given up, so its times are what it took at least.
    """

    def __init__(self, start: float) -> None:
        """``start`` is on the monotonic clock."""
        self.start = start
        self.operations = array("B")
        self.scheduled = array("d")
        self.dispatched = array("d")
        self.sent = array("d")
        self.ended = array("d")
        self.verdicts = array("H")
        self.verdict_list = [OK]
        """What the numbers in :attr:`verdicts` mean; 0 is ok."""
        self.failed = 0
        self._numbers = {OK: 0}

    def __len__(self) -> int:
        return len(self.ended)

    def add(
        self, operation: Operation, verdict: Verdict, *, scheduled: float, dispatched: float, sent: float, ended: float
    ) -> None:
        """Add a row; the times are on the monotonic clock."""
        start = self.start
        self.operations.append(_CODES[operation])
        self.scheduled.append(scheduled - start)
        self.dispatched.append(dispatched - start)
        self.sent.append(min(sent, ended) - start)
        self.verdicts.append(0 if verdict is OK else self._number(verdict))
        self.ended.append(ended - start)

    def _number(self, verdict: Verdict) -> int:
        self.failed += 1
        if verdict not in self._numbers:
            self._numbers[verdict] = len(self.verdict_list)
            self.verdict_list.append(verdict)
        return self._numbers[verdict]
