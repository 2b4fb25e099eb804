"""Rotations on real tokens: on one HSM and on several, replicated or copied, and cut off at every step."""

import shutil
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fault_support import FaultyHsm
from msgspec.structs import replace
from pkcs11 import Attribute, KeyType, ObjectClass

from xksproxy.config.model import Hsm, Key
from xksproxy.config.pins import read_pin
from xksproxy.hsm.errors import HsmError
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.instance.key_table import KeyTable
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.keystore.key_map import KeyMap
from xksproxy.keystore.versions import KeyVersions
from xksproxy.rotation.disable import disable_version
from xksproxy.rotation.errors import RotationRefused
from xksproxy.rotation.key_inventory import KeyInventory, fingerprint_from_text, fingerprint_to_text
from xksproxy.rotation.rotate import Distribution, Rotation, VersionFingerprint
from xksproxy.state import state_file
from xksproxy.state.private_files import make_directory
from xksproxy.state.usage import UsageBook
from xksproxy.state.versions import OF_ALL_KEYS, VersionRecord, version_table

NO_WAIT = Distribution(wait_seconds=0)
KEY = "key"


class Site:
    """A machine: its state directory, its sessions on the HSMs, and an external key `key`."""

    def __init__(self, state: Path, modules: Modules, *hsms: Hsm, key: Key | None = None) -> None:
        self.state = state
        make_directory(state)
        connections = {hsm.id: modules.connect(hsm, read_pin(hsm)) for hsm in hsms}
        self.sessions = {hsm: HsmSession(connection) for hsm, connection in connections.items()}
        self.usage = next((connection.usage for connection in connections.values()), UsageBook(state))
        self.keys = KeyMap([key or Key(id=KEY)])
        self.key = self.keys.resolve((key or Key(id=KEY)).id)
        self.progress: list[str] = []

    @property
    def rotation(self) -> Rotation:
        """As a new process has it."""
        table, proofs = version_table(self.state, "store"), FingerprintRecords(self.state, "store")
        inventory = KeyInventory(self.sessions, self.progress.append)
        return Rotation(self.key, self.keys, inventory, table, proofs, usage=UsageBook(self.state))

    def rotate(self, distribution: Distribution = NO_WAIT, wanted: int | None = None) -> int:
        rotation = self.rotation
        prepared = rotation.prepare(wanted, distribution)
        rotation.activate(prepared)
        return prepared.number

    @property
    def primary(self) -> str:
        """The label that encrypts, as a worker has it."""
        return KeyVersions(version_table(self.state, "store")).primary(self.key).label

    def labels(self) -> list[list[str]]:
        """What each HSM has of the key."""
        return [
            sorted(item.label for item in session.list_keys() if self.key.version_of(item.label))
            for session in self.sessions.values()
        ]


def change_token(session: HsmSession, label: str, value: bytes | None, **attributes: bool) -> None:
    """Put a key of a known value on a token, or take all of a label away."""
    binding: Any = session.binding
    if value is None:
        for key in list(binding.get_objects({Attribute.LABEL: label})):
            key.destroy()
        return
    chosen = {"ENCRYPT": True, "DECRYPT": True, "SENSITIVE": True, "EXTRACTABLE": False, **attributes}
    binding.create_object(
        {
            Attribute.CLASS: ObjectClass.SECRET_KEY,
            Attribute.KEY_TYPE: KeyType.AES,
            Attribute.VALUE: value,
            Attribute.LABEL: label,
            Attribute.TOKEN: True,
            Attribute.PRIVATE: True,
            **{Attribute[name]: flag for name, flag in chosen.items()},
        }
    )


def begin(site: Site) -> None:
    """As a run that was killed after it had recorded what it was about to make."""
    version_table(site.state, "store").update(KEY, lambda _: VersionRecord(1, pending=2))


def replicate(source: FaultyHsm, target: FaultyHsm) -> None:
    """What an HSM cluster does by itself: the objects of one token appear on the other."""
    (here,), (there,) = ((item.control.parent / "tokens").iterdir() for item in (source, target))
    for path in here.glob("*.object"):
        if not (there / path.name).exists():
            shutil.copy(path, there / path.name)
    # SoftHSM2 looks at its directory again when this number has changed.
    generation = int.from_bytes((there / "generation").read_bytes(), "big")
    (there / "generation").write_bytes((generation + 1000).to_bytes(8, "big"))


