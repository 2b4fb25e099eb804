"""A single session for a command, without threads or fleet."""

from pathlib import Path

from xksproxy.config.model import Hsm
from xksproxy.config.secret import Secret
from xksproxy.hsm.module import Modules
from xksproxy.hsm.pinguard import PinGuard
from xksproxy.hsm.session import HsmSession


def open_session(hsm: Hsm, pin: Secret | None, state_directory: Path) -> HsmSession:
    """A logged-in session; at most one call of this in a process, which then must not fork workers.

    Raises:
        LoginRefused: the PIN is wrong, or was refused before.
        TokenUnavailable: the module, the token or the log-in fails.
    """
    return HsmSession(Modules(PinGuard(state_directory)).connect(hsm, pin))
