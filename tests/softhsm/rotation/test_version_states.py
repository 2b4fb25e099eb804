"""Versions go from state to state as the table says, whatever commands, kills, removals and restores happen."""

import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fault_support import FaultyHsm
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from xksproxy.config.check import read_pin
from xksproxy.config.model import MAXIMUM_ENCRYPTIONS, Key
from xksproxy.hsm.errors import CiphertextRejected, HsmError, KeyMissing
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.keys import Sealed
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.keystore.key_map import KeyMap
from xksproxy.keystore.versions import KeyVersions
from xksproxy.rotation.disable import disable_version, enable_version
from xksproxy.rotation.errors import RotationRefused
from xksproxy.rotation.key_inventory import KeyInventory
from xksproxy.rotation.rotate import Distribution, Rotation
from xksproxy.rotation.version_states import TRANSITIONS, VersionState, state_of
from xksproxy.state import state_file
from xksproxy.state.backup import MOST_PER_SECOND, Backup, restore_backup, take_backup
from xksproxy.state.reservation import LimitReached
from xksproxy.state.usage import UsageBook
from xksproxy.state.versions import VersionRecord, version_table

NO_WAIT = Distribution(wait_seconds=0)
EXAMPLES, STEPS = 40, 25
AGAIN = 4
"""So many plain rotations get to a new version at the latest."""

numbers = st.integers(1, 6)


class Killed(BaseException):
    """Ends a command where it is, as SIGKILL does: no handler of the code catches it."""


def reachable() -> dict[VersionState, set[VersionState]]:
    """The states to which a command leads. A rotation may make several transitions, to and from disabled only one."""
    found = {state: {state} for state in VersionState}
    for _ in VersionState:
        for before, after in TRANSITIONS:
            for start, states in found.items():
                if before == start or (before in states and VersionState.DISABLED not in (before, after)):
                    states.add(after)
    return found


REACHABLE = reachable()


class Token:
    """An HSM, and what tests do to it beside the proxy."""

    def __init__(self, session: HsmSession) -> None:
        self.session = session

    def destroy(self, label: str) -> None:
        from pkcs11 import Attribute  # noqa: PLC0415 - where it is used

        binding: Any = self.session.binding
        for key in list(binding.get_objects({Attribute.LABEL: label})):
            key.destroy()


