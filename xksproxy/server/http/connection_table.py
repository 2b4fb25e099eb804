"""The connections of a listener: how many there may be, and which has to go when there are too many."""

from collections.abc import Iterator
from enum import IntEnum
from itertools import chain
from typing import Final, Protocol


class Stage(IntEnum):
    """How far a connection has come, and so how much it is worth."""

    SILENT = 0
    """It has sent nothing."""

    HANDSHAKE = 1
    STRANGER = 2
    """Idle; neither a client certificate nor a signed request has come on it."""

    STRANGER_BUSY = 3
    CLIENT = 4
    """Idle, and authenticated."""

    CLIENT_BUSY = 5
    CLOSING = 6
    """The last answer was sent."""


class Member(Protocol):
    """A connection, as far as it matters here. Times are those of the event loop."""

    stage: Stage
    expires_at: float
    """When it has to go if nothing happens."""

    grace_until: float
    """Until when it is spared, its handshake being just done."""

    def drop(self) -> None:
        """End at once."""

    def close(self) -> None:
        """End in form."""

    def expire(self) -> None:
        """End because nothing happened in time."""


class ConnectionTable:
    """Bounds the number of connections. Belongs to the event loop.

    Unfinished handshakes and strangers may have a quarter of the maximum each, authenticated connections the rest, and
    any of them more while nobody needs it. At the maximum, whoever has more than that share makes room: the oldest
    handshake, silent ones before others; then the longest idle stranger, one whose handshake was done within a second
    only if there is no other; then the longest idle client. So strangers displace strangers, and nobody a client that
    has just come.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._share: Final = maximum // 4
        self._stages: tuple[dict[Member, None], ...] = tuple({} for _ in Stage)
        """By stage; in each, those come first that have been in it longest."""
        self._members: set[Member] = set()

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members))

    def count(self, *stages: Stage) -> int:
        """How many are in some stages."""
        return sum(len(self._stages[stage]) for stage in stages)

    def admit(self, member: Member, now: float) -> bool:
        """Take in one more, in its stage; whether there is room, or could be made."""
        if len(self._members) >= self._maximum:
            victim = self._victim(now)
            if victim is None:
                return False
            self.remove(victim)
            victim.drop()
        self._members.add(member)
        self._stages[member.stage][member] = None
        return True

    def move(self, member: Member, stage: Stage) -> None:
        """Put a member in another stage, or behind all others of its own."""
        stages = self._stages
        stages[member.stage].pop(member, None)
        member.stage = stage
        if member in self._members:
            stages[stage][member] = None

    def remove(self, member: Member) -> None:
        """Forget a member, if it is one."""
        self._members.discard(member)
        self._stages[member.stage].pop(member, None)

    def expire(self, now: float, late: float = 0.0) -> None:
        """End all whose time is over. ``late`` seconds are added to everybody's, for those in which nothing ran."""
        for member in [*self._members]:
            member.expires_at += late
            if member.expires_at <= now:
                member.expire()

    def _victim(self, now: float) -> Member | None:
        handshakes = self.count(Stage.SILENT, Stage.HANDSHAKE)
        strangers = self.count(Stage.STRANGER, Stage.STRANGER_BUSY)
        clients = self.count(Stage.CLIENT, Stage.CLIENT_BUSY)
        handshake = next(chain(self._stages[Stage.SILENT], self._stages[Stage.HANDSHAKE]), None)
        closing = next(iter(self._stages[Stage.CLOSING]), None)
        if closing is not None:
            return closing
        if handshakes > self._share:
            return handshake
        if strangers > self._share:
            return self._stranger(now)
        client = next(iter(self._stages[Stage.CLIENT]), None)
        if client is not None and clients > self._maximum - 2 * self._share:
            return client
        return handshake or next(iter(self._stages[Stage.STRANGER]), None) or client

    def _stranger(self, now: float) -> Member | None:
        """The stranger that goes first: idle before busy, and either before one that has just come."""
        idle, busy = self._stages[Stage.STRANGER], self._stages[Stage.STRANGER_BUSY]
        settled = (member for member in chain(idle, busy) if member.grace_until <= now)
        return next(chain(settled, idle, busy), None)
