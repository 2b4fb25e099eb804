"""When memory is given back."""

from collections.abc import Iterable

from xksproxy.server.freed_memory import FreedMemory


def given_back(connections: Iterable[int]) -> int:
    """How often, if there are so many connections one second after another."""
    counts, given = list(connections), []
    left = iter(counts)
    memory = FreedMemory(lambda: next(left), lambda: not given.append(1))
    for _ in counts:
        memory.follow()
    return len(given)


def test_memory_is_given_back_when_half_of_many_connections_have_ended() -> None:
    assert given_back([0, 150, 1000, 600, 501]) == 0
    assert given_back([0, 150, 1000, 600, 501, 500]) == 1


def test_memory_is_given_back_once_for_each_half() -> None:
    assert given_back([1000, 500, 499, 300, 251, 250, 150]) == 2


def test_a_few_connections_are_not_worth_it() -> None:
    assert given_back([99, 0, 50, 0]) == 0


def test_memory_that_cannot_be_given_back_yet_is_tried_again() -> None:
    answers = iter((False, True))
    memory = FreedMemory(iter((1000, 500, 500, 500)).__next__, lambda: next(answers))

    for _ in range(4):
        memory.follow()

    assert list(answers) == []
