"""The record of when credentials were last used."""

import json
import logging
from pathlib import Path

import pytest

from xksproxy.state.credential_uses import CredentialUse, CredentialUses, UseRecord
from xksproxy.state.shared_table import SharedTable
from xksproxy.state.state_file import StateUnusable


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of day and the monotonic time as the record sees them, both the one number."""
    now = [1_000.0]
    monkeypatch.setattr("xksproxy.state.credential_uses.time.time", lambda: now[0])
    monkeypatch.setattr("xksproxy.state.credential_uses.time.monotonic", lambda: now[0])
    return now


def test_a_use_is_on_record_for_every_process_once_it_is_flushed(tmp_path: Path, clock: list[float]) -> None:
    uses, command = CredentialUses(tmp_path, "payments"), CredentialUses(tmp_path, "payments")

    uses.mark_used("A")

    assert command.last_used(("A", "B")) == {}
    uses.record.flush()
    assert command.last_used(("A", "B")) == {"A": 1_000.0}


def test_it_is_written_once_a_minute_at_most(tmp_path: Path, clock: list[float]) -> None:
    uses = CredentialUses(tmp_path, "payments")
    recorded = []
    for second in range(181):
        clock[0] = 1_000.0 + second
        uses.mark_used("A")
        uses.record.flush()
        recorded.append(uses.last_used(("A",))["A"])

    assert sorted(set(recorded)) == [1_000.0, 1_060.0, 1_120.0, 1_180.0]


def test_a_use_between_two_records_is_not_lost(tmp_path: Path, clock: list[float]) -> None:
    uses = CredentialUses(tmp_path, "payments")
    uses.mark_used("A")
    uses.record.flush()
    clock[0] = 1_030.0
    uses.mark_used("A")
    uses.record.flush()
    clock[0] = 1_060.0

    uses.record.flush()

    assert uses.last_used(("A",)) == {"A": 1_030.0}


def test_the_latest_use_of_any_process_is_recorded(tmp_path: Path, clock: list[float]) -> None:
    slow, fast = CredentialUses(tmp_path, "payments"), CredentialUses(tmp_path, "payments")
    slow.mark_used("A")
    clock[0] = 1_010.0
    fast.mark_used("A")
    fast.record.flush()

    slow.record.flush()

    assert slow.last_used(("A",)) == {"A": 1_010.0}


def test_key_stores_and_credentials_are_kept_apart(tmp_path: Path, clock: list[float]) -> None:
    uses = CredentialUses(tmp_path, "payments")
    for access_key_id in ("A", "B"):
        uses.mark_used(access_key_id)
        uses.record.flush()
        clock[0] += 1

    assert uses.last_used(("A", "B")) == {"A": 1_000.0, "B": 1_001.0}
    assert CredentialUses(tmp_path, "other").last_used(("A", "B")) == {}


def test_what_cannot_be_recorded_is_said_once_and_stops_nothing(
    tmp_path: Path, clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "credential-uses.json").write_text("nonsense")
    uses = CredentialUses(tmp_path, "payments")

    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            uses.mark_used("A")
            uses.record.flush()
            clock[0] += 60

    assert len(caplog.records) == 1


@pytest.mark.parametrize("name", ["credential-uses.json", "credentials-payments.json"])
def test_a_record_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("nonsense")

    with pytest.raises(StateUnusable):
        CredentialUses(tmp_path, "payments").last_used(("A",))


def test_uses_of_all_key_stores_are_one_write(tmp_path: Path, clock: list[float]) -> None:
    record = UseRecord(tmp_path)
    for number in range(50):
        CredentialUses(tmp_path, f"store-{number}", record).mark_used("A")

    record.flush()

    assert CredentialUses(tmp_path, "store-49").last_used(("A",)) == {"A": 1_000.0}
    assert json.loads((tmp_path / "credential-uses.json").read_text())["revision"] == 1


def test_what_an_earlier_release_recorded_counts_until_the_credential_is_used(
    tmp_path: Path, clock: list[float]
) -> None:
    former = SharedTable(tmp_path, "credentials-payments.json", CredentialUse)
    for access_key_id, at in {"A": 500.0, "B": 600.0}.items():
        former.update(access_key_id, lambda _, at=at: CredentialUse(at))  # type: ignore[misc]
    uses = CredentialUses(tmp_path, "payments")
    uses.mark_used("A")
    uses.record.flush()

    assert uses.last_used(("A", "B")) == {"A": 1_000.0, "B": 600.0}
    assert not any((tmp_path / "audit-events").glob("*"))
