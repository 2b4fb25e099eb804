"""The results of --live, with fake HSMs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from xksproxy.cli import live_check
from xksproxy.cli.live_check import HsmResult, check_live
from xksproxy.config.model import Config, Hsm, Key, KeyStore, Server, State, Tls
from xksproxy.hsm.errors import KeyDiffers, TokenUnavailable
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.instance.live_check import LiveCheck
from xksproxy.hsm.keys import KeyDescription, KeyFingerprint
from xksproxy.hsm.pkcs11.connection import TokenInfo
from xksproxy.state.versions import VersionRecord, version_table

_INFO = TokenInfo("maker", "model", "1", "2.6")
_RECORD_OF_ANOTHER = KeyFingerprint(b"xyz", None)


def _key(label: str, spec: str = "AES_256", usages: str = "ENCRYPT DECRYPT", **more: Any) -> KeyDescription:
    return KeyDescription(label, spec, tuple(usages.split()), **{"sensitive": True, "extractable": False, **more})


@dataclass
class _Session:
    """An HSM session with these keys on its token."""

    keys: list[KeyDescription] = field(default_factory=list)
    failure: Exception | None = None

    def list_keys(self) -> list[KeyDescription]:
        if self.failure:
            raise self.failure
        return self.keys

    def verify_key(self, label: str, proof: KeyFingerprint) -> None:
        if proof == _RECORD_OF_ANOTHER:
            raise KeyDiffers("its check value is another")


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[HsmResult]]:
    """Check a key store with these keys on these HSMs: a session each, or the reason why there is none."""

    def run(*hsms: _Session | str, keys: tuple[Key, ...] = (Key(id="k"),)) -> list[HsmResult]:
        tables = tuple(Hsm(id=f"hsm-{place}", module="m", token="t") for place in range(len(hsms)))

        def trials(*_: object) -> Any:
            for table, hsm in zip(tables, hsms, strict=True):
                yield LiveCheck(table, failure=hsm) if isinstance(hsm, str) else LiveCheck(table, _INFO, hsm)

        monkeypatch.setattr(live_check, "check_each", trials)
        store = KeyStore(
            name="s", uri_path_prefix="", hsms=tuple(table.id for table in tables), credentials="c", keys=keys
        )
        server = Server(tls=Tls(certificate="c", private_key="k"))
        return check_live(Config(server=server, hsm=tables, keystore=(store,), state=State(directory=str(tmp_path))))

    return run


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ([], "missing on the token"),
        ([_key("other")], "missing on the token"),
        ([_key("k"), _key("k")], "2 keys fit this name, so none is used: label 'k' with no CKA_ID"),
        ([_key("k", "AES_128")], "AES_128; expected AES_256"),
        ([_key("k", "RSA_2048")], "RSA_2048; expected AES_256"),
        ([_key("k", usages="ENCRYPT")], "CKA_DECRYPT is false; KMS needs it"),
        ([_key("k", usages="DECRYPT")], "CKA_ENCRYPT is false; KMS needs it"),
    ],
)
def test_a_key_that_cannot_serve_is_wrong(
    check: Callable[..., list[HsmResult]], keys: list[KeyDescription], problem: str
) -> None:
    (result,) = check(_Session(keys))

    ((found,),) = [key.problems for key in result.keys]
    assert found.startswith(problem)
    assert not result.ok


def test_a_sound_key_is_good(check: Callable[..., list[HsmResult]]) -> None:
    (result,) = check(_Session([_key("k"), _key("of no key store", "DES3")]))

    assert result.ok
    assert [(key.id, key.version, key.role, key.problems, key.warnings) for key in result.keys] == [
        ("k", 1, "primary", (), ())
    ]


@pytest.mark.parametrize("loose", [{"extractable": True}, {"sensitive": False}])
def test_a_key_that_can_leave_the_hsm_is_a_warning(
    check: Callable[..., list[HsmResult]], loose: dict[str, bool]
) -> None:
    (result,) = check(_Session([_key("k", **loose)]))

    assert result.ok
    assert result.keys[0].warnings[0].startswith("the key can leave the HSM")


def test_versions_are_checked_by_their_role(check: Callable[..., list[HsmResult]], tmp_path: Path) -> None:
    record = VersionRecord(primary=2, pending=4, proven=(1, 2, 3), disabled=(1,))
    version_table(tmp_path, "s").update("k", lambda _: record)

    (result,) = check(_Session([_key("k", usages=""), _key("k.v2"), _key("k.v3", usages="DECRYPT")]))

    assert [(key.version, key.role, key.problems) for key in result.keys] == [
        (1, "disabled", ()),
        (2, "primary", ()),
        (3, "decrypts", ()),
        (4, "begun", ()),
    ]


def test_an_old_version_that_decrypts_no_more_is_wrong(check: Callable[..., list[HsmResult]], tmp_path: Path) -> None:
    version_table(tmp_path, "s").update("k", lambda _: VersionRecord(primary=2, proven=(1, 2)))

    (result,) = check(_Session([_key("k", usages="ENCRYPT"), _key("k.v2")]))

    assert [key.problems for key in result.keys] == [("CKA_DECRYPT is false; KMS needs it",), ()]


def test_keys_of_a_pattern_are_checked_too(check: Callable[..., list[HsmResult]]) -> None:
    (result,) = check(_Session([_key("a-1"), _key("a-2", "AES_128"), _key("b")]), keys=(Key(id="a-*"),))

    assert {key.id: bool(key.problems) for key in result.keys} == {"a-1": False, "a-2": True}


def test_a_disabled_key_need_not_allow_anything(check: Callable[..., list[HsmResult]]) -> None:
    (result,) = check(_Session([_key("k", usages="")]), keys=(Key(id="k", disabled=True),))

    assert result.ok


def test_two_keys_of_one_label_on_two_hsms_are_wrong(check: Callable[..., list[HsmResult]]) -> None:
    first, second = check(_Session([_key("k", check_value=b"abc")]), _Session([_key("k", check_value=b"xyz")]))

    assert first.ok
    assert second.keys[0].problems == ("not the same key as on hsm-0: their check values differ",)


def test_a_key_that_is_not_the_one_on_record_is_wrong(check: Callable[..., list[HsmResult]], tmp_path: Path) -> None:
    FingerprintRecords(tmp_path, "s").propose("k", _RECORD_OF_ANOTHER)

    (result,) = check(_Session([_key("k")]))

    assert result.keys[0].problems == ("does not match the recorded fingerprint: its check value is another",)


def test_one_hsm_that_fails_hides_none_of_the_others(check: Callable[..., list[HsmResult]]) -> None:
    refused, lost, good = check(
        "the token refuses the PIN", _Session(failure=TokenUnavailable("gone")), _Session([_key("k")])
    )

    assert (refused.failure, refused.ok) == ("the token refuses the PIN", False)
    assert (lost.failure, lost.ok) == ("its keys cannot be listed: gone", False)
    assert good.ok
