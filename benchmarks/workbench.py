"""The resources of scenarios."""

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
    """Another proxy, and the number of keys on its token."""

    name: str
    server: Server
    keys_on_token: int


@dataclass(slots=True)
class Workbench:
    """Tokens, a directory for servers, and the available time."""

    tokens: Tokens
    directory: Path
    share: float
    """The share of the usual time: 1 for results, less for a quick test."""

    others: Sequence[Other]
    report_sample: Callable[[Sample], None]
    _directories: int = field(default=0, init=False)

    def new_directory(self) -> Path:
        """The path of a new directory for a server, which creates it."""
        self._directories += 1
        return self.directory / f"server-{self._directories}"

    def rounds(self, usual: int) -> int:
        """The number of rounds in the available time."""
        return max(2, round(usual * self.share))

    def plan(self, usual: Plan) -> Plan:
        """The plan, shortened to the available time."""
        return shortened(usual, self.share) if self.share < 1 else usual

    def variant(self, name: str, server: Server, plan: Plan, *, checked: bool = True) -> Variant:
        """A variant with a load of the available time."""
        return Variant(name, server, self.plan(plan), checked=checked)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A benchmark: its name, its title, its method and its function."""

    name: str
    title: str
    method: str
    """The method, as text for readers of the results."""

    run: Callable[[Workbench], Finding]
