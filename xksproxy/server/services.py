"""What a worker serves with: HSM instances for its whole life, and a snapshot that can be replaced."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

from xksproxy.authorization.policies import PolicyLibrary
from xksproxy.config.errors import ConfigError
from xksproxy.config.held_secrets import copy_pins, refresh_pins
from xksproxy.config.model import Config
from xksproxy.config.secret import SecretError
from xksproxy.hsm.instance.instance import Instance
from xksproxy.hsm.instance.token_witness import TokenWitness
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.keystore.blocks import BlockChange
from xksproxy.server.accepted import Accepted, UsableFiles
from xksproxy.server.credential_changes import CredentialChanges
from xksproxy.server.directory_identity import StateIdentity
from xksproxy.server.followers import Registration
from xksproxy.server.quota import Quotas
from xksproxy.server.refused_files import RefusedFiles
from xksproxy.server.snapshot import Foundations, Service, Snapshot, build_snapshot
from xksproxy.server.state_doubt import StateDoubt
from xksproxy.server.state_tables import StateTables, guarded
from xksproxy.server.watch import FileWatch
from xksproxy.spec.errors import InternalException, InvalidUriPathException
from xksproxy.state.directory_check import StateDirectoryCheck
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.state_number import FILE_NAME as NUMBER
from xksproxy.state.state_number import StateNumber
from xksproxy.state.usage import UsageBook

_log: Final = logging.getLogger(__name__)
_OTHERS_SECONDS: Final = 0.5
_ANSWER_SECONDS: Final = 5.0
"""A file system that has not answered for so long counts as one that does not answer."""
_RETURN_SECONDS: Final = 1.0


class Services:
    """The HSMs and key stores of a worker. Belongs to its event loop."""

    def __init__(
        self,
        config: Config,
        runtime: Path,
        policies: PolicyLibrary | None = None,
        accepted: Accepted | None = None,
        identity: StateIdentity | None = None,
        *,
        known: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Build them; no HSM is called yet. ``runtime`` is the directory that the workers share while they run.

        ``accepted`` has the policies. If the files of credentials or certificates cannot be used, those in it are,
        until they can: a worker that replaces another one serves what the others serve. ``identity`` is that of the
        state directory; without it, the directory that is there now. ``known`` has the revisions that files in it have
        had while the proxy ran: older ones are refused.

        Raises:
            ConfigError: credentials or certificates cannot be read, and ``accepted`` is None.
        """
        self._reading_since: float | None = None
        self._master = os.getppid()
        self._state = state = Path(config.state.directory)
        self._registration = Registration(state, runtime)
        self._identity = identity or StateIdentity(state)
        self._lost = self._identity.problem
        self.usage = UsageBook(state, lambda: self._unanswered, known)
        self._state_check = StateDirectoryCheck(state)
        self._state_doubt = StateDoubt(state, known.get(NUMBER, -1))
        if not self._lost:
            self._state_doubt.follow()
        self._states = StateTables(state, lambda: self._lost, known)
        modules = Modules(PinGuard(state, lost=lambda: self._identity.problem), self.usage, config.hsm)
        self._instances = {hsm.id: Instance(hsm, modules, config.server.workers) for hsm in config.hsm}
        for instance in self._instances.values():
            instance.deadline_seconds = config.server.deadline_ms / 1000
            instance.may_reinitialize = self._no_other_uses_the_module_of
        witnesses = self._instances.values() if config.state.witness == "token" else ()
        self.token_witness = TokenWitness(state, witnesses)
        self._replacing = threading.Lock()
        self._watch = FileWatch(config)
        self._refused = RefusedFiles()
        self._credential_changes = CredentialChanges(state)
        self._config = self._built_with = config
        self._policies = policies or PolicyLibrary()
        self._foundations = Foundations(
            self._instances, self.usage, self._states, Quotas(runtime / "quotas"), self._policies
        )
        self._retired_revision = self._states.retired.revision
        self._accepted = accepted
        self._files = self._usable_files(config, accepted, None if accepted is None else accepted.files)
        self._snapshot = self._build(config, accepted, self._files)

    def _usable_files(self, config: Config, accepted: Accepted | None, before: UsableFiles | None) -> UsableFiles:
        """The present credentials and certificates; those of ``accepted`` while their files cannot be used."""
        try:
            files = UsableFiles.read(config, before)
            refresh_pins(config)
        except (ConfigError, SecretError) as error:
            if accepted is None:
                raise
            self._note_refused_files(error)
            return accepted.files
        return files

    def _build(
        self, config: Config, accepted: Accepted | None, files: UsableFiles, previous: Snapshot | None = None
    ) -> Snapshot:
        policies = None if accepted is None else accepted.policies
        return build_snapshot(config, self._foundations, files, previous, policies=policies)

    def replace_snapshot(self, config: Config, accepted: Accepted | None = None) -> None:
        """Use another configuration of the same HSMs, from the next request on. Call it on a thread.

        ``accepted`` has its policies, and the credentials and certificates that are used while their files cannot be.

        Raises:
            ConfigError: credentials or certificates cannot be read, and ``accepted`` is None. The old snapshot stays.
        """
        watch = FileWatch(config)  # before the files are read
        files = self._usable_files(config, accepted, self._files)
        snapshot = self._build(config, accepted, files, self._snapshot)
        with self._replacing:
            self._watch, self._config, self._snapshot, self._accepted = watch, config, snapshot, accepted
            self._files = files
        copy_pins(config, self._built_with)

    @property
    def number(self) -> int:
        """The number of the configuration in use; 0 if it has none."""
        return 0 if self._accepted is None else self._accepted.number

    def start(self) -> None:
        """Start the HSM threads; call it in the process that serves, after any fork."""
        for instance in self._instances.values():
            instance.start()

    async def tried(self, timeout: float) -> None:  # noqa: ASYNC109 - going on without is no failure
        """Wait until each HSM was connected or failed to connect, for at most ``timeout`` seconds.

        Once each key store has an HSM in service, the others get half a second more.
        """
        pending = {asyncio.create_task(instance.tried()) for instance in self._instances.values()}
        end = time.monotonic() + timeout
        while pending and (left := end - time.monotonic()) > 0:
            _, pending = await asyncio.wait(pending, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if all(any(hsm.serving for hsm in item.fleet.instances) for item in self.snapshot.services.values()):
                end = min(end, time.monotonic() + _OTHERS_SECONDS)
        for task in pending:
            task.cancel()

    def refresh_state(self) -> list[tuple[str, BlockChange]]:
        """Read what commands and other workers have changed on disk; call it on a thread.

        Returns each block that was set or removed, with the name of its key store.
        """
        self._reading_since = time.monotonic()
        try:
            return self._refresh_state()
        finally:
            self._reading_since = None

    def _refresh_state(self) -> list[tuple[str, BlockChange]]:
        changes: list[tuple[str, BlockChange]] = []
        self._lost = self._identity.problem
        if not self._lost:
            changes = self._states.refresh()
            guarded(self._state_doubt.follow)
            guarded(self.usage.records.check)
            guarded(self._state_check.refresh)
            guarded(self._follow_credentials)
        guarded(self.register)
        guarded(self._follow_files)
        return changes

    def flush_uses(self) -> None:
        """Write when credentials were used; call it on a thread that nothing else waits for."""
        if not self._identity.problem:
            guarded(self._states.flush_uses)

    def register(self) -> None:
        """Let commands find this proxy by its state directory. It writes a file: call it on a thread."""
        if (master := os.getppid()) == self._master:  # otherwise this process leaves, as its master has ended
            with suppress(StateUnusable):  # which the check of the directory reports
                self._registration.keep(master)

    def _follow_credentials(self) -> None:
        with self._replacing:
            config, snapshot = self._config, self._snapshot
        self._credential_changes.follow(config, snapshot)

    def _follow_files(self) -> None:
        """Use credentials, PINs and certificates that have changed on disk; keep the old ones if one is invalid.

        The configuration file is not read again: a change of it takes effect on SIGHUP.
        """
        with self._replacing:
            watch, config, accepted = self._watch, self._config, self._accepted
        retired_revision = self._states.retired.revision
        if not (watch.changed() or self._refused.again() or retired_revision != self._retired_revision):
            return
        try:
            files = UsableFiles.read(config, self._files)
            refresh_pins(self._built_with)
            snapshot = self._build(config, accepted, files, self._snapshot)
        except (ConfigError, SecretError) as error:
            self._note_refused_files(error)
            return
        except Exception as error:  # noqa: BLE001 - the old snapshot must stay in use
            if self._refused.note((str(error),)):
                _log.exception("changed credentials or certificates refused")
            return
        self._refused, self._retired_revision = RefusedFiles(), retired_revision
        with self._replacing:
            if self._watch is not watch:  # SIGHUP came first, and has read the files too
                return
            self._snapshot, self._files = snapshot, files
        _log.info("changed credentials or certificates in place")

    def _note_refused_files(self, error: ConfigError | SecretError) -> None:
        problems = list(error.problems) if isinstance(error, ConfigError) else [str(error)]
        if self._refused.note(tuple(problems)):
            _log.error("changed credentials or certificates refused", extra={"fields": {"problems": problems}})

    def require_state(self) -> None:
        """Refuse to encrypt while the state directory is lost, or is in doubt: counts of encryptions may be too low.

        Raises:
            InternalException: it is.
        """
        if self._lost:
            raise InternalException("The state directory of the proxy is lost", detail=self._lost)
        if self.doubt:
            raise InternalException("The state directory of the proxy is in doubt", detail=self.doubt)

    def stop(self) -> None:
        """Stop the HSM threads."""
        for instance in self._instances.values():
            instance.stop()

    def return_counts(self) -> None:
        """Return counts that were reserved for encryptions but not used, as far as a second allows; call it last."""
        self.usage.return_unused(_RETURN_SECONDS)

    def at(self, prefix: str) -> Service:
        """The key store at a path prefix.

        Raises:
            InvalidUriPathException: there is none (R-URI-11).
        """
        service = self._snapshot.services.get(prefix)
        if service is None:
            raise InvalidUriPathException(
                "No key store has this URI path; compare XksProxyUriPath in AWS KMS with uri_path_prefix of the proxy"
            )
        return service

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot in use."""
        return self._snapshot

    def take_changed_stores(self) -> list[str]:
        """The path prefixes of the key stores whose state may have changed since the last call."""
        names = self._states.take_changed()
        prefixes = self._snapshot.prefixes
        return [prefixes[name] for name in names if name in prefixes]

    @property
    def state_number(self) -> StateNumber:
        """The number of the state directory."""
        return self._state_doubt.number

    @property
    def state_directory(self) -> str:
        """The path of the state directory, as it is configured."""
        return str(self._state)

    @property
    def lost(self) -> bool:
        """Whether the state directory was removed or replaced while the proxy runs."""
        return bool(self._lost)

    @property
    def revisions(self) -> Mapping[str, int]:
        """The revisions of state files that are in force, by the names of the files; none of another directory."""
        if self._lost:
            return {}
        number = self._state_doubt.number.newest
        return {**self._states.revisions(), **({NUMBER: number} if number > 0 else {})}

    @property
    def record_revisions(self) -> Mapping[str, int]:
        """The revisions of fingerprints and counts that this worker has seen; none of another directory."""
        return {} if self._lost else {**self._states.fingerprint_revisions, **self.usage.revisions}

    @property
    def records_generation(self) -> tuple[int, int]:
        """Another value after each change of :attr:`record_revisions`."""
        return self._states.fingerprints_generation, self.usage.generation

    @property
    def refused_state(self) -> tuple[str, ...]:
        """The state files that are refused, so that the last known state is in force."""
        return tuple(self._states.refused())

    @property
    def revisions_generation(self) -> int:
        """Grows when :attr:`revisions` may have changed."""
        return self._states.generation + max(self._state_doubt.number.newest, 0)

    @property
    def life_cycle_changes(self) -> tuple[int, int]:
        """Changes with blocks, key versions and retired credentials."""
        return self._states.generation, self._states.retired.revision

    @property
    def accepted_credentials(self) -> dict[str, tuple[str, ...]]:
        """The access key ids that are accepted, by key store."""
        services = self._snapshot.services.values()
        return {service.store.name: tuple(service.store.credentials_created) for service in services}

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The HSMs."""
        return tuple(self._instances.values())

    @property
    def problem(self) -> str:
        """Why Encrypt requests of every key store are refused although HSMs serve; empty if they are not refused."""
        problems = (
            self._unanswered,
            self._lost,
            self._state_check.problem,
            self.usage.records.problem,
            self._states.retired.problem,
        )
        return next(filter(None, problems), self.doubt)

    @property
    def doubt(self) -> str:
        """Why the state directory may be older than it was; empty if nothing says so."""
        return self._state_doubt.reason or self.token_witness.doubt

    @property
    def _unanswered(self) -> str:
        """Says that the file system of the state directory, or of another file that workers follow, does not answer."""
        since = self._reading_since
        seconds = 0.0 if since is None else time.monotonic() - since
        if seconds < _ANSWER_SECONDS:
            return ""
        return (
            f"a file system has not answered for {_ANSWER_SECONDS:.0f} s: that of {self._state}, or of a file to follow"
        )

    @property
    def refused_files(self) -> tuple[str, ...]:
        """Why changed credentials or certificates are not in use; empty if all are."""
        return self._refused.problems

    @property
    def needs_new_process(self) -> bool:
        """Whether no HSM serves and one of them is stuck for good: only another process can help."""
        instances = self._instances.values()
        return not any(item.serving for item in instances) and any(item.needs_new_process for item in instances)

    def _no_other_uses_the_module_of(self, instance: Instance) -> bool:
        """C_Finalize affects every HSM of a module, so it waits until no other one serves or connects."""
        others = (other for other in self._instances.values() if other is not instance)
        return not any(other.uses_module for other in others if other.module_path == instance.module_path)
