"""One test of each HSM of a configuration, for commands: which HSMs work, and why others do not."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xksproxy.config.model import Hsm
from xksproxy.config.pins import read_pin
from xksproxy.config.secret import SecretError
from xksproxy.hsm.errors import HsmError
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.instance.session_limits import session_warnings
from xksproxy.hsm.pkcs11.connection import TokenInfo
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.state.private_files import make_directory
from xksproxy.state.usage import UsageBook


@dataclass(frozen=True, slots=True)
class LiveCheck:
    """The result for one HSM: a tested session, or the reason of the failure."""

    hsm: Hsm
    info: TokenInfo | None = None
    session: HsmSession | None = None
    failure: str = ""
    session_warnings: tuple[str, ...] = ()
    """Warnings if the token reports fewer sessions than are configured."""


def check_each(hsms: Iterable[Hsm], state_directory: Path, workers: int) -> Iterator[LiveCheck]:
    """Log in to each HSM once, recorded by the PIN guard. Then run the self-test and the test of the settings.

    The number of sessions that the token reports is compared with the number that ``workers`` processes want.

    A process may call this once, and must not fork workers afterwards.
    """
    make_directory(state_directory)
    modules = Modules(PinGuard(state_directory), UsageBook(state_directory))
    for hsm in hsms:
        info = None
        try:
            connection = modules.connect(hsm, read_pin(hsm))
            info = connection.info
            session = HsmSession(connection)
            session.self_test()
            session.test_settings()
            warnings = session_warnings(
                connection.session_limits(),
                sessions=hsm.sessions,
                workers=workers,
                read_write=connection.quirks.read_write_sessions,
            )
        except (HsmError, SecretError) as error:
            yield LiveCheck(hsm, info, failure=str(error))
        else:
            yield LiveCheck(hsm, info, session, session_warnings=tuple(warnings))
