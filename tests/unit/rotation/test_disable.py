"""Disabling and enabling a key version, in the files that the workers read."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from xksproxy.config.model import Key
from xksproxy.keystore.key_map import ExternalKey, KeyMap
from xksproxy.rotation import disable
from xksproxy.rotation.disable import disable_version, enable_version
from xksproxy.rotation.errors import RotationRefused
from xksproxy.state.shared_table import SharedTable
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.usage import UsageBook
from xksproxy.state.usage_records import KeyUsage
from xksproxy.state.versions import VersionRecord, version_table

DAY = 86_400.0


@pytest.fixture
def key() -> ExternalKey:
    return KeyMap([Key(id="foo", label="prod/foo")]).resolve("foo")


@pytest.fixture
def versions(tmp_path: Path) -> SharedTable[VersionRecord]:
    return version_table(tmp_path, "payments")


@pytest.fixture
def run_disable(tmp_path: Path, versions: SharedTable[VersionRecord], key: ExternalKey) -> Callable[..., None]:
    """Disable a version as `xksproxy keys disable-version` does."""

    def run_disable(number: int, of: ExternalKey = key, *, recent_days: float = 30, force: bool = False) -> None:
        disable_version(of, number, versions, UsageBook(tmp_path), recent_days=recent_days, force=force)

    return run_disable


@pytest.fixture
def on_disk(tmp_path: Path) -> Callable[[], VersionRecord | None]:
    """The record of the key as a worker reads it."""

    def read() -> VersionRecord | None:
        table = version_table(tmp_path, "payments")
        table.refresh()
        return table.get("foo")

    return read


def decrypted_before(tmp_path: Path, label: str, days: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record that a version last decrypted this many days ago."""
    book = UsageBook(tmp_path)
    book.records.set_times(label, last_decrypted=1_700_000_000.0)
    monkeypatch.setattr(disable.time, "time", lambda: 1_700_000_000.0 + days * DAY)


def test_a_version_that_never_decrypted_is_disabled(
    versions: SharedTable[VersionRecord], run_disable: Callable[..., None], on_disk: Callable[[], VersionRecord | None]
) -> None:
    versions.update("foo", lambda _: VersionRecord(3, pending=4, proven=(2, 3)))

    run_disable(2)
    run_disable(1)
    run_disable(2)

    assert on_disk() == VersionRecord(3, pending=4, proven=(2, 3), disabled=(1, 2))


@pytest.mark.parametrize("case", [(2, 29, True), (2, 31, False), (1, 0, False)])
def test_a_version_that_encrypted_recently_is_not_disabled_although_it_never_decrypted(
    tmp_path: Path,
    versions: SharedTable[VersionRecord],
    run_disable: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[int, float, bool],
) -> None:
    encryptions, days, is_refused = case
    versions.update("foo", lambda _: VersionRecord(2, proven=(1, 2)))
    book = UsageBook(tmp_path)
    book.records.add("prod/foo", encryptions, None, 0)
    at = book.read("prod/foo").last_encrypted or 0.0
    monkeypatch.setattr(disable.time, "time", lambda: at + days * DAY)

    if is_refused:
        with pytest.raises(RotationRefused, match=r"last encrypted 29\.0 days ago"):
            run_disable(1)
        run_disable(1, force=True)
    else:
        run_disable(1)


@pytest.mark.parametrize("force", [False, True])
def test_the_version_that_encrypts_is_never_disabled(
    versions: SharedTable[VersionRecord],
    run_disable: Callable[..., None],
    on_disk: Callable[[], VersionRecord | None],
    force: bool,
) -> None:
    with pytest.raises(RotationRefused, match=r"^version 1 of foo is the primary version$"):
        run_disable(1, force=force)
    assert on_disk() is None

    versions.update("foo", lambda _: VersionRecord(2))
    with pytest.raises(RotationRefused, match=r"^version 2 of foo is the primary version$") as caught:
        run_disable(2, force=force)

    assert caught.value.hints == ("make another version primary first: xksproxy keys rotate",)
    assert on_disk() == VersionRecord(2)


