"""Following the credentials of the key stores for the audit log."""

import logging
from pathlib import Path
from typing import Final

from xksproxy.config.model import Config
from xksproxy.keystore.store import KeyStore
from xksproxy.server.snapshot import Snapshot
from xksproxy.state.known_credentials import KnownCredentials
from xksproxy.state.state_file import StateUnusable

_log: Final = logging.getLogger(__name__)


class CredentialChanges:
    """Records changed credentials of the key stores that this worker serves. Used on one thread at a time."""

    def __init__(self, state_directory: Path) -> None:
        self._known = KnownCredentials(state_directory)
        self._followed: dict[str, KeyStore] = {}
        self._snapshot: Snapshot | None = None
        """Whose key stores these are."""
        self._problem = ""

    def follow(self, config: Config, snapshot: Snapshot) -> None:
        """Record what has changed since the last call, in this process or before. It is repeated until it succeeds."""
        if snapshot is self._snapshot:
            return
        stores = {service.store.name: service.store for service in snapshot.services.values()}
        new = {name for name, store in stores.items() if self._followed.get(name) is not store}
        directories = {table.name: Path(table.credentials) for table in config.keystore if table.name in new}
        try:
            if new:
                self._known.follow({name: (directories[name], stores[name].credential_checks) for name in new})
        except StateUnusable as error:
            if str(error) != self._problem:
                _log.error("changed credentials cannot be recorded", extra={"fields": {"reason": str(error)}})
            self._problem = str(error)
            return
        self._followed, self._snapshot, self._problem = stores, snapshot, ""
