"""Opens sessions on one token, and logs in if that is needed."""

import logging
import threading
from typing import Final

from xksproxy.config.check import read_pin
from xksproxy.config.model import Hsm
from xksproxy.config.secret import SecretError
from xksproxy.hsm.errors import TokenUnavailable
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.pkcs11.module import Module, Modules, TokenInfo
from xksproxy.hsm.pkcs11.module_lock import ModuleLock

_log: Final = logging.getLogger(__name__)


class SessionOpener:
    """Opens sessions for the workers of one HSM. Safe to use from several threads."""

    def __init__(self, hsm: Hsm, modules: Modules) -> None:
        self._hsm = hsm
        self._modules = modules
        self._lock = threading.Lock()
        """One thread at a time decides whether to log in again."""
        self._module: Module | None = None
        self.info: TokenInfo | None = None
        """Vendor, model and serial number of the token; None until a first session was opened."""

    def module(self) -> Module:
        """The module; it is loaded and initialised at the first call.

        Raises:
            TokenUnavailable: it cannot be.
        """
        if self._module is None:
            self._module = self._modules.module(self._hsm)
        return self._module

    def module_lock(self) -> ModuleLock:
        """The lock of the module; see :meth:`module`."""
        return self.module().module_lock

    def open(self) -> HsmSession:
        """A logged-in session for the calling thread, which must be inside the module lock.

        If the token has lost the log-in, for instance with all its sessions, this logs in again.

        Raises:
            TokenUnavailable: the module, the token or the log-in fails.
        """
        with self._lock:
            session = self._open()
            if session.logged_in():
                return session
            _log.warning("HSM log-in lost", extra={"fields": {"hsm": self._hsm.id}})
            session.close()
            self._modules.disconnect(self._hsm)
            return self._open()

    def _open(self) -> HsmSession:
        try:
            connection = self._modules.connect(self._hsm, read_pin(self._hsm))
        except SecretError as error:
            raise TokenUnavailable(f"the PIN cannot be read: {error}") from error
        self.info = connection.info
        return HsmSession(connection)
