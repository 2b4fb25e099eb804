"""One test of each HSM of a configuration, for commands: which HSMs work, and why others do not."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xksproxy.config.model import Hsm
from xksproxy.config.pins import read_pin
from xksproxy.config.secret import SecretError
from xksproxy.hsm.errors import HsmError
from xksproxy.hsm.instance.connector import TESTING
from xksproxy.hsm.instance.hsm_thread import HsmThread, Tell
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.instance.session_limits import session_warnings
from xksproxy.hsm.pkcs11.connection import TokenInfo
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.state.private_files import make_directory
from xksproxy.state.usage import UsageBook

LISTING = "reading its keys"


@dataclass(frozen=True, slots=True)
class LiveCheck:
    """The result for one HSM: a tested session, or the reason of the failure."""

    hsm: Hsm
    info: TokenInfo | None = None
    session: HsmSession | None = None
    failure: str = ""
    session_warnings: tuple[str, ...] = ()
    """Warnings if the token reports fewer sessions than are configured."""

    do: Callable[[Callable[[], Any]], Any] = lambda work: work()
    """Does work with the session, and raises TokenUnavailable if it hangs."""


def check_each(
    hsms: Sequence[Hsm], state_directory: Path, workers: int, tell: Tell = lambda _: None
) -> Iterator[LiveCheck]:
    """Log in to each HSM once, recorded by the PIN guard. Then run the self-test and the test of the settings.

    All are connected at the same time, each within its ``connect_timeout_s``; ``tell`` is called with what is waited
    for. The number of sessions that the token reports is compared with the number that ``workers`` processes want.

    A process may call this once, and must not fork workers afterwards.
    """
    make_directory(state_directory)
    modules = Modules(PinGuard(state_directory), UsageBook(state_directory), hsms)
    threads = [HsmThread(hsm, modules, tell) for hsm in hsms]
    checks = [_Check(thread, workers) for thread in threads]
    begun = [thread.begin(check.run) for thread, check in zip(threads, checks, strict=True)]
    for thread, check, future in zip(threads, checks, begun, strict=True):
        try:
            session, warnings = thread.result(future)
        except (HsmError, SecretError) as error:
            yield LiveCheck(thread.hsm, check.info, failure=str(error))
        else:
            thread.note_step(LISTING)
            yield LiveCheck(thread.hsm, check.info, session, session_warnings=warnings, do=thread.do)


class _Check:
    """The check of one HSM, on its thread."""

    def __init__(self, thread: HsmThread, workers: int) -> None:
        self._thread = thread
        self._workers = workers
        self.info: TokenInfo | None = None
        """What the token says of itself, as soon as it was found."""

    def run(self) -> tuple[HsmSession, tuple[str, ...]]:
        """A tested session, and the warnings about the number of sessions."""
        hsm = self._thread.hsm
        connection = self._thread.connect(read_pin(hsm))
        self.info = connection.info
        self._thread.note_step(TESTING)
        session = HsmSession(connection)
        session.self_test()
        session.test_settings()
        warnings = session_warnings(
            connection.session_limits(),
            sessions=hsm.sessions,
            workers=self._workers,
            read_write=connection.quirks.read_write_sessions,
        )
        self._thread.note_connected()
        return session, tuple(warnings)