def transferred(fingerprint: VersionFingerprint) -> VersionFingerprint:
    """As an operator carries it from one machine to another."""
    return VersionFingerprint(*fingerprint_from_text(fingerprint_to_text(fingerprint.number, fingerprint.key)))


@pytest.fixture
def one(tmp_path: Path, make_faulty: Callable[..., FaultyHsm], modules: Modules) -> Site:
    """A machine with one HSM, and version 1 of the key on it."""
    site = Site(tmp_path / "state", modules, make_faulty().hsm)
    next(iter(site.sessions.values())).create_key(KEY, bits=256, encrypt=True, decrypt=True)
    return site


@pytest.fixture
def pair(make_faulty: Callable[..., FaultyHsm], modules: Modules) -> tuple[FaultyHsm, FaultyHsm]:
    """Two HSMs that hold the same version 1 of the key."""
    first, second = make_faulty(), make_faulty()
    HsmSession(modules.connect(first.hsm, read_pin(first.hsm))).create_key(KEY, bits=256, encrypt=True, decrypt=True)
    replicate(first, second)
    return first, second


@pytest.fixture
def two(tmp_path: Path, pair: tuple[FaultyHsm, FaultyHsm], modules: Modules) -> Site:
    """A machine with both of them."""
    return Site(tmp_path / "state", modules, *(item.hsm for item in pair))


def test_a_rotation_makes_the_next_version_and_lets_it_encrypt(one: Site) -> None:
    assert one.primary == "key"

    assert [one.rotate(), one.rotate()] == [2, 3]

    assert one.labels() == [["key", "key.v2", "key.v3"]]
    assert one.primary == "key.v3"


def test_a_new_version_can_never_leave_its_token(one: Site) -> None:
    one.rotate()

    description = next(iter(one.sessions.values())).describe_key("key.v2")

    assert (description.spec, description.sensitive, description.extractable) == ("AES_256", True, False)
    assert set(description.usages) == {"ENCRYPT", "DECRYPT"}


def test_a_prepared_version_does_not_encrypt_yet(one: Site) -> None:
    prepared = one.rotation.prepare(None, NO_WAIT)

    assert (prepared.number, prepared.created, one.primary) == (2, True, "key")


def test_a_prepared_version_is_not_made_again(one: Site) -> None:
    one.rotation.prepare(None, NO_WAIT)

    again = one.rotation.prepare(None, NO_WAIT)

    assert (again.number, again.created, one.labels()) == (2, False, [["key", "key.v2"]])


def test_a_version_on_the_token_without_a_record_counts_as_full_and_its_number_is_not_used_again(one: Site) -> None:
    """As after the loss of the state directory: the version may have encrypted as often as it may."""
    session = next(iter(one.sessions.values()))
    session.create_key("key.v5", bits=256, encrypt=True, decrypt=True)

    with pytest.raises(RotationRefused, match="no record of its encryptions, so it is not used"):
        one.rotate(wanted=5)
    assert one.rotation.record().pending is None
    assert one.rotate() == 6
    assert one.labels() == [["key", "key.v5", "key.v6"]]


@pytest.mark.parametrize("why", ["full", "disabled", "older", "its key was removed", "killed", "unusable", "twice"])
def test_whatever_was_refused_before_a_plain_rotation_gets_to_a_new_higher_version(one: Site, why: str) -> None:
    one.rotate()
    table = version_table(one.state, "store")
    session = next(iter(one.sessions.values()))
    match why:
        case "full":
            prepared = one.rotation.prepare(None, NO_WAIT)
            one.rotation._usage.records.add(prepared.label, 2**32, None, 0)
            with pytest.raises(RotationRefused, match="maximum number"):
                one.rotate(wanted=3)
        case "disabled":
            one.rotation.prepare(None, NO_WAIT)
            table.update(KEY, lambda record: replace(record, disabled=(1, 3)))
            for number in (1, 3):
                with pytest.raises(RotationRefused, match="is disabled"):
                    one.rotate(wanted=number)
            table.update(KEY, lambda record: replace(record, disabled=(3,)))
        case "older":
            table.update(KEY, lambda record: replace(record, pending=1, proven=(1, 2)))
        case "its key was removed":
            one.rotation.prepare(None, NO_WAIT)
            change_token(session, "key.v3", None)
        case "killed":
            table.update(KEY, lambda record: replace(record, pending=3))
        case "unusable":
            table.update(KEY, lambda record: replace(record, pending=3))
            session.create_key("key.v3", bits=128, encrypt=True, decrypt=True)
            with pytest.raises(RotationRefused, match="is not an AES-256 key"):
                one.rotate()
        case "twice":
            table.update(KEY, lambda record: replace(record, pending=3))
            for value in (bytes(32), bytes(31) + b"\1"):
                change_token(session, "key.v3", value)
            with pytest.raises(RotationRefused, match="has 2 keys"):
                one.rotate()

    number = one.rotate()

    assert (one.primary, number) == (f"key.v{number}", 3 if why in ("older", "killed") else 4)
    assert one.rotate() == number + 1


