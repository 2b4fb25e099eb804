"""Trying each HSM of a configuration once, for a command: what serves, and what does not and why."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xksproxy.config.check import read_pin
from xksproxy.config.model import Hsm
from xksproxy.config.secret import SecretError
from xksproxy.hsm.errors import HsmError
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.pkcs11.module import Modules, TokenInfo
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.state.usage import UsageBook


@dataclass(frozen=True, slots=True)
class LiveCheck:
    """One HSM: a session that has passed its tests, or the reason why there is none."""

    hsm: Hsm
    info: TokenInfo | None = None
    session: HsmSession | None = None
    failure: str = ""


def check_each(hsms: Iterable[Hsm], state_directory: Path) -> Iterator[LiveCheck]:
    """Log in to each, with one attempt that the PIN guard knows of; then the self-test and the fingerprint of its settings.

    At most one call of this in a process, which then must not fork workers.
    """
    modules = Modules(PinGuard(state_directory), UsageBook(state_directory))
    for hsm in hsms:
        info = None
        try:
            connection = modules.connect(hsm, read_pin(hsm))
            info = connection.info
            session = HsmSession(connection)
            session.self_test()
            session.test_settings()
        except (HsmError, SecretError) as error:
            yield LiveCheck(hsm, info, failure=str(error))
        else:
            yield LiveCheck(hsm, info, session)
