"""The conditions for retiring a credential."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from xksproxy.config.credentials import load_credentials, save_credential
from xksproxy.rotation.credentials import retire_credential
from xksproxy.rotation.errors import RotationRefused
from xksproxy.sigv4.keyring import Credential
from xksproxy.state.credential_uses import CredentialUse, CredentialUses
from xksproxy.state.shared_table import SharedTable
from xksproxy.state.state_file import StateUnusable

_OLD, _NEW = "A" * 20, "B" * 20
_HOUR, _DAY = 3600.0, 86_400.0


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "credentials"
    made.mkdir(0o700)
    for access_key_id in (_OLD, _NEW):
        save_credential(made, Credential(access_key_id, "s" * 43))
    return made


@pytest.fixture
def last_used(tmp_path: Path) -> Callable[..., CredentialUses]:
    """A record of credentials that were last used this many seconds ago."""
    (tmp_path / "state").mkdir(0o700)

    def make(**ago: float) -> CredentialUses:
        table = SharedTable(tmp_path / "state", "credentials-payments.json", CredentialUse)
        for access_key_id, seconds in ago.items():
            use = CredentialUse(time.time() - seconds)
            table.update(access_key_id, lambda _, use=use: use)
        return CredentialUses(tmp_path / "state", "payments")

    return make


def _retire(directory: Path, uses: CredentialUses, *, within: float = 1, force: bool = False) -> Path:
    return retire_credential(directory, _OLD, uses, within_days=within, force=force)


def _ids(directory: Path) -> set[str]:
    return {credential.access_key_id for credential in load_credentials(directory)}


def test_an_unused_credential_is_set_aside_and_the_others_stay(
    directory: Path, last_used: Callable[..., CredentialUses]
) -> None:
    content = (directory / f"{_OLD}.toml").read_bytes()

    path = _retire(directory, last_used(**{_OLD: 2 * _DAY, _NEW: 10.0}))

    assert path == directory / f"{_OLD}.toml.retired"
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (content, 0o600)
    assert _ids(directory) == {_NEW}
    path.rename(directory / f"{_OLD}.toml")
    assert _ids(directory) == {_OLD, _NEW}


@pytest.mark.parametrize(
    ("ago", "words"),
    [
        ({_OLD: 2 * _HOUR, _NEW: 10.0}, "used 2.0 hours ago"),
        ({_OLD: 300.0, _NEW: 10.0}, "used 5 minutes ago"),
        ({_OLD: -_HOUR, _NEW: 10.0}, "was used"),  # the clock was wrong then, or is now
        ({_OLD: 2 * _DAY}, "no other credential was certainly used"),
        ({_OLD: 2 * _DAY, _NEW: 3 * _DAY}, "no other credential was certainly used"),
        ({}, "no other credential was certainly used"),
    ],
)
def test_one_that_kms_may_still_sign_with_is_kept_unless_forced(
    directory: Path, last_used: Callable[..., CredentialUses], ago: dict[str, float], words: str
) -> None:
    uses = last_used(**ago)
    with pytest.raises(RotationRefused, match=words) as caught:
        _retire(directory, uses)
    assert any("--force" in hint for hint in caught.value.hints)
    assert _ids(directory) == {_OLD, _NEW}

    _retire(directory, uses, force=True)

    assert _ids(directory) == {_NEW}


def test_the_period_is_the_operators_choice(directory: Path, last_used: Callable[..., CredentialUses]) -> None:
    uses = last_used(**{_OLD: 2 * _DAY, _NEW: 10.0})
    with pytest.raises(RotationRefused, match=r"2\.0 days ago.*within 3 days"):
        _retire(directory, uses, within=3)

    _retire(directory, uses, within=0)

    assert _ids(directory) == {_NEW}


@pytest.mark.parametrize("later", [-30.0, 0.0, 30.0])
def test_a_record_within_its_precision_does_not_show_that_another_credential_was_used_later(
    directory: Path, last_used: Callable[..., CredentialUses], later: float
) -> None:
    with pytest.raises(RotationRefused, match="no other credential was certainly used"):
        _retire(directory, last_used(**{_OLD: 100.0, _NEW: 100.0 - later}), within=0)

    assert _ids(directory) == {_OLD, _NEW}


@pytest.mark.parametrize("force", [False, True])
def test_the_last_credential_is_never_retired(
    directory: Path, last_used: Callable[..., CredentialUses], force: bool
) -> None:
    """Workers refuse a key store without credentials, so they would continue to accept the old credential."""
    (directory / f"{_NEW}.toml").unlink()

    with pytest.raises(RotationRefused, match="the only credential"):
        _retire(directory, last_used(**{_OLD: 9 * _DAY}), force=force)

    assert _ids(directory) == {_OLD}


def test_an_unknown_id_is_refused_with_those_that_are_known(
    directory: Path, last_used: Callable[..., CredentialUses]
) -> None:
    with pytest.raises(RotationRefused, match=f"{_OLD}, {_NEW}"):
        retire_credential(directory, "C" * 20, last_used(), within_days=0, force=True)


def test_an_existing_retired_file_is_not_overwritten(directory: Path, last_used: Callable[..., CredentialUses]) -> None:
    (directory / f"{_OLD}.toml.retired").write_text("kept")

    with pytest.raises(FileExistsError):
        _retire(directory, last_used(), force=True)

    assert (directory / f"{_OLD}.toml.retired").read_text() == "kept"
    assert _ids(directory) == {_OLD, _NEW}


def test_a_credential_is_kept_if_the_record_of_uses_cannot_be_read(
    directory: Path, last_used: Callable[..., CredentialUses], tmp_path: Path
) -> None:
    uses = last_used(**{_NEW: 10.0})
    (tmp_path / "state" / "credentials-payments.json").write_text("nonsense")

    with pytest.raises(StateUnusable):
        _retire(directory, uses)

    assert _ids(directory) == {_OLD, _NEW}