def test_a_refused_version_leaves_nothing_pending(one: Site) -> None:
    one.rotate()
    one.rotation._usage.records.add("key", 2**32, None, 0)

    with pytest.raises(RotationRefused, match="maximum number"):
        one.rotate(wanted=1)

    assert one.rotation.record().pending is None


def test_a_version_that_is_disabled_while_it_is_prepared_is_not_activated(one: Site) -> None:
    prepared = one.rotation.prepare(None, NO_WAIT)
    disable_version(one.key, 2, version_table(one.state, "store"), UsageBook(one.state), recent_days=0, force=True)

    with pytest.raises(RotationRefused, match="is disabled"):
        one.rotation.activate(prepared)

    assert one.primary == "key"


def test_a_rotation_can_go_back_to_an_older_version(one: Site) -> None:
    one.rotate()

    assert one.rotate(wanted=1) == 1
    assert one.primary == "key"


def test_a_disabled_version_never_becomes_primary(one: Site) -> None:
    one.rotate()
    version_table(one.state, "store").update(KEY, lambda _: VersionRecord(2, proven=(2,), disabled=(1,)))

    with pytest.raises(RotationRefused, match="version 1 is disabled"):
        one.rotate(wanted=1)
    assert one.primary == "key.v2"


def test_no_older_version_is_made_where_it_is_missing(one: Site) -> None:
    one.rotate()
    change_token(next(iter(one.sessions.values())), "key", None)

    with pytest.raises(RotationRefused, match="the key key has not reached"):
        one.rotate(wanted=1)
    assert (one.primary, one.labels()) == ("key.v2", [["key.v2"]])


@pytest.mark.parametrize(
    ("bits", "encrypt", "decrypt"), [(128, True, True), (256, True, False), (256, False, True), (256, False, False)]
)
def test_a_key_that_kms_could_not_use_never_becomes_primary(
    one: Site, bits: int, *, encrypt: bool, decrypt: bool
) -> None:
    begin(one)
    next(iter(one.sessions.values())).create_key("key.v2", bits=bits, encrypt=encrypt, decrypt=decrypt)

    with pytest.raises(RotationRefused, match="is not an AES-256 key that may encrypt and decrypt"):
        one.rotate()
    assert one.primary == "key"


def test_two_keys_of_the_next_label_are_refused(one: Site) -> None:
    begin(one)
    session = next(iter(one.sessions.values()))
    for value in (bytes(32), bytes(31) + b"\1"):
        change_token(session, "key.v2", value)

    with pytest.raises(RotationRefused, match=r"has 2 keys with the label key.v2"):
        one.rotate()
    assert one.primary == "key"


def test_the_canary_is_counted_as_an_encryption(one: Site) -> None:
    before = one.usage.read("key.v8").encryptions

    for _ in range(7):
        one.rotate()

    assert one.usage.read("key.v8").encryptions > before


def test_configured_versions_are_taken_in_their_order(
    tmp_path: Path, make_faulty: Callable[..., FaultyHsm], modules: Modules
) -> None:
    key = Key(id=KEY, versions={1: "old", 4: "young"})
    site = Site(tmp_path / "state", modules, make_faulty().hsm, key=key)

    assert site.rotate() == 4
    assert site.primary == "young"
    with pytest.raises(RotationRefused, match="the configuration lists no version after 4"):
        site.rotate()