def test_the_refusal_for_the_primary_version_does_not_mention_force(
    tmp_path: Path, run_disable: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    decrypted_before(tmp_path, "prod/foo", 0, monkeypatch)

    with pytest.raises(RotationRefused) as caught:
        run_disable(1)
    assert "force" not in f"{caught.value} {caught.value.hints}"


def test_no_other_process_changes_the_versions_between_check_and_change(
    tmp_path: Path,
    key: ExternalKey,
    versions: SharedTable[VersionRecord],
    on_disk: Callable[[], VersionRecord | None],
) -> None:
    class Slow(UsageBook):
        """While it is read, another process tries to make version 2 primary."""

        def read(self, label: str) -> KeyUsage:
            with pytest.raises(StateUnusable, match="holds its lock"):
                version_table(tmp_path, "payments").update("foo", lambda _: VersionRecord(2, proven=(2,)))
            return super().read(label)

    versions.update("foo", lambda _: VersionRecord(1, proven=(2,)))

    disable_version(key, 2, versions, Slow(tmp_path), recent_days=30, force=True)

    assert on_disk() == VersionRecord(1, proven=(2,), disabled=(2,))


@pytest.mark.parametrize("days", [-1, 0, 2.04, 29.9])
def test_a_version_that_decrypted_recently_is_disabled_only_by_force(
    tmp_path: Path,
    run_disable: Callable[..., None],
    on_disk: Callable[[], VersionRecord | None],
    monkeypatch: pytest.MonkeyPatch,
    days: float,
) -> None:
    decrypted_before(tmp_path, "prod/foo.v2", days, monkeypatch)

    with pytest.raises(RotationRefused) as caught:
        run_disable(2)
    assert str(caught.value) == (
        f"version 2 of foo last decrypted {days:.1f} days ago on this machine; data is still encrypted under it"
    )
    assert caught.value.hints == (
        "if the version is disabled, this data cannot be decrypted",
        "to disable it anyway, add --force (--recent is 30 days)",
    )
    assert on_disk() is None

    run_disable(2, force=True)
    assert on_disk() == VersionRecord(1, disabled=(2,))


@pytest.mark.parametrize(("days", "recent_days"), [(30, 30), (400, 30), (1.5, 1), (0, 0)])
def test_a_version_that_decrypted_long_ago_is_disabled(
    tmp_path: Path, run_disable: Callable[..., None], monkeypatch: pytest.MonkeyPatch, days: float, recent_days: float
) -> None:
    decrypted_before(tmp_path, "prod/foo.v2", days, monkeypatch)

    run_disable(2, recent_days=recent_days)

    table = version_table(tmp_path, "payments")
    table.refresh()
    assert table.get("foo") == VersionRecord(1, disabled=(2,))


def test_what_another_version_decrypted_does_not_matter(
    tmp_path: Path,
    versions: SharedTable[VersionRecord],
    run_disable: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    versions.update("foo", lambda _: VersionRecord(1, proven=(2,)))
    decrypted_before(tmp_path, "prod/foo", 0, monkeypatch)

    run_disable(2)


@pytest.mark.parametrize("number", [4, 65536])
def test_a_version_that_the_configuration_does_not_list_is_refused(
    run_disable: Callable[..., None], on_disk: Callable[[], VersionRecord | None], number: int
) -> None:
    listed = KeyMap([Key(id="foo", versions={2: "b", 3: "c"})]).resolve("foo")

    with pytest.raises(RotationRefused, match=f"^the configuration lists no version {number} of foo$"):
        run_disable(number, listed)
    assert on_disk() is None

    run_disable(3, listed)
    assert on_disk() == VersionRecord(2, disabled=(3,))


@pytest.mark.parametrize("number", [-1, 0, 65536, 2**40])
def test_a_number_that_no_version_has_is_refused(
    run_disable: Callable[..., None], on_disk: Callable[[], VersionRecord | None], number: int
) -> None:
    # A rotation makes the version after the highest on record.
    with pytest.raises(RotationRefused):
        run_disable(number)
    assert on_disk() is None


def test_a_disabled_version_is_enabled_and_the_others_are_not(
    key: ExternalKey, versions: SharedTable[VersionRecord], on_disk: Callable[[], VersionRecord | None]
) -> None:
    versions.update("foo", lambda _: VersionRecord(3, proven=(3,), disabled=(1, 2)))

    assert enable_version(key, 1, versions)
    assert on_disk() == VersionRecord(3, proven=(3,), disabled=(2,))
    assert not enable_version(key, 1, versions)
    assert not enable_version(key, 3, versions)
    assert on_disk() == VersionRecord(3, proven=(3,), disabled=(2,))


def test_enabling_what_has_no_record_begins_none(
    tmp_path: Path, key: ExternalKey, versions: SharedTable[VersionRecord]
) -> None:
    assert not enable_version(key, 2, versions)
    assert not versions.path.exists()


def test_nothing_changes_while_the_state_cannot_be_read(
    tmp_path: Path, key: ExternalKey, versions: SharedTable[VersionRecord], run_disable: Callable[..., None]
) -> None:
    versions.path.write_bytes(b"nonsense")
    for use in (lambda: run_disable(2, force=True), lambda: enable_version(key, 2, versions)):
        with pytest.raises(StateUnusable):
            use()
    assert versions.path.read_bytes() == b"nonsense"

    versions.path.unlink()
    UsageBook(tmp_path).records.set_times("prod/foo.v2", last_decrypted=time.time())
    for record in (tmp_path / "usage").glob("*.json"):
        record.write_bytes(b"nonsense")
    with pytest.raises(StateUnusable):
        run_disable(2, force=True)
    assert not versions.path.exists()