class Rotations(RuleBasedStateMachine):
    """One machine with one HSM. Each example has a key and a state directory of its own."""

    token: Token
    home: Path
    serial = count()

    def __init__(self) -> None:
        super().__init__()
        number = next(self.serial)
        self.id = f"key{number}"
        self.state = self.home / f"state{number}"
        self.state.mkdir(0o700)
        self.keys = KeyMap([Key(id=self.id)])
        self.key = self.keys.resolve(self.id)
        self.made: dict[str, int] = {}
        """Encryptions by label."""
        self.sealed: list[tuple[int, Sealed]] = []
        self.canaries: dict[int, Sealed] = {}
        """What the first key of each number has encrypted."""
        self.removed: set[int] = set()
        self.disabled: set[int] = set()
        """Versions that a command has disabled: their refusal was announced."""
        self.backup: Backup | None = None

    # --- The parts, as a new process has them

    @property
    def rotation(self) -> Rotation:
        proofs = FingerprintRecords(self.state, "store")
        inventory = KeyInventory({"hsm": self.token.session})
        return Rotation(self.key, self.keys, inventory, self.table, proofs, usage=UsageBook(self.state))

    @property
    def table(self) -> Any:
        return version_table(self.state, "store")

    def label(self, number: int) -> str:
        label = self.key.label_of(number)
        assert label is not None
        return label

    def on_token(self) -> set[int]:
        names = (item.label for item in self.token.session.list_keys())
        return {number for name in names if (number := self.key.version_of(name)) is not None}

    def states(self) -> dict[int, VersionState]:
        record: VersionRecord = self.rotation.record()
        there, book = self.on_token(), UsageBook(self.state)
        known = {record.primary, record.pending or 1, *record.proven, *record.disabled, *there, *range(1, 7)}
        full = {number: book.read(self.label(number)).encryptions >= MAXIMUM_ENCRYPTIONS for number in known}
        return {number: state_of(number, record, exists=number in there, full=full[number]) for number in sorted(known)}

    def command(self, run: Callable[[], object]) -> object:
        """Run a command. Each version goes only where the table leads."""
        before = self.states()
        try:
            return run()
        finally:
            for number, after in self.states().items():
                earlier = before.get(number, VersionState.PLANNED)
                assert after in REACHABLE[earlier], (number, earlier, after)
            self.note_new_keys()

    def note_new_keys(self) -> None:
        for number in self.on_token() - self.canaries.keys():
            self.canaries[number] = self.token.session.encrypt(self.label(number), b"canary", b"")

    # --- Rules

    @initialize()
    def first_version(self) -> None:
        self.token.session.create_key(self.id, bits=256, encrypt=True, decrypt=True)
        self.note_new_keys()

    @rule()
    def encrypt(self) -> None:
        version = KeyVersions(self.table).primary(self.key)
        book = UsageBook(self.state)
        try:
            book.count_encryption(version.label, MAXIMUM_ENCRYPTIONS)
            sealed = self.token.session.encrypt(version.label, b"text", b"")
        except (LimitReached, KeyMissing):
            return
        finally:
            book.return_unused()
        self.made[version.label] = self.made.get(version.label, 0) + 1
        self.sealed.append((version.number, sealed))

    @rule()
    def rotate(self) -> None:
        """A plain rotation gets to a higher version, whatever was before, after a few refusals at most."""
        before = self.rotation.record()
        for _ in range(AGAIN):
            try:
                self.command(self.rotate_once)
            except (RotationRefused, HsmError):
                continue
            record = self.rotation.record()
            assert record.primary > before.primary
            assert record.primary not in self.removed | set(before.disabled)
            return
        raise AssertionError("no rotation got to a new version")

    def rotate_once(self, wanted: int | None = None) -> None:
        rotation = self.rotation
        rotation.activate(rotation.prepare(wanted, NO_WAIT))

    @rule(wanted=numbers)
    def rotate_to(self, wanted: int) -> None:
        self.may_be_refused(lambda: self.rotate_once(wanted))

    @rule(wanted=st.one_of(st.none(), numbers))
    def prepare(self, wanted: int | None) -> None:
        self.may_be_refused(lambda: self.rotation.prepare(wanted, NO_WAIT))

    @rule()
    def abandon(self) -> None:
        self.may_be_refused(self.rotation.abandon)

    @rule(number=numbers)
    def disable(self, number: int) -> None:
        book = UsageBook(self.state)
        before = set(self.rotation.record().disabled)
        self.may_be_refused(lambda: disable_version(self.key, number, self.table, book, recent_days=0, force=True))
        self.disabled |= set(self.rotation.record().disabled) - before

    @rule(number=numbers)
    def enable(self, number: int) -> None:
        self.command(lambda: enable_version(self.key, number, self.table))

    @rule(number=numbers)
    def fill(self, number: int) -> None:
        """A version reaches its maximum, unless it was never made."""
        if number in self.on_token():
            self.command(lambda: UsageBook(self.state).records.add(self.label(number), MAXIMUM_ENCRYPTIONS, None, 0))

    @rule(number=numbers)
    def remove_key(self, number: int) -> None:
        """Somebody removes a key on the token, which loses what it encrypted."""
        if number in self.on_token():
            if self.states()[number] is VersionState.MADE:
                del self.canaries[number]  # a kill came before its first use
            else:
                self.removed.add(number)
            self.token.destroy(self.label(number))

    @rule(writes=st.integers(0, 8), after=st.booleans(), wanted=st.one_of(st.none(), numbers))
    def kill(self, writes: int, wanted: int | None, *, after: bool) -> None:
        """A rotation is killed before or after so many changes of a file, or of the token."""
        left = [writes]

        def cut(step: Callable[..., Any]) -> Callable[..., Any]:
            def run(*arguments: Any, **more: Any) -> Any:
                if threading.current_thread() is not command:  # a refill that an encryption before has begun
                    return step(*arguments, **more)
                left[0] -= 1
                if left[0] < 0 and not after:
                    raise Killed
                result = step(*arguments, **more)
                if left[0] < 0:
                    raise Killed
                return result

            return run

        command = threading.current_thread()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(state_file, "replace_file_of", cut(state_file.replace_file_of))
            patch.setattr(HsmSession, "create_key", cut(HsmSession.create_key))
            with suppress(Killed, RotationRefused, HsmError, state_file.StateUnusable):
                self.rotate_once(wanted)
        self.note_new_keys()

    @rule()
    def back_up(self) -> None:
        self.backup = take_backup(self.state)

    @precondition(lambda self: self.backup is not None)
    @rule(lost=st.booleans())
    def restore(self, *, lost: bool) -> None:
        """The directory is restored, after a loss or over what is there."""
        assert self.backup is not None
        if lost:
            shutil.rmtree(self.state)
            self.state.mkdir(0o700)
            if not self.backup.files.keys() & {"versions-store.json", "keys-store.json"}:
                # Nothing knows of a key that was made after the backup and is not on the token any more.
                for number in self.removed:
                    self.canaries.pop(number, None)
                    self.made.pop(self.label(number), None)
        # What this test makes takes less time than KMS needs for as many.
        restore_backup(self.state, self.backup, MOST_PER_SECOND, max(time.time(), self.backup.taken_at + 1))

    def may_be_refused(self, run: Callable[[], object]) -> None:
        try:
            self.command(run)
        except (RotationRefused, HsmError):
            return

    # --- What always holds

    @invariant()
    def what_was_encrypted_is_readable_or_its_refusal_was_announced(self) -> None:
        disabled = set(self.rotation.record().disabled)
        assert disabled <= self.disabled
        for number, sealed in self.sealed:
            if number not in self.removed:
                assert self.token.session.decrypt(self.label(number), sealed, b"") == b"text"

    @invariant()
    def no_count_is_below_what_was_made(self) -> None:
        book = UsageBook(self.state)
        for label, made in self.made.items():
            assert book.read(label).encryptions >= made

    @invariant()
    def a_number_is_used_once(self) -> None:
        for number, canary in self.canaries.items():
            try:
                assert self.token.session.decrypt(self.label(number), canary, b"") == b"canary"
            except KeyMissing:
                continue
            except CiphertextRejected:
                raise AssertionError(f"version {number} has another key") from None

    @invariant()
    def what_encrypts_is_not_disabled_and_the_token_had_it(self) -> None:
        record = self.rotation.record()
        assert record.primary not in record.disabled
        assert record.primary in self.canaries.keys() | {1}

    def teardown(self) -> None:
        for number in self.on_token():
            self.token.destroy(self.label(number))


def test_versions_go_from_state_to_state_as_the_table_says(
    make_faulty: Callable[..., FaultyHsm], modules: Modules, tmp_path: Path
) -> None:
    hsm = make_faulty().hsm
    session = HsmSession(modules.connect(hsm, read_pin(hsm)))

    class OnThisToken(Rotations):
        token, home = Token(session), tmp_path

    run_state_machine_as_test(
        OnThisToken,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_document_has_the_table() -> None:
    page = (Path(__file__).parents[3] / "docs" / "key-versions.md").read_text("utf-8")
    rows = {
        tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in page.splitlines() if line.startswith("| ")
    }

    assert {(before.value, after.value, how) for (before, after), how in TRANSITIONS.items()} <= rows
    assert {state.value for state in VersionState} <= {row[0] for row in rows if len(row) == 3}


def test_only_a_proven_version_becomes_primary() -> None:
    assert {before for before, after in TRANSITIONS if after is VersionState.PRIMARY} == {VersionState.PROVEN}