def test_a_version_encrypts_only_after_every_hsm_has_it(two: Site, pair: tuple[FaultyHsm, FaultyHsm]) -> None:
    with pytest.raises(RotationRefused, match=rf"has not reached {pair[1].hsm.id}"):
        two.rotate()
    assert two.progress == [f"waiting up to 0 s until the key key.v2 has been replicated to {pair[1].hsm.id}"]
    assert (two.primary, two.labels()) == ("key", [["key", "key.v2"], ["key"]])

    replicate(*pair)

    assert two.rotate() == 2
    assert (two.primary, two.labels()) == ("key.v2", [["key", "key.v2"], ["key", "key.v2"]])


def test_a_rotation_waits_for_the_hsms_own_replication(
    two: Site, pair: tuple[FaultyHsm, FaultyHsm], monkeypatch: pytest.MonkeyPatch
) -> None:
    make, timer = KeyInventory.create_key, threading.Timer(0.7, replicate, pair)

    def make_and_replicate(inventory: KeyInventory, label: str, *more: Any, **named: Any) -> None:
        make(inventory, label, *more, **named)
        timer.start()

    monkeypatch.setattr(KeyInventory, "create_key", make_and_replicate)

    assert two.rotate(Distribution(wait_seconds=60)) == 2
    timer.join()


def test_different_keys_under_one_label_never_become_primary(two: Site) -> None:
    begin(two)
    for number, session in enumerate(two.sessions.values()):
        change_token(session, "key.v2", bytes([number]) * 32)

    with pytest.raises(RotationRefused, match=r"has another key with the label key.v2"):
        two.rotate()
    assert two.primary == "key"


def test_different_keys_are_told_apart_without_check_values_too(two: Site) -> None:
    begin(two)
    for number, session in enumerate(two.sessions.values()):
        change_token(session, "key.v2", bytes([number]) * 32)
        for item in session.binding.get_objects({Attribute.LABEL: "key.v2"}):
            item[Attribute.CHECK_VALUE] = b""

    with pytest.raises(RotationRefused, match=r"has another key with the label key.v2"):
        two.rotate()
    assert two.primary == "key"


def test_an_hsm_that_does_not_answer_stops_a_rotation_before_anything_is_made(
    two: Site, pair: tuple[FaultyHsm, FaultyHsm]
) -> None:
    pair[1].tell("C_FindObjectsInit return 0x30")

    with pytest.raises(HsmError):
        two.rotate()
    pair[1].tell()

    assert (two.primary, two.labels()) == ("key", [["key"], ["key"]])


def test_the_workers_know_the_proof_of_a_version_before_they_meet_it(
    two: Site, pair: tuple[FaultyHsm, FaultyHsm]
) -> None:
    with pytest.raises(RotationRefused):
        two.rotate()
    replicate(*pair)
    two.rotate()

    records = FingerprintRecords(two.state, "store")
    records.refresh()

    proof = records.get("key.v2")
    assert proof is not None
    assert proof.canary is not None


def test_a_second_machine_proves_the_version_by_what_the_first_one_gave_it(
    tmp_path: Path, one: Site, modules: Modules, make_faulty: Callable[..., FaultyHsm]
) -> None:
    first = one.rotation.prepare(None, NO_WAIT)
    other = Site(tmp_path / "other-state", modules)
    other.sessions = one.sessions

    prepared = other.rotation.prepare(None, NO_WAIT, transferred(first.fingerprint))

    assert (prepared.number, prepared.created) == (2, False)
    other.rotation.activate(prepared)
    assert (other.primary, one.primary) == ("key.v2", "key")


def test_a_second_machine_with_another_key_is_refused(
    tmp_path: Path, one: Site, modules: Modules, make_faulty: Callable[..., FaultyHsm]
) -> None:
    first = one.rotation.prepare(None, NO_WAIT)
    other = Site(tmp_path / "other-state", modules, make_faulty().hsm)
    change_token(next(iter(other.sessions.values())), "key.v2", bytes(32))

    with pytest.raises(RotationRefused, match="has another key"):
        other.rotation.prepare(None, NO_WAIT, transferred(first.fingerprint))
    assert other.primary == "key"


