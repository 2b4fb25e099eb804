"""Sessions for commands, which need neither session workers nor a fleet."""

from collections.abc import Iterable
from pathlib import Path

from xksproxy.config.model import Hsm
from xksproxy.config.pins import read_pin
from xksproxy.config.secret import Secret
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.state.private_files import make_directory
from xksproxy.state.usage import UsageBook


def open_session(hsm: Hsm, pin: Secret | None, state_directory: Path) -> HsmSession:
    """Open a logged-in session. A process may call this once, and must not fork workers afterwards.

    Raises:
        LoginRefused: the PIN is wrong, or was refused before.
        TokenUnavailable: the module, the token or the log-in fails.
    """
    make_directory(state_directory)
    modules = Modules(PinGuard(state_directory), UsageBook(state_directory))
    return HsmSession(modules.connect(hsm, pin))


def open_sessions(hsms: Iterable[Hsm], state_directory: Path, usage: UsageBook) -> dict[str, HsmSession]:
    """Open a session on each HSM, by HSM id; see :func:`open_session`. ``usage`` counts their encryptions."""
    make_directory(state_directory)
    modules = Modules(PinGuard(state_directory), usage)
    return {hsm.id: HsmSession(modules.connect(hsm, read_pin(hsm))) for hsm in hsms}
