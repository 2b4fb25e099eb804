"""The application that gunicorn's master runs. The master never touches PKCS#11."""

import gc
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

from gunicorn.app.base import BaseApplication

from xksproxy import __version__
from xksproxy.authorization.policies import PolicyLibrary
from xksproxy.config.changes import changed_names
from xksproxy.config.check import listeners_of
from xksproxy.config.errors import ConfigError
from xksproxy.config.model import Config
from xksproxy.exhaustion import exhaustion
from xksproxy.server import reload_problem, reload_verdict, worker_status
from xksproxy.server.accepted import Accepted, UsableFiles
from xksproxy.server.accepted_files import AcceptedFiles
from xksproxy.server.directory_identity import StateIdentity
from xksproxy.server.disk_calls import FORK_SECONDS, DiskCalls
from xksproxy.server.handover import Handover
from xksproxy.server.http.connection_counts import ConnectionCounts
from xksproxy.server.runtime import make_runtime_directory
from xksproxy.server.shutdown import announce_stop, drain_seconds
from xksproxy.server.snapshot import fixed_settings
from xksproxy.server.stop_request import StopRequest
from xksproxy.server.supervisor import Supervisor
from xksproxy.server.watch import FileWatch
from xksproxy.server.worker_count import WorkerCount
from xksproxy.state.audit_spool import leave_event
from xksproxy.state.state_file import StateUnusable
from xksproxy.telemetry.logs import logging_config
from xksproxy.telemetry.metric_files import EndedWorkers
from xksproxy.telemetry.state_witness import note_doubt

_log: Final = logging.getLogger(__name__)
_HEARTBEAT_TIMEOUT_SECONDS: Final = 30
_LEAVE_SECONDS: Final = 10
"""Seconds from the end of ``drain_s`` until workers that are still there are killed."""
_BACKLOG: Final = 2048
_RELOAD_SECONDS: Final = 10.0
"""So long a reload waits for the file systems of its files."""

_EVENT_SECONDS: Final = 1.0
"""So long the master waits until an event is in the state directory. Later it is written when the disk answers."""

Change = Literal["nothing", "inside", "workers"]