def test_a_proof_never_makes_a_key_where_its_version_is_missing(
    tmp_path: Path, one: Site, modules: Modules, make_faulty: Callable[..., FaultyHsm]
) -> None:
    """Replication may lag; a key made here would be another one under the same label."""
    first = one.rotation.prepare(None, NO_WAIT)
    other = Site(tmp_path / "other-state", modules, make_faulty().hsm)
    change_token(next(iter(other.sessions.values())), "key", bytes(32))

    with pytest.raises(RotationRefused, match="has not reached"):
        other.rotation.prepare(None, NO_WAIT, first.fingerprint)

    assert (other.primary, other.labels(), other.rotation.record().pending) == ("key", [["key"]], None)


def test_a_proof_is_held_against_the_version_it_is_of(tmp_path: Path, one: Site, modules: Modules) -> None:
    """A machine that lags behind must not take the fleet's primary for a stranger."""
    one.rotate()
    newest = one.rotation.prepare(None, NO_WAIT)
    other = Site(tmp_path / "other-state", modules)
    other.sessions = one.sessions

    prepared = other.rotation.prepare(None, NO_WAIT, newest.fingerprint)

    assert (prepared.number, prepared.label) == (3, "key.v3")


def test_a_proof_that_is_refused_takes_back_what_was_proven_before(
    tmp_path: Path, one: Site, modules: Modules, make_faulty: Callable[..., FaultyHsm]
) -> None:
    other = Site(tmp_path / "other-state", modules, make_faulty().hsm)
    other.rotation.prepare(None, NO_WAIT)
    foreign = one.rotation.prepare(None, NO_WAIT).fingerprint

    with pytest.raises(RotationRefused, match="has another key"):
        other.rotation.prepare(None, NO_WAIT, foreign)

    assert other.rotation.record().proven == ()


def test_a_version_made_to_be_copied_is_shut_in_before_it_encrypts(one: Site) -> None:
    """Also if the copying was cut off, and the next run does not ask for it."""
    session = next(iter(one.sessions.values()))
    with pytest.raises(RotationRefused):
        one.rotation.prepare(7, NO_WAIT)
    table = version_table(one.state, "store")
    table.update(KEY, lambda _: VersionRecord(1, pending=2, extractable=(2,)))
    session.create_key("key.v2", bits=256, encrypt=True, decrypt=True, extractable=True)

    assert one.rotate() == 2

    assert not session.describe_key("key.v2").extractable
    assert one.rotation.record().extractable == ()


def test_an_abandoned_version_can_leave_no_token_and_the_next_rotation_makes_a_new_one(two: Site) -> None:
    first = next(iter(two.sessions.values()))
    for _ in range(2):
        with pytest.raises(RotationRefused, match="cannot be copied") as caught:
            two.rotation.prepare(None, Distribution(0, "no-such-wrapping-key"))
        assert any("--abandon" in hint for hint in caught.value.hints)
    assert first.describe_key("key.v2").extractable

    assert two.rotation.abandon() == (2, True)

    assert not first.describe_key("key.v2").extractable
    record = two.rotation.record()
    assert (record.primary, record.pending, record.extractable, record.highest) == (1, None, (), 2)
    with pytest.raises(RotationRefused, match="no version of key is begun or prepared"):
        two.rotation.abandon()
    change_token(first, "key.v2", None)
    with pytest.raises(RotationRefused, match="has not reached"):
        two.rotate()
    assert two.rotation.record().pending == 3


def test_the_number_of_an_abandoned_version_is_not_used_again_after_its_key_was_removed(one: Site) -> None:
    one.rotation.prepare(None, NO_WAIT)
    one.rotation.abandon()
    change_token(next(iter(one.sessions.values())), "key.v2", None)

    assert one.rotate() == 3

    assert one.primary == "key.v3"


def test_numbers_that_may_have_been_used_before_a_restoration_are_skipped(one: Site) -> None:
    begin(one)
    version_table(one.state, "store").update(OF_ALL_KEYS, lambda _: VersionRecord(1, highest=12))

    assert one.rotate() == 13


@pytest.mark.parametrize(
    "text", ["", "x", "AAAA", "ä", "A" * 60, "0:" + "A" * 60, "70000:" + "A" * 60, "2:AAAA", "²:x"]
)
def test_what_is_no_proof_is_refused(text: str) -> None:
    with pytest.raises(RotationRefused, match="the value of --proof is not valid"):
        fingerprint_from_text(text)


