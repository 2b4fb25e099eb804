"""A change of the credentials of a key store is one event, whichever process sees it, and in whatever order."""

from pathlib import Path
from typing import Any

import pytest

from xksproxy.config.credentials import load_credentials, save_credential
from xksproxy.sigv4.keyring import generate_credential
from xksproxy.state.audit_spool import AuditSpool
from xksproxy.state.known_credentials import Checks, KnownCredentials, checks_of
from xksproxy.state.state_file import StateFile, StateUnusable


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The credentials of a key store, with one credential."""
    made = tmp_path / "credentials"
    made.mkdir()
    save_credential(made, generate_credential())
    return made


@pytest.fixture
def state(tmp_path: Path) -> Path:
    made = tmp_path / "state"
    made.mkdir(0o700)
    return made


def seen(directory: Path) -> dict[str, tuple[Path, Checks]]:
    return {"s": (directory, checks_of(load_credentials(directory)))}


def events(state: Path) -> list[dict[str, Any]]:
    if not (state / "audit").exists():
        return []
    found = AuditSpool(state).entries().values()
    return [{key: entry.fields[key] for key in ("added", "removed") if key in entry.fields} for entry in found if entry]


def test_a_change_that_two_processes_see_is_one_event(state: Path, directory: Path) -> None:
    first, second = KnownCredentials(state), KnownCredentials(state)
    first.follow(seen(directory))
    second.follow(seen(directory))
    assert events(state) == []

    new = save_credential(directory, generate_credential())
    first.follow(seen(directory))
    second.follow(seen(directory))

    assert events(state) == [{"added": [new.stem]}]


def test_a_process_that_has_not_seen_a_change_yet_does_not_undo_it(state: Path, directory: Path) -> None:
    before = seen(directory)
    first, second = KnownCredentials(state), KnownCredentials(state)
    first.follow(before)

    new = save_credential(directory, generate_credential())
    first.follow(seen(directory))
    second.follow(before)
    second.follow(seen(directory))

    assert events(state) == [{"added": [new.stem]}]


def test_while_the_file_cannot_be_written_a_change_is_one_event(
    state: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StateUnusable("no room")

    known = KnownCredentials(state)
    known.follow(seen(directory))
    new = save_credential(directory, generate_credential())
    with monkeypatch.context() as patched:
        patched.setattr(StateFile, "write", fail)
        for _ in range(3):
            with pytest.raises(StateUnusable):
                known.follow(seen(directory))
    known.follow(seen(directory))

    assert events(state) == [{"added": [new.stem]}]


def test_many_changes_at_once_are_one_event_of_a_bounded_length(state: Path, directory: Path) -> None:
    known = KnownCredentials(state)
    known.follow(seen(directory))

    for _ in range(150):
        save_credential(directory, generate_credential())
    known.follow(seen(directory))

    ((added,),) = (event.values() for event in events(state))
    assert (len(added), added[-1]) == (101, "and 50 more")
