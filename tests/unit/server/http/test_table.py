"""Which connection has to go when there are too many."""

import math
from dataclasses import dataclass, field

import pytest

from xksproxy.server.http.connection_table import ConnectionTable, Stage

NOW = 100.0


@dataclass(eq=False)
class FakeConnection:
    stage: Stage
    grace_until: float = 0.0
    expires_at: float = math.inf
    ends: list[str] = field(default_factory=list)

    def drop(self) -> None:
        self.ends.append("dropped")

    def close(self) -> None:
        self.ends.append("closed")

    def expire(self) -> None:
        self.ends.append("expired")


def full(*stages: Stage) -> tuple[ConnectionTable, list[FakeConnection]]:
    """A table at its maximum."""
    table = ConnectionTable(len(stages))
    members = [FakeConnection(stage) for stage in stages]
    assert all(table.admit(member, NOW) for member in members)
    return table, members


def victim(table: ConnectionTable, members: list[FakeConnection]) -> int | None:
    """The place of the member that makes room for a newcomer."""
    admitted = table.admit(FakeConnection(Stage.SILENT), NOW)
    dropped = [place for place, member in enumerate(members) if member.ends]
    assert len(dropped) == admitted
    return dropped[0] if dropped else None


SILENT, HANDSHAKE, STRANGER, CLIENT = Stage.SILENT, Stage.HANDSHAKE, Stage.STRANGER, Stage.CLIENT
STRANGER_BUSY, CLIENT_BUSY = Stage.STRANGER_BUSY, Stage.CLIENT_BUSY


@pytest.mark.parametrize(
    ("stages", "place"),
    [
        ([CLIENT, STRANGER, HANDSHAKE, HANDSHAKE], 2),
        ([CLIENT, STRANGER, HANDSHAKE, SILENT], 3),
        ([SILENT, SILENT, STRANGER, CLIENT], 0),
        ([HANDSHAKE, STRANGER, STRANGER, CLIENT], 1),
        ([STRANGER_BUSY, STRANGER, STRANGER, HANDSHAKE], 1),
        ([STRANGER_BUSY, STRANGER_BUSY, HANDSHAKE, CLIENT], 0),
        ([CLIENT, CLIENT, CLIENT, HANDSHAKE], 0),
        ([CLIENT_BUSY, CLIENT, CLIENT, STRANGER], 1),
        ([CLIENT_BUSY, CLIENT_BUSY, CLIENT_BUSY, STRANGER], 3),
        ([CLIENT_BUSY, CLIENT_BUSY, CLIENT_BUSY, CLIENT_BUSY], None),
        ([CLIENT, Stage.CLOSING, STRANGER, HANDSHAKE], 1),
    ],
)
def test_who_has_more_than_its_share_makes_room(stages: list[Stage], place: int | None) -> None:
    assert victim(*full(*stages)) == place


def test_handshakes_displace_no_stranger_within_its_share_and_no_client() -> None:
    """As in a flood of connections: what KMS has just begun stays, whatever comes."""
    table, members = full(*[CLIENT] * 4, *[STRANGER] * 2, *[SILENT] * 2)
    for _ in range(1000):
        assert table.admit(FakeConnection(SILENT), NOW)
    assert not any(member.ends for member in members[:6])


def test_a_client_that_just_finished_its_handshake_is_dropped_last() -> None:
    table, members = full(STRANGER, STRANGER, STRANGER, CLIENT)
    members[0].grace_until = NOW + 0.5
    assert victim(table, members) == 1

    table, members = full(STRANGER, STRANGER, STRANGER, CLIENT)
    for member in members:
        member.grace_until = NOW + 0.5
    assert victim(table, members) == 0


def test_of_several_the_one_that_was_used_last_stays_longest() -> None:
    table, members = full(STRANGER, STRANGER, STRANGER, STRANGER)
    table.move(members[0], STRANGER_BUSY)
    table.move(members[0], STRANGER)
    assert victim(table, members) == 1


def test_a_member_that_was_removed_is_in_no_stage() -> None:
    table, members = full(CLIENT, STRANGER)
    table.remove(members[0])
    table.remove(members[0])
    table.move(members[0], STRANGER)
    assert (len(table), table.count(*Stage)) == (1, 1)


def test_expired_connections_are_closed() -> None:
    table, members = full(CLIENT, STRANGER)
    members[1].expires_at = NOW
    table.expire(NOW)
    assert [member.ends for member in members] == [[], ["expired"]]


def test_time_in_which_the_process_did_not_run_is_not_counted() -> None:
    table, members = full(CLIENT, STRANGER)
    members[0].expires_at, members[1].expires_at = NOW - 1, NOW - 3
    table.expire(NOW, late=2)
    assert [member.ends for member in members] == [[], ["expired"]]
    assert members[0].expires_at == NOW + 1
