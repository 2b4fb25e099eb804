"""Metrics that are read from files and configuration at each scrape."""

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from xksproxy import __version__
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.usage import UsageBook

_MAXIMUM_KEYS: Final = 2000


@dataclass(frozen=True, slots=True)
class KeyLimit:
    """A version of an external key, and the number of encryptions that it may make on this machine."""

    keystore: str
    key_id: str
    version: int
    maximum: int
    primary: bool
    """Whether it is the primary version."""


@dataclass(frozen=True, slots=True)
class CredentialInfo:
    """A credential without its secret. Times are seconds since 1970."""

    keystore: str
    access_key_id: str
    created: float
    last_used: float | None


@dataclass(frozen=True, slots=True)
class MachineInfo:
    """The current state of one machine, for metrics."""

    limits: Callable[[str], Iterable[KeyLimit]]
    """Returns the external keys that have a version which is counted under a name."""

    credentials: tuple[CredentialInfo, ...]
    certificate_name: str
    certificate_expiry: float
    """Seconds since 1970."""


class MachineCollector(Collector):
    """The metrics of one machine."""

    def __init__(self, machine: MachineInfo, usage: UsageBook) -> None:
        self._machine = machine
        self._usage = usage

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics with their current values."""
        yield _gauge(
            "xksproxy_build_info",
            "Versions of the proxy and of Python.",
            [((__version__, platform.python_version()), 1)],
            "version",
            "python",
        )
        yield from self._keys()
        yield from self._credentials()
        yield _gauge(
            "xksproxy_certificate_expiry_timestamp_seconds",
            "When the server certificate expires (CloudWatch: XksProxyCertificateDaysToExpire).",
            [((self._machine.certificate_name,), self._machine.certificate_expiry)],
            "name",
        )

    def _keys(self) -> Iterator[Metric]:
        """The metrics of the 2000 labels with the most encryptions."""
        try:
            usages = sorted(self._usage.read_all(), key=lambda usage: -usage.encryptions)
        except StateUnusable:
            usages = []
        rows = [
            ((limit.keystore, limit.key_id, str(limit.version)), usage, limit)
            for usage in usages[:_MAXIMUM_KEYS]
            for limit in self._machine.limits(usage.label)
        ]
        names = ("keystore", "key_id", "version")
        yield _gauge(
            "xksproxy_key_encryptions",
            "Encryptions that a key version made on this machine, including those that workers have reserved.",
            [(labels, usage.encryptions) for labels, usage, _ in rows],
            *names,
        )
        yield _gauge(
            "xksproxy_key_encryptions_limit",
            "Encryptions that a key version may make on this machine: the limit of AES-GCM with random IVs, or less.",
            [(labels, limit.maximum) for labels, _, limit in rows],
            *names,
        )
        yield _gauge(
            "xksproxy_key_version_primary",
            "1 for the primary version of an external key, 0 for its other versions.",
            [(labels, limit.primary) for labels, _, limit in rows],
            *names,
        )

    def _credentials(self) -> Iterator[Metric]:
        names = ("keystore", "access_key_id")
        credentials = self._machine.credentials
        yield _gauge(
            "xksproxy_credential_created_timestamp_seconds",
            "When a credential was created (CloudWatch: XksProxyCredentialAge).",
            [((item.keystore, item.access_key_id), item.created) for item in credentials],
            *names,
        )
        yield _gauge(
            "xksproxy_credential_last_used_timestamp_seconds",
            "When this machine last verified a request of a credential, to the minute; absent if it never did.",
            [
                ((item.keystore, item.access_key_id), item.last_used)
                for item in credentials
                if item.last_used is not None
            ],
            *names,
        )


def _gauge(name: str, text: str, rows: Iterable[tuple[tuple[str, ...], float]], *labels: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family