class ProxyApplication(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
    """Runs the proxy. ``load_checked`` reads and checks ``config_file``, at start and on SIGHUP."""

    def __init__(self, load_checked: Callable[[], Config], policies: PolicyLibrary, config_file: Path) -> None:
        """Load the configuration. ``policies`` are those that ``load_checked`` compiles; workers inherit them.

        Raises:
            ConfigError: it cannot be used.
        """
        self.load_checked = load_checked
        self.policies = policies
        self.handover = Handover()
        """Gives the configuration that was accepted last to workers that were forked before."""
        self._numbers = count(1)
        self._disk = DiskCalls()
        self._following: Future[tuple[Accepted, UsableFiles | None, dict[str, int]]] | None = None
        """What reads the files that have changed, and what the workers know of the state directory."""
        self._accepted_files = AcceptedFiles(config_file)
        self.accepted, self._watch = self._load("", None)
        """What workers start with."""
        self.handover.publish(self.accepted)
        self._in_use, self._watch_in_use = self.accepted, self._watch
        self.runtime = Path()
        """Where the workers share metrics, status and quotas; made when the service runs."""
        self.ended_workers = EndedWorkers(self.runtime)
        """Keeps the counts of workers that have ended."""
        self.stop_request = StopRequest()
        """How a worker asks for the end of the service."""
        self.connections = ConnectionCounts()
        """How many connections each worker has."""
        self.worker_count = WorkerCount()
        """Tells the workers when some of them do not serve."""
        self._state_identities: dict[str, StateIdentity] = {}
        """By directory, of each that this service has used."""
        self._known_revisions: dict[str, dict[str, int]] = {}
        """Of the files of each state directory that this service has used."""
        self._request = ""
        """The command that asked for the last reload."""
        super().__init__(prog="xksproxy")

    def load_config(self) -> None:
        """Set gunicorn's settings from ``[server]``, ``[health]``, ``[admin]`` and ``[logging]``."""
        config = self.accepted.config
        settings = {
            "bind": [listener.address for listener in listeners_of(config)],
            "workers": config.server.workers,
            "worker_class": "xksproxy.server.worker.XksWorker",
            "timeout": _HEARTBEAT_TIMEOUT_SECONDS,
            "graceful_timeout": math.ceil(drain_seconds(config)) + _LEAVE_SECONDS,
            "backlog": _BACKLOG,
            "proc_name": "xksproxy",
            "control_socket_disable": True,
            "post_fork": lambda supervisor, _: supervisor.leave_former_listeners(),
            "logconfig_dict": logging_config(config.logging),
            "loglevel": config.logging.level,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Config:
        """The configuration with which a worker starts."""
        return self.accepted.config

    def run(self) -> None:
        """Supervise workers until told to stop."""
        self.runtime = make_runtime_directory()
        self.ended_workers = EndedWorkers(self.runtime)
        self.ended_workers.prepare()
        self.state_identity()
        self._accepted_files.follow(self.accepted, self.runtime)
        self._leave_event("started", {"version": __version__})
        # A search for garbage writes to each object that it examines. Workers share what is frozen now.
        gc.collect()
        gc.freeze()
        Supervisor(self).run()

    def forget_worker(self, pid: int) -> None:
        """Keep the counts of a worker that has ended, and remove its files."""
        self.connections.ended(pid)
        self._note_revisions()
        self.ended_workers.add(pid)
        worker_status.forget(self.runtime, pid)

    def refresh(self) -> Change:
        """Read the configuration again, and return where it differs. A configuration with problems changes nothing."""
        self._request = reload_verdict.requested(self.runtime)
        try:
            load = partial(self._load, self._request, self.accepted.files)
            accepted, watch = self._disk.wait(load, _RELOAD_SECONDS)
        except TimeoutError:
            problem = f"its files could not be read within {_RELOAD_SECONDS:.0f} s: a file system does not answer"
            _log.error("configuration refused", extra={"fields": {"problems": [problem]}})
            self._refuse([problem])
            return "nothing"
        except ConfigError as error:
            _log.error("configuration refused", extra={"fields": {"problems": error.problems}})
            self._refuse(error.problems)
            return "nothing"
        except Exception:  # noqa: BLE001 - whatever it is, the old configuration goes on serving
            _log.exception("configuration refused")
            self._refuse(["it could not be read; the log says why"])
            return "nothing"
        before, after = fixed_settings(self.accepted.config), fixed_settings(accepted.config)
        change: Change = "inside" if before == after else "workers"
        self._use(accepted, watch)
        reload_problem.publish(self.runtime, [])
        if change == "workers":
            self.do_load_config()
        _log.info("configuration read again", extra={"fields": {"change": change, "number": accepted.number}})
        return change

    def _load(self, request: str, before: UsableFiles | None) -> tuple[Accepted, FileWatch]:
        """The configuration with its policies and files, and a watch of these (ConfigError if it cannot be used)."""
        digest = self._accepted_files.digest()  # before the file is loaded
        config = self.load_checked()
        watch = FileWatch(config)  # before the files are read
        files = UsableFiles.read(config, before)
        if before is not None:
            self._identify(config)
        policies = self.policies.take_staged()
        return Accepted(config, next(self._numbers), request, time.time(), digest, policies, files), watch

    def _use(self, accepted: Accepted, watch: FileWatch) -> None:
        """``watch`` was made before the files were read."""
        self.accepted, self._watch, self.callable = accepted, watch, None
        self.handover.publish(accepted)
        with suppress(TimeoutError):
            self._disk.wait(partial(self._accepted_files.follow, accepted, self.runtime), _EVENT_SECONDS)

    def follow_files(self) -> None:
        """Say whether the files differ from what was accepted.

        Keep the credentials and certificates that are usable, for workers that start while they are not; and what the
        workers know of the state directory, for those that start when the runtime directory is gone.
        """
        if self._following is not None:
            if not self._following.done():
                return
            if error := self._following.exception():
                reason = exhaustion(error) or f"unexpected {type(error).__name__}"
                _log.error("files cannot be compared", extra={"fields": {"reason": reason}})
            else:
                before, files, revisions = self._following.result()
                self._keep_revisions(before.config.state.directory, revisions)
                self._use_files(before, files)
        self._following = self._disk.later(partial(self._look_at_files, self._watch, self.accepted))

    def _use_files(self, before: Accepted, files: UsableFiles | None) -> None:
        if files is not None and self.accepted is before:
            self.accepted = replace(before, files=files)
            if self._in_use is before:
                self._in_use = self.accepted

    def _look_at_files(
        self, watch: FileWatch, accepted: Accepted
    ) -> tuple[Accepted, UsableFiles | None, dict[str, int]]:
        """Compare the files with what was accepted, and return those that have changed and can be used."""
        self._accepted_files.follow(accepted, self.runtime)
        return accepted, _changed_files(watch, accepted), self._published_revisions(accepted.config.state.directory)

    def before_fork(self) -> None:
        """Let the thread of the disk end, so that a fork has no lock that it holds."""
        self._disk.settle(FORK_SECONDS)
        self._note_revisions()

    def _note_revisions(self) -> None:
        directory = self.accepted.config.state.directory
        self._keep_revisions(directory, self._published_revisions(directory))

    def _published_revisions(self, directory: str) -> dict[str, int]:
        return worker_status.newest_revisions(self.runtime, directory.__eq__)

    def _keep_revisions(self, directory: str, revisions: Mapping[str, int]) -> None:
        worker_status.raise_to(self._known_revisions.setdefault(directory, {}), revisions)

    def known_revisions(self) -> Mapping[str, int]:
        """The revisions that state files have had while this service ran, so that a new worker accepts none older."""
        return self._known_revisions.get(self.accepted.config.state.directory, {})

    def state_identity(self) -> StateIdentity:
        """Return the identity of the state directory. The master asks first, so its workers get the same one."""
        return self._identify(self.accepted.config)

    def _identify(self, config: Config) -> StateIdentity:
        directory = config.state.directory
        if directory not in self._state_identities:
            self._state_identities[directory] = StateIdentity(Path(directory))
            self._note_doubt(config)
        return self._state_identities[directory]

    def _note_doubt(self, config: Config) -> None:
        try:
            note_doubt(config)
        except StateUnusable as error:  # which the workers report
            _log.error("state directory in doubt cannot be marked", extra={"fields": {"reason": str(error)}})

    @property
    def protocols(self) -> list[str]:
        """What each listener speaks, in their order."""
        listeners = listeners_of(self.accepted.config)
        return ["HTTPS" if listener.at == "server.listen" else "HTTP" for listener in listeners]

    @property
    def hsm_ids(self) -> frozenset[str]:
        """The HSMs of the configuration that was read last."""
        return frozenset(hsm.id for hsm in self.accepted.config.hsm)

    @property
    def former_keystores(self) -> frozenset[str]:
        """The names of the key stores of the last configuration that all workers used."""
        return frozenset(store.name for store in self._in_use.config.keystore)

    def confirm(self) -> None:
        """Note that all workers use the configuration that was read last. :meth:`undo` goes back to this one."""
        changed = changed_names(self._in_use.config, self.accepted.config)
        self._leave_event("reloaded", {"number": self.accepted.number, "changed": changed})
        self._in_use, self._watch_in_use = self.accepted, self._watch
        reload_verdict.decide(self.runtime, reload_verdict.Verdict(self._request, ()))

    def undo(self, problems: list[str]) -> None:
        """Go back to the last configuration that all workers used, because the one that was read last has problems."""
        _log.error("configuration taken back", extra={"fields": {"problems": problems}})
        self._refuse(problems)
        self._use(self._in_use, self._watch_in_use)
        self.do_load_config()

    def _refuse(self, problems: Sequence[str]) -> None:
        """Report why the last change is not in use: to the audit log, the workers, and the reload command."""
        self._leave_event("reload refused", {"problems": list(problems)})
        reload_problem.publish(self.runtime, problems)
        reload_verdict.decide(self.runtime, reload_verdict.Verdict(self._request, tuple(problems)))

    def announce_stop(self) -> None:
        """Tell the workers, the load balancer and the audit log that the service stops."""
        reason = self.stop_request.reason
        if reason:
            _log.error("the service stops because it cannot write its audit log", extra={"fields": {"reason": reason}})
        self._leave_event("stopping", {"reason": reason} if reason else {})
        announce_stop(self.runtime)

    def _leave_event(self, message: str, fields: dict[str, Any]) -> None:
        directory = Path(self._in_use.config.state.directory)
        with suppress(TimeoutError):
            self._disk.wait(partial(leave_event, directory, message, fields), _EVENT_SECONDS)


def _changed_files(watch: FileWatch, accepted: Accepted) -> UsableFiles | None:
    """The files of a configuration, if they have changed and can be used; it waits for the disk."""
    try:
        return UsableFiles.read(accepted.config, accepted.files) if watch.changed() else None
    except ConfigError:  # which the workers report
        return None
    except Exception:  # noqa: BLE001 - the master must go on
        _log.exception("changed credentials or certificates refused")
        return None