def test_a_version_is_not_made_primary_that_has_no_encryptions_left(
    tmp_path: Path, make_faulty: Callable[..., FaultyHsm], modules: Modules
) -> None:
    site = Site(tmp_path / "state", modules, make_faulty().hsm, key=Key(id=KEY, maximum_encryptions=3))
    session = next(iter(site.sessions.values()))
    session.create_key(KEY, bits=256, encrypt=True, decrypt=True)
    prepared = site.rotation.prepare(None, NO_WAIT)
    for _ in range(3):
        UsageBook(site.state).count_encryption("key.v2", None)

    with pytest.raises(RotationRefused, match="has reached its maximum number of encryptions"):
        site.rotation.activate(prepared)


class Crash(BaseException):
    """The process ends here."""


@pytest.fixture
def crash_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Let the process end at the n-th step that touches a token or the disk, just before it or just after it."""

    def arm(limit: int) -> None:
        steps = count(1)

        def breaking(function: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*arguments: Any, **named: Any) -> Any:
                if next(steps) == limit:
                    raise Crash
                result = function(*arguments, **named)
                if next(steps) == limit:
                    raise Crash
                return result

            return wrapped

        for owner, name in (
            (HsmSession, "create_key"),
            (HsmSession, "encrypt"),
            (HsmSession, "decrypt"),
            (HsmSession, "describe_key"),
            (KeyTable, "everything"),
            (state_file, "replace_file_of"),
        ):
            monkeypatch.setattr(owner, name, breaking(getattr(owner, name)))

    yield arm
    monkeypatch.undo()


def test_a_rotation_cut_off_at_any_step_leaves_a_working_key_and_can_be_finished(
    one: Site, crash_after: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = next(iter(one.sessions.values()))
    old = {"key": session.encrypt("key", b"text", b"aad")}
    for limit in count(1):
        before = one.primary
        crash_after(limit)
        try:
            done = one.rotate()
        except Crash:
            done = None
        finally:
            monkeypatch.undo()
        # Whatever encrypts now can decrypt, and all that was encrypted before still does.
        assert one.primary in {before, f"key.v{int(before[5:] or 1) + 1}"}
        old[one.primary] = session.encrypt(one.primary, b"text", b"aad")
        assert all(session.decrypt(label, sealed, b"aad") == b"text" for label, sealed in old.items())
        if one.primary == before:
            one.rotate()
        assert one.primary == f"key.v{int(before[5:] or 1) + 1}"
        (labels,) = one.labels()
        assert len(labels) == len(set(labels)) == int(one.primary[5:])
        if done is not None:
            break
    assert limit > 20


def test_a_key_whose_making_was_cut_off_is_named_and_the_next_rotation_makes_another_one(
    tmp_path: Path, make_faulty: Callable[..., FaultyHsm], modules: Modules
) -> None:
    faulty = make_faulty()
    site = Site(tmp_path / "state", modules, faulty.hsm)
    next(iter(site.sessions.values())).create_key(KEY, bits=256, encrypt=True, decrypt=True)
    faulty.tell("C_EncryptInit return 0x70 count=1")  # CKR_MECHANISM_INVALID, as SoftHSM2 gives for such a key

    with pytest.raises(RotationRefused, match=r"key\.v2 on .* cannot be used although the HSM works"):
        site.rotate()

    assert (site.rotation.record().pending, site.rotate()) == (None, 3)


def test_a_version_that_was_primary_is_not_abandoned(one: Site) -> None:
    one.rotate()
    one.rotate(wanted=1)
    one.rotation.prepare(2, NO_WAIT)

    assert one.rotation.abandon() == (2, False)

    record = one.rotation.record()
    assert (record.pending, record.proven, record.abandoned) == (None, (1, 2), ())
    assert one.rotate(wanted=2) == 2


def test_an_abandoned_version_never_becomes_primary(one: Site) -> None:
    one.rotation.prepare(None, NO_WAIT)
    assert one.rotation.abandon() == (2, True)

    with pytest.raises(RotationRefused, match="was abandoned"):
        one.rotate(wanted=2)

    assert one.primary == "key"
