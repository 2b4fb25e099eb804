"""Credentials of all key stores together, and who may add one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from xksproxy.config.check import check_config
from xksproxy.config.credential_checks import credential_findings
from xksproxy.config.credentials import save_credential
from xksproxy.config.model import Config
from xksproxy.sigv4.keyring import Credential

_ID = "BETWEEN2TENAND3TENCHARACTERS"


@pytest.fixture
def two_stores(sound: Config, tmp_path: Path) -> Callable[[str, str], Config]:
    """Two key stores with a credential each, of one id."""

    def make(first: str, second: str) -> Config:
        (tmp_path / "other").mkdir(0o700)
        save_credential(tmp_path / "credentials", Credential(_ID, first))
        save_credential(tmp_path / "other", Credential(_ID, second))
        other = replace(sound.keystore[0], name="other", uri_path_prefix="/other", credentials=str(tmp_path / "other"))
        return replace(sound, keystore=(*sound.keystore, other))

    return make


def test_an_id_with_two_secrets_in_two_key_stores_is_refused(two_stores: Callable[[str, str], Config]) -> None:
    # R-AUTH-5
    config = two_stores("s" * 43, "t" * 43)

    assert check_config(config) == [
        f"keystore[1].credentials: the access key id {_ID} has another secret in the key store payments"
    ]


def test_one_credential_for_two_key_stores_is_a_warning(two_stores: Callable[[str, str], Config]) -> None:
    # R-URI-9
    config = two_stores("s" * 43, "s" * 43)

    assert check_config(config) == []
    (finding,) = credential_findings(config.keystore)
    assert not finding.serious
    assert finding.text.startswith(f"keystore[1].credentials: {_ID} is also a credential of the key store payments")


@pytest.mark.parametrize(
    ("mode", "warned"), [(0o700, False), (0o750, False), (0o755, False), (0o770, True), (0o777, False)]
)
def test_a_group_that_may_write_the_directory_may_add_a_credential(
    sound: Config, tmp_path: Path, mode: int, warned: bool
) -> None:
    # A directory that everyone can write is a problem of its own: see test_access_checks.py.
    (tmp_path / "credentials").chmod(mode)

    findings = list(credential_findings(sound.keystore))

    assert [finding.serious for finding in findings] == [False] * warned


def test_a_directory_that_is_not_there_is_left_to_others(sound: Config, tmp_path: Path) -> None:
    gone = replace(sound.keystore[0], credentials=str(tmp_path / "none"))

    assert list(credential_findings((gone,))) == []
