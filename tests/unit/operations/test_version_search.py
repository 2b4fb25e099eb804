"""The search for unknown key versions: results, and limits on the number of searches."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from xksproxy.deadline import Deadline
from xksproxy.hsm.errors import DeadlinePassed, HsmError, KeyAmbiguous, KeyMissing, TokenUnavailable
from xksproxy.hsm.instance.health import InstanceHealth
from xksproxy.hsm.keys import KeyDescription, Sealed, TokenKey
from xksproxy.operations import version_search
from xksproxy.operations.version_search import VersionSearch
from xksproxy.spec.errors import (
    DependencyTimeoutException,
    InternalException,
    InvalidStateException,
    ThrottlingException,
    XksError,
)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


class Keys:
    """An engine with keys only. It records each search and fails or waits as a test sets it."""

    def __init__(self) -> None:
        self.present: set[str] = set()
        self.seen: set[str] = set()
        self.failure: HsmError | None = None
        self.searches: list[str] = []
        self.released = asyncio.Event()
        self.released.set()

    async def describe_key(self, label: str, deadline: Deadline) -> KeyDescription:
        self.searches.append(label)
        await self.released.wait()
        if self.failure is not None:
            raise self.failure
        if label not in self.present:
            raise KeyMissing(label)
        return KeyDescription(label, "AES_256", ("ENCRYPT", "DECRYPT"), sensitive=True, extractable=False)

    def has_seen(self, label: str) -> bool:
        return label in self.seen

    async def encrypt(self, key: TokenKey, plaintext: bytes, aad: bytes, deadline: Deadline) -> Sealed:
        raise NotImplementedError

    async def decrypt(self, key: TokenKey, sealed: Sealed, aad: bytes, deadline: Deadline) -> bytes:
        raise NotImplementedError

    def health(self) -> Sequence[InstanceHealth]:
        raise NotImplementedError


@pytest.fixture
async def keys() -> Keys:
    return Keys()


@pytest.fixture
async def search(keys: Keys) -> VersionSearch:
    return VersionSearch(keys)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the search. Deadlines use the real clock."""
    clock = Clock()
    monkeypatch.setattr(version_search, "time", clock)
    return clock


@pytest.fixture
def find(search: VersionSearch) -> Callable[..., asyncio.Task[bool]]:
    """Search with a long deadline."""

    def find(label: str, key_id: str = "foo", seconds: float = 60) -> asyncio.Task[bool]:
        return asyncio.create_task(search.exists(key_id, label, Deadline.after(seconds)))

    return find


async def test_a_version_that_an_hsm_has_is_found_and_known_for_a_minute(
    keys: Keys, find: Callable[..., asyncio.Task[bool]], clock: Clock
) -> None:
    keys.present.add("foo.v2")
    assert await find("foo.v2")

    clock.now += 59
    assert await find("foo.v2")
    assert keys.searches == ["foo.v2"]

    clock.now += 2
    keys.present.clear()
    assert not await find("foo.v2")


async def test_a_version_that_no_hsm_has_is_known_to_be_missing_for_5_seconds(
    keys: Keys, find: Callable[..., asyncio.Task[bool]], clock: Clock
) -> None:
    assert not await find("foo.v2")

    clock.now += 4.9
    keys.present.add("foo.v2")
    assert not await find("foo.v2")
    assert keys.searches == ["foo.v2"]

    clock.now += 0.2
    assert await find("foo.v2")


async def test_a_version_that_the_engine_has_seen_is_not_searched_for(
    keys: Keys, find: Callable[..., asyncio.Task[bool]], clock: Clock
) -> None:
    assert not await find("foo.v2")

    keys.seen.update(("foo.v2", "foo.v3"))

    assert await find("foo.v2")
    assert await find("foo.v3")
    assert keys.searches == ["foo.v2"]


async def test_beyond_32_missing_versions_of_a_key_a_search_is_throttled(
    keys: Keys, find: Callable[..., asyncio.Task[bool]], clock: Clock
) -> None:
    keys.present.add("foo.v99")
    for number in range(2, 34):
        assert not await find(f"foo.v{number}")

    with pytest.raises(ThrottlingException):
        await find("foo.v99")

    assert len(keys.searches) == 32
    assert not await find("foo.v2")
    assert not await find("bar.v2", "bar")

    clock.now += 5
    assert await find("foo.v99")


