"""What every scenario works with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from xksproxy_tools.load.plan import Plan

from benchmarks.results import Finding, Sample
from benchmarks.servers import Server
from benchmarks.side_by_side import Variant, shortened
from benchmarks.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Other:
    """Another proxy, by its URL, on a token with so many keys."""

    name: str
    server: Server
    keys_on_token: int


@dataclass(slots=True)
class Workbench:
    """Tokens, a directory for servers, and how much time there is."""

    tokens: Tokens
    directory: Path
    share: float
    """Of the usual time: 1 for results, less to see whether everything runs."""

    others: Sequence[Other]
    report_sample: Callable[[Sample], None]
    _directories: int = field(default=0, init=False)

    def new_directory(self) -> Path:
        """A directory for one more server, which makes it."""
        self._directories += 1
        return self.directory / f"server-{self._directories}"

    def rounds(self, usual: int) -> int:
        """How many rounds there is time for."""
        return max(2, round(usual * self.share))

    def plan(self, usual: Plan) -> Plan:
        """As long as there is time for."""
        return shortened(usual, self.share) if self.share < 1 else usual

    def variant(self, name: str, server: Server, plan: Plan, *, checked: bool = True) -> Variant:
        """A variant with as long a load as there is time for."""
        return Variant(name, server, self.plan(plan), checked=checked)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A question, how it is answered, and the answer."""

    name: str
    title: str
    method: str
    """For whoever reads the results."""

    run: Callable[[Workbench], Finding]
