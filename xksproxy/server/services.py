"""What a worker serves with: HSM instances for its whole life, and a snapshot that can be replaced."""

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from xksproxy.authorization.policies import PolicyLibrary
from xksproxy.config.errors import ConfigError
from xksproxy.config.held_secrets import copy_pins, refresh_pins
from xksproxy.config.model import Config
from xksproxy.config.secret import SecretError
from xksproxy.hsm.instance.instance import Instance
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.keystore.blocks import BlockChange
from xksproxy.server.accepted import Accepted, UsableFiles
from xksproxy.server.credential_changes import CredentialChanges
from xksproxy.server.directory_identity import StateIdentity
from xksproxy.server.quota import Quotas
from xksproxy.server.refused_files import RefusedFiles
from xksproxy.server.snapshot import Foundations, Service, Snapshot, build_snapshot
from xksproxy.server.state_tables import guarded
from xksproxy.server.watch import FileWatch
from xksproxy.server.worker_state import WorkerState
from xksproxy.spec.errors import InvalidUriPathException

_log: Final = logging.getLogger(__name__)
_OTHERS_SECONDS: Final = 0.5


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
        self.state = state = WorkerState(Path(config.state.directory), runtime, identity, known)
        """The state directory."""
        modules = Modules(PinGuard(state.directory, lost=state.identity_problem), state.usage, config.hsm)
        self._instances = {hsm.id: Instance(hsm, modules, config.server.workers) for hsm in config.hsm}
        for instance in self._instances.values():
            instance.deadline_seconds = config.server.deadline_ms / 1000
            instance.may_reinitialize = self._no_other_uses_the_module_of
        if config.state.witness == "token":
            state.let_tokens_witness(self._instances.values())
        self._replacing = threading.Lock()
        self._watch = FileWatch(config)
        self._refused = RefusedFiles()
        self._credential_changes = CredentialChanges(state.directory)
        self._config = self._built_with = config
        self._policies = policies or PolicyLibrary()
        self._foundations = Foundations(
            self._instances, state.usage, state.tables, Quotas(runtime / "quotas"), self._policies
        )
        self._retired_revision = state.tables.retired.revision
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
        with self.state.reading():
            changes = self.state.refresh()
            if not self.state.lost:
                guarded(self._follow_credentials)
            guarded(self.state.register)
            guarded(self._follow_files)
        return changes

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
        retired_revision = self.state.tables.retired.revision
        was_retired = retired_revision != self._retired_revision
        if not (watch.changed() or self._refused.again() or was_retired):
            return
        try:
            files = self._changed_files(config)
            if files is None and not was_retired:
                return
            # What was retired is refused at once, also while other files cannot be used.
            snapshot = self._build(config, accepted, files or self._files, self._snapshot)
        except Exception as error:  # noqa: BLE001 - the old snapshot must stay in use
            if self._refused.note((str(error),)):
                _log.exception("changed credentials or certificates refused")
            return
        with self._replacing:
            if self._watch is not watch:  # SIGHUP came first, and has read the files too
                return
            self._snapshot, self._files = snapshot, files or self._files
        self._retired_revision = retired_revision
        if files is not None:
            self._refused = RefusedFiles()
            _log.info("changed credentials or certificates in place")

    def _changed_files(self, config: Config) -> UsableFiles | None:
        """The present credentials and certificates, or None if they cannot be used, which is noted."""
        try:
            files = UsableFiles.read(config, self._files)
            refresh_pins(self._built_with)
        except (ConfigError, SecretError) as error:
            self._note_refused_files(error)
            return None
        return files

    def _note_refused_files(self, error: ConfigError | SecretError) -> None:
        problems = list(error.problems) if isinstance(error, ConfigError) else [str(error)]
        if self._refused.note(tuple(problems)):
            _log.error("changed credentials or certificates refused", extra={"fields": {"problems": problems}})

    def stop(self) -> None:
        """Stop the HSM threads."""
        for instance in self._instances.values():
            instance.stop()

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
        names = self.state.tables.take_changed()
        prefixes = self._snapshot.prefixes
        return [prefixes[name] for name in names if name in prefixes]

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
