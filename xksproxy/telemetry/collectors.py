"""Metrics that are read from files and configuration at each scrape."""

import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from xksproxy import __version__
from xksproxy.telemetry.series import OTHER

KEYS: Final = "keys"
CREDENTIALS: Final = "credentials"
_SERIES_OF_A_KEY: Final = 3
_SERIES_OF_A_CREDENTIAL: Final = 2


@dataclass(frozen=True, slots=True)
class KeyCount:
    """A version of an external key, and the encryptions that it has made and may make on this machine."""

    keystore: str
    key_id: str
    version: int
    encryptions: int
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

    keys: Sequence[KeyCount]
    """The busiest first."""

    credentials: Sequence[CredentialInfo]
    certificate_name: str
    certificate_expiry: float
    """Seconds since 1970."""

    keys_left_out: int = 0
    """Names of keys on tokens for which :attr:`keys` has nothing, because there are too many."""


class MachineCollector(Collector):
    """The metrics of one machine."""

    def __init__(self, machine: MachineInfo) -> None:
        self._machine = machine
        self._keys = list(machine.keys)
        self._credentials = list(machine.credentials)
        self._other_encryptions: Counter[str] = Counter()
        """Those of keys that are folded, by key store."""

    def series(self) -> dict[str, int]:
        """How many series there would be that :meth:`fold` can fold, by what they are about."""
        return {
            KEYS: _SERIES_OF_A_KEY * len(self._keys),
            CREDENTIALS: _SERIES_OF_A_CREDENTIAL * len(self._credentials),
        }

    def fold(self, most: Mapping[str, int]) -> dict[str, int]:
        """Fold series until there are about so many, and return how many are less.

        The busiest keys stay, and of each key store one series with the encryptions of all other keys. The oldest
        credentials stay.
        """
        before = self.series()
        if most[KEYS] < before[KEYS]:
            kept = most[KEYS] // _SERIES_OF_A_KEY
            for key in self._keys[kept:]:
                self._other_encryptions[key.keystore] += key.encryptions
            self._keys = self._keys[:kept]
        if most[CREDENTIALS] < before[CREDENTIALS]:
            kept = most[CREDENTIALS] // _SERIES_OF_A_CREDENTIAL
            self._credentials = sorted(self._credentials, key=lambda item: item.created)[:kept]
        after = self.series()
        less = {what: before[what] - after[what] for what in before}
        less[KEYS] += _SERIES_OF_A_KEY * self._machine.keys_left_out - len(self._other_encryptions)
        return less

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics with their current values."""
        yield _gauge(
            "xksproxy_build_info",
            "Versions of the proxy and of Python.",
            [((__version__, platform.python_version()), 1)],
            "version",
            "python",
        )
        yield from self._collect_keys()
        yield from self._collect_credentials()
        yield _gauge(
            "xksproxy_certificate_expiry_timestamp_seconds",
            "When the server certificate expires (CloudWatch: XksProxyCertificateDaysToExpire).",
            [((self._machine.certificate_name,), self._machine.certificate_expiry)],
            "name",
        )

    def _collect_keys(self) -> Iterator[Metric]:
        rows = [((key.keystore, key.key_id, str(key.version)), key) for key in self._keys]
        others = [((keystore, OTHER, OTHER), count) for keystore, count in self._other_encryptions.items()]
        names = ("keystore", "key_id", "version")
        yield _gauge(
            "xksproxy_key_encryptions",
            "Encryptions that a key version made on this machine, including those that workers have reserved.",
            [*((labels, key.encryptions) for labels, key in rows), *others],
            *names,
        )
        yield _gauge(
            "xksproxy_key_encryptions_limit",
            "Encryptions that a key version may make on this machine: the limit of AES-GCM with random IVs, or less.",
            [(labels, key.maximum) for labels, key in rows],
            *names,
        )
        yield _gauge(
            "xksproxy_key_version_primary",
            "1 for the primary version of an external key, 0 for its other versions.",
            [(labels, key.primary) for labels, key in rows],
            *names,
        )

    def _collect_credentials(self) -> Iterator[Metric]:
        names = ("keystore", "access_key_id")
        yield _gauge(
            "xksproxy_credential_created_timestamp_seconds",
            "When a credential was created (CloudWatch: XksProxyCredentialAge).",
            [((item.keystore, item.access_key_id), item.created) for item in self._credentials],
            *names,
        )
        yield _gauge(
            "xksproxy_credential_last_used_timestamp_seconds",
            "When this machine last verified a request of a credential, to the minute; absent if it never did.",
            [
                ((item.keystore, item.access_key_id), item.last_used)
                for item in self._credentials
                if item.last_used is not None
            ],
            *names,
        )


class FoldedCollector(Collector):
    """How many series a scrape lacks because of the limit."""

    def __init__(self, folded: Mapping[str, int]) -> None:
        self._folded = folded

    def collect(self) -> Iterator[Metric]:
        """Yield the one metric."""
        yield _gauge(
            "xksproxy_series_folded",
            "Series that are left out or added to others, because there would be more than [metrics] max_series.",
            [((what,), number) for what, number in self._folded.items()],
            "what",
        )


def _gauge(name: str, text: str, rows: Iterable[tuple[tuple[str, ...], float]], *labels: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family
