"""What the status says of several workers."""

import pytest

from xksproxy.server.status import greatest_clock_offset
from xksproxy.server.worker_status import WorkerStatus


def worker(offset: float | None) -> WorkerStatus:
    return WorkerStatus(1, 0.0, 0.0, 0, ready=True, hsms=(), refusals=(), clock_offset=offset)


@pytest.mark.parametrize(
    ("offsets", "greatest"),
    [((), None), ((None, None), None), ((None, 0.5), 0.5), ((0.5, -3600.0), -3600.0), ((3600.0, -0.5), 3600.0)],
)
def test_the_clock_offset_is_that_of_the_worker_that_sees_most(
    offsets: tuple[float | None, ...], greatest: float | None
) -> None:
    assert greatest_clock_offset(map(worker, offsets)) == greatest
