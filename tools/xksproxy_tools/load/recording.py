"""Records every request of a phase. Nothing is aggregated while the phase runs."""

from array import array
from typing import Final

from xksproxy.spec.uri import Operation
from xksproxy_tools.load.requests import OK, RequestResult

OPERATIONS: Final = tuple(Operation)
_CODES: Final = {operation: code for code, operation in enumerate(OPERATIONS)}


class Recording:
    """Columns with one row for each request, in the order in which they ended. Times are seconds since :attr:`start`.

    A request without a response ends at its time limit, so its times are lower bounds.
    """

    def __init__(self, start: float) -> None:
        """``start`` is on the monotonic clock."""
        self.start = start
        self.operations = array("B")
        self.scheduled = array("d")
        self.dispatched = array("d")
        self.sent = array("d")
        self.ended = array("d")
        self.results = array("H")
        self.distinct_results = [OK]
        """What the numbers in :attr:`results` mean; 0 is ok."""
        self.failed = 0
        self._numbers = {OK: 0}

    def __len__(self) -> int:
        return len(self.ended)

    def add(
        self,
        operation: Operation,
        result: RequestResult,
        *,
        scheduled: float,
        dispatched: float,
        sent: float,
        ended: float,
    ) -> None:
        """Add a row; the times are on the monotonic clock."""
        start = self.start
        self.operations.append(_CODES[operation])
        self.scheduled.append(scheduled - start)
        self.dispatched.append(dispatched - start)
        self.sent.append(min(sent, ended) - start)
        self.results.append(0 if result is OK else self._number(result))
        self.ended.append(ended - start)

    def _number(self, result: RequestResult) -> int:
        self.failed += 1
        if result not in self._numbers:
            self._numbers[result] = len(self.distinct_results)
            self.distinct_results.append(result)
        return self._numbers[result]
