"""Sessions for commands, which need neither session workers nor a fleet."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from xksproxy.config.model import Hsm
from xksproxy.config.pins import read_pin
from xksproxy.config.secret import Secret
from xksproxy.hsm.instance.hsm_thread import HsmThread, Tell
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.state.private_files import make_directory
from xksproxy.state.usage import UsageBook


def open_session(
    hsm: Hsm,
    pin: Secret | None,
    state_directory: Path,
    hsms: Sequence[Hsm] = (),
    tell: Tell = lambda _: None,
) -> HsmSession:
    """Open a logged-in session. A process may call this once, and must not fork workers afterwards.

    ``hsms`` are all HSMs of the configuration; ``tell`` is called with what is waited for.

    Raises:
        LoginRefused: the PIN is wrong, or was refused before.
        TokenUnavailable: the module, the token or the log-in fails, or hangs for ``connect_timeout_s``.
    """
    make_directory(state_directory)
    modules = Modules(PinGuard(state_directory), UsageBook(state_directory), hsms)
    return _session(HsmThread(hsm, modules, tell), pin)


def open_sessions(
    hsms: Iterable[Hsm],
    state_directory: Path,
    usage: UsageBook,
    all_hsms: Sequence[Hsm] = (),
    tell: Tell = lambda _: None,
) -> dict[str, HsmSession]:
    """Open a session on each HSM, by HSM id; see :func:`open_session`. ``usage`` counts their encryptions."""
    make_directory(state_directory)
    modules = Modules(PinGuard(state_directory), usage, all_hsms)
    return {hsm.id: _session(HsmThread(hsm, modules, tell), read_pin(hsm)) for hsm in hsms}


def _session(thread: HsmThread, pin: Secret | None) -> HsmSession:
    """A session of the HSM of a thread, for the calling thread."""
    return thread.do(lambda: HsmSession(thread.connect(pin)))
