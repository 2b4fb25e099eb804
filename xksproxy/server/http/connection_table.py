"""The connections of a listener: their maximum number, and the choice of the one that is closed for a new one."""

from collections.abc import Callable, Iterator
from enum import IntEnum
from itertools import chain
from typing import Final, Protocol


class Stage(IntEnum):
    """The progress of a connection. Connections in early stages are closed first."""

    SILENT = 0
    """It has sent nothing."""

    HANDSHAKE = 1
    STRANGER = 2
    """Idle, without a client certificate and without a signed request so far."""

    STRANGER_BUSY = 3
    CLIENT = 4
    """Idle, and authenticated."""

    CLIENT_BUSY = 5
    CLOSING = 6
    """The last answer was sent."""


class Member(Protocol):
    """A connection, as the table sees it. Times are those of the event loop, in seconds."""

    stage: Stage
    expires_at: float
    """The time at which it is closed if nothing happens."""

    grace_until: float
    """The time until which other connections are closed first, because its handshake is just complete."""

    def drop(self) -> None:
        """Close at once."""

    def close(self) -> None:
        """Close after TLS's close_notify."""

    def expire(self) -> None:
        """Close because nothing happened in time."""


class ConnectionTable:
    """Limits the number of connections. Belongs to the event loop.

    Unfinished handshakes have a share of a quarter of the maximum, connections of strangers (not authenticated) another
    quarter, and authenticated connections the rest. Each group may use more while there is room. At the maximum, a
    group above its share loses a connection for each new one: first the oldest handshake, preferably one that has sent
    nothing; then the stranger that is idle longest, preferably not one whose handshake was complete within the last
    second; then the client that is idle longest. So strangers displace strangers, and no connection displaces a client
    that has just connected.
    """

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._share: Final = maximum // 4
        self._stages: tuple[dict[Member, None], ...] = tuple({} for _ in Stage)
        """The connections of each stage. Those that have been in the stage longest are first."""
        self._members: set[Member] = set()
        self.when_fewer: Callable[[], None] = lambda: None
        """Called after each removal."""

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members))

    def count(self, *stages: Stage) -> int:
        """The number of connections in some stages."""
        return sum(len(self._stages[stage]) for stage in stages)

    def admit(self, member: Member, now: float) -> bool:
        """Add a connection in its stage. Returns False if there is no room, and no connection can be closed for it."""
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
        """Move a member to a stage, behind all others of that stage."""
        stages = self._stages
        stages[member.stage].pop(member, None)
        member.stage = stage
        if member in self._members:
            stages[stage][member] = None

    def remove(self, member: Member) -> None:
        """Remove a member, if it is in the table."""
        self._members.discard(member)
        self._stages[member.stage].pop(member, None)
        self.when_fewer()

    def expire(self, now: float, late: float = 0.0) -> None:
        """Close the connections whose time is over. All get ``late`` seconds more, in which the process did not run."""
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
        """The stranger that is closed first: idle before busy, and new ones last."""
        idle, busy = self._stages[Stage.STRANGER], self._stages[Stage.STRANGER_BUSY]
        settled = (member for member in chain(idle, busy) if member.grace_until <= now)
        return next(chain(settled, idle, busy), None)
