"""When missing workers are reported: not during a start or a replacement, but if they hang or never live long."""

from collections.abc import Callable, Iterable

import pytest

from xksproxy.server.worker_count import WorkerCount


@pytest.fixture
def problems(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterable[int]], list[bool]]:
    """Whether there is a problem after each second, in which so many of two workers serve."""
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    count = WorkerCount()

    def seen(serving: Iterable[int]) -> list[bool]:
        found = []
        for number in serving:
            clock[0] += 1
            count.note(number, 2)
            found.append(bool(count.problem))
        return found

    return seen


def test_workers_that_start_are_not_missing(problems: Callable[[Iterable[int]], list[bool]]) -> None:
    assert not any(problems([0] * 9 + [2] * 20))


def test_a_worker_that_is_replaced_is_not_missing(problems: Callable[[Iterable[int]], list[bool]]) -> None:
    assert not any(problems([2] * 20 + [1] * 4 + [2] * 20 + [1] * 4 + [2] * 20))


@pytest.mark.parametrize("second", [[1, 1, 1], [1, 2, 2], [2, 2, 1]], ids=["hangs", "ends soon", "ends late"])
def test_a_worker_that_hangs_or_ends_again_and_again_is_missing(
    problems: Callable[[Iterable[int]], list[bool]], second: list[int]
) -> None:
    problems([2] * 20)

    assert all(problems(second * 10)[20:])
    assert problems([2] * 10)[-1] is False


def test_the_problem_has_the_number_that_served_when_some_were_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    count = WorkerCount()
    for serving in (5, 4, 5, 4, 5, 4, 5):
        count.note(serving, 5)

    assert count.problem.startswith("4 of 5 workers serve")
