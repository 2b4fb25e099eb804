"""Metrics that are read from files and configuration when Prometheus asks, not counted."""

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
    """An external key's version that a label is, and the encryptions it may make on this machine."""

    keystore: str
    key_id: str
    version: int
    maximum: int
    primary: bool
    """Whether it is the version that encrypts."""


@dataclass(frozen=True, slots=True)
class CredentialInfo:
    """A credential as an operator sees it. Times are seconds since 1970."""

    keystore: str
    access_key_id: str
    created: float
    last_used: float | None


@dataclass(frozen=True, slots=True)
class MachineInfo:
    """What is true now of one machine."""

    limits: Callable[[str], Iterable[KeyLimit]]
    """The external keys that a label on the tokens belongs to."""

    credentials: tuple[CredentialInfo, ...]
    certificate_name: str
    certificate_expiry: float
    """Seconds since 1970."""


class MachineCollector(Collector):
    """Turns facts into metrics."""

    def __init__(self, facts: MachineInfo, usage: UsageBook) -> None:
        self._facts = facts
        self._usage = usage

    def collect(self) -> Iterator[Metric]:
        """The metrics as of now."""
        yield _gauge(
            "xksproxy_build_info",
            "What runs here.",
            [((__version__, platform.python_version()), 1)],
            "version",
            "python",
        )
        yield from self._keys()
        yield from self._credentials()
        yield _gauge(
            "xksproxy_certificate_expiry_timestamp_seconds",
            "When the server certificate expires (CloudWatch: XksProxyCertificateDaysToExpire).",
            [((self._facts.certificate_name,), self._facts.certificate_expiry)],
            "name",
        )

    def _keys(self) -> Iterator[Metric]:
        """The 2000 labels that encrypted most."""
        try:
            usages = sorted(self._usage.read_all(), key=lambda usage: -usage.encryptions)
        except StateUnusable:
            usages = []
        rows = [
            ((limit.keystore, limit.key_id, str(limit.version)), usage, limit)
            for usage in usages[:_MAXIMUM_KEYS]
            for limit in self._facts.limits(usage.label)
        ]
        names = ("keystore", "key_id", "version")
        yield _gauge(
            "xksproxy_key_encryptions",
            "Encryptions a key version has made on this machine, those in hand of workers included.",
            [(labels, usage.encryptions) for labels, usage, _ in rows],
            *names,
        )
        yield _gauge(
            "xksproxy_key_encryptions_limit",
            "Encryptions a key version may make on this machine: AES-GCM's limit for random IVs, or less.",
            [(labels, limit.maximum) for labels, _, limit in rows],
            *names,
        )
        yield _gauge(
            "xksproxy_key_version_primary",
            "1 for the version of an external key that encrypts, 0 for the others.",
            [(labels, limit.primary) for labels, _, limit in rows],
            *names,
        )

    def _credentials(self) -> Iterator[Metric]:
        names = ("keystore", "access_key_id")
        credentials = self._facts.credentials
        yield _gauge(
            "xksproxy_credential_created_timestamp_seconds",
            "When a credential was made (CloudWatch: XksProxyCredentialAge).",
            [((item.keystore, item.access_key_id), item.created) for item in credentials],
            *names,
        )
        yield _gauge(
            "xksproxy_credential_last_used_timestamp_seconds",
            "When a credential last signed a request on this machine, to the minute; absent if it never did.",
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