async def test_versions_that_are_found_do_not_count_as_missing(
    keys: Keys, find: Callable[..., asyncio.Task[bool]], clock: Clock
) -> None:
    keys.present.update(f"foo.v{number}" for number in range(2, 100))

    assert all([await find(label) for label in sorted(keys.present)])


@pytest.mark.parametrize("present", [True, False])
async def test_requests_for_one_version_at_once_cost_one_search(
    keys: Keys, find: Callable[..., asyncio.Task[bool]], present: bool
) -> None:
    keys.released.clear()
    if present:
        keys.present.add("foo.v2")
    waiting = [find("foo.v2") for _ in range(20)]
    await asyncio.sleep(0)
    keys.released.set()

    assert await asyncio.gather(*waiting) == [present] * 20
    assert keys.searches == ["foo.v2"]


async def test_a_search_takes_no_longer_than_the_deadline(keys: Keys, find: Callable[..., asyncio.Task[bool]]) -> None:
    keys.released.clear()
    keys.present.add("foo.v2")

    with pytest.raises(DependencyTimeoutException):
        await find("foo.v2", seconds=0.01)

    keys.released.set()
    assert await find("foo.v2")


async def test_waiting_for_another_search_takes_no_longer_than_the_deadline(
    keys: Keys, find: Callable[..., asyncio.Task[bool]]
) -> None:
    keys.released.clear()
    first = find("foo.v2")
    await asyncio.sleep(0)

    with pytest.raises(DependencyTimeoutException):
        await find("foo.v3", seconds=0.01)

    keys.released.set()
    assert not await first
    assert keys.searches == ["foo.v2"]


async def test_a_remembered_result_is_returned_without_waiting_for_another_search(
    keys: Keys, find: Callable[..., asyncio.Task[bool]]
) -> None:
    keys.present.add("foo.v2")
    assert await find("foo.v2")
    assert not await find("foo.v3")
    keys.released.clear()
    other = find("bar.v2", "bar")
    await asyncio.sleep(0)

    assert await find("foo.v2", seconds=30)
    assert not await find("foo.v3", seconds=30)
    other.cancel()


@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_after_the_deadline_nothing_is_answered_wrongly(
    keys: Keys, find: Callable[..., asyncio.Task[bool]], seconds: float
) -> None:
    keys.released.clear()

    with pytest.raises(DependencyTimeoutException):
        await find("foo.v2", seconds=seconds)


async def test_a_search_that_is_cancelled_lets_the_next_one_go_on(
    keys: Keys, find: Callable[..., asyncio.Task[bool]]
) -> None:
    keys.released.clear()
    keys.present.add("foo.v2")
    first, second = find("foo.v2"), find("foo.v2")
    await asyncio.sleep(0)
    first.cancel()
    keys.released.set()

    assert await second
    assert first.cancelled()


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (TokenUnavailable("down"), InternalException),
        (DeadlinePassed("late"), DependencyTimeoutException),
        (KeyAmbiguous("two"), InvalidStateException),
    ],
)
async def test_a_failure_of_the_hsm_is_raised_and_not_remembered_as_a_missing_version(
    keys: Keys, find: Callable[..., asyncio.Task[bool]], clock: Clock, failure: HsmError, error: type[XksError]
) -> None:
    keys.present.add("foo.v2")
    keys.failure = failure
    for _ in range(40):
        with pytest.raises(error):
            await find("foo.v2")

    keys.failure = None
    assert await find("foo.v2")


async def test_missing_versions_are_forgotten_after_they_expire(
    keys: Keys, search: VersionSearch, find: Callable[..., asyncio.Task[bool]], clock: Clock
) -> None:
    # With a pattern, a client can invent any number of key ids.
    for number in range(500):
        assert not await find(f"key-{number}.v2", f"key-{number}")
        clock.now += 1

    assert len(search._missing) <= 6
