"""Trying each HSM of a configuration once, for a command: what serves, and what does not and why."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from xksproxy.config.check import read_pin
from xksproxy.config.model import Hsm
from xksproxy.config.secret import SecretError
from xksproxy.hsm.errors import HsmError
from xksproxy.hsm.module import Modules, TokenInfo
from xksproxy.hsm.pinguard import PinGuard
from xksproxy.hsm.session import HsmSession
from xksproxy.state.usage import UsageBook


@dataclass(frozen=True, slots=True)
class Trial:
    """One HSM: a session that has passed its tests, or the reason why there is none."""

    hsm: Hsm
    info: TokenInfo | None = None
    session: HsmSession | None = None
    failure: str = ""


def try_each(hsms: Iterable[Hsm], state_directory: Path) -> Iterator[Trial]:
    """Log in to each, with one attempt that the PIN guard knows of; then the self-test and the proof of its settings.

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
            session.prove()
        except (HsmError, SecretError) as error:
            yield Trial(hsm, info, failure=str(error))
        else:
            yield Trial(hsm, info, session)
