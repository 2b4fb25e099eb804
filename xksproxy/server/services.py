"""What a worker serves with: HSM instances that live as long as it, and a snapshot that can be replaced."""

import asyncio
import logging
import ssl
import threading
from pathlib import Path
from typing import Any, Final

from xksproxy.config.check import require_usable_files
from xksproxy.config.errors import ConfigError
from xksproxy.config.model import Config
from xksproxy.hsm.instance.instance import Instance
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.keystore.blocks import BlockChange
from xksproxy.server import tls
from xksproxy.server.snapshot import Service, Snapshot, build_snapshot
from xksproxy.server.watch import FileWatch
from xksproxy.spec.errors import InvalidUriPathException
from xksproxy.state.check import StateCheck
from xksproxy.state.usage import UsageBook

_log: Final = logging.getLogger(__name__)


class Services:
    """The HSMs and key stores of a worker. Belongs to its event loop."""

    def __init__(self, config: Config, runtime: Path) -> None:
        """Build them; no HSM is touched yet. ``runtime`` is where the workers share what is true while they run.

        Raises:
            ConfigError: credentials or certificates cannot be read.
        """
        self._runtime = runtime
        state = Path(config.state.directory)
        self.usage = UsageBook(state)
        self._state_check = StateCheck(state)
        modules = Modules(PinGuard(state), self.usage)
        self._instances = {hsm.id: Instance(hsm, modules) for hsm in config.hsm}
        for instance in self._instances.values():
            instance.deadline_seconds = config.server.deadline_ms / 1000
            instance.may_reinitialize = self._none_serves_by_the_module_of
        self._replacing = threading.Lock()
        self._watch = FileWatch(config)
        self._config = config
        self._snapshot = build_snapshot(config, self._instances, self.usage, self._runtime)

    def replace_snapshot(self, config: Config) -> None:
        """Serve by another configuration of the same HSMs, from the next request on.

        Raises:
            ConfigError: credentials or certificates cannot be read; what was served goes on.
        """
        watch = FileWatch(config)
        snapshot = build_snapshot(config, self._instances, self.usage, self._runtime)
        with self._replacing:
            self._watch, self._config, self._snapshot = watch, config, snapshot

    def start(self) -> None:
        """Start the HSM threads; call it in the process that serves, after any fork."""
        for instance in self._instances.values():
            instance.start()

    async def tried(self, timeout: float) -> None:  # noqa: ASYNC109 - going on without is no failure
        """Wait until each HSM was reached or could not be, for at most ``timeout`` seconds."""
        waiting = [asyncio.create_task(instance.tried()) for instance in self._instances.values()]
        _, pending = await asyncio.wait(waiting, timeout=timeout)
        for task in pending:
            task.cancel()

    def refresh_state(self) -> list[tuple[str, BlockChange]]:
        """Take over what commands and other workers have changed on disk; call it on a thread.

        What was blocked or unblocked is told, with the name of its key store.
        """
        services = self._snapshot.services.values()
        changes = [(service.store.name, change) for service in services for change in service.refresh_state()]
        self._state_check.refresh()
        self._follow_files()
        return changes

    def _follow_files(self) -> None:
        """Serve by credentials and certificates that have changed on disk; if they cannot be used, by the old ones.

        The configuration itself is not read again: an edit of it takes effect when SIGHUP says that it is finished.
        """
        with self._replacing:
            watch, config = self._watch, self._config
        if not watch.changed():
            return
        try:
            require_usable_files(config)
            snapshot = build_snapshot(config, self._instances, self.usage, self._runtime)
        except ConfigError as error:
            _log.error("changed credentials or certificates refused", extra={"fields": {"problems": error.problems}})
            return
        except Exception:  # noqa: BLE001 - whatever it is, the old snapshot goes on serving
            _log.exception("changed credentials or certificates refused")
            return
        with self._replacing:
            if self._watch is not watch:  # SIGHUP was faster, and has read the files as well
                return
            self._snapshot = snapshot
        _log.info("changed credentials or certificates in place")

    def stop(self) -> None:
        """Let the HSM threads end, and give back the encryptions that were not made."""
        for instance in self._instances.values():
            instance.stop()
        self.usage.give_back()

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

    def context(self) -> ssl.SSLContext:
        """The TLS context for the next connection."""
        return self._snapshot.context

    def refusal(self, connection: Any) -> str | None:
        """Why a connection must be dropped unread; see :func:`xksproxy.server.tls.refusal`."""
        return tls.refusal(self._snapshot.tls, connection)

    @property
    def snapshot(self) -> Snapshot:
        """What is served by now."""
        return self._snapshot

    @property
    def instances(self) -> tuple[Instance, ...]:
        """The HSMs."""
        return tuple(self._instances.values())

    @property
    def ready(self) -> bool:
        """Whether every key store has an HSM that serves."""
        return all(service.ready for service in self._snapshot.services.values())

    @property
    def problem(self) -> str:
        """Why requests that could be served are refused all the same; empty if they are not."""
        versions = (service.store.versions.problem for service in self._snapshot.services.values())
        return self._state_check.problem or next(filter(None, versions), "")

    @property
    def hopeless(self) -> bool:
        """Whether no HSM serves and one of them is stuck for good: only another process can help."""
        instances = self._instances.values()
        return not any(item.serving for item in instances) and any(item.hopeless for item in instances)

    def _none_serves_by_the_module_of(self, instance: Instance) -> bool:
        """C_Finalize hits every HSM of a module, so it has to wait until none of them serves."""
        return not any(other.serving for other in self._instances.values() if other.module_path == instance.module_path)
