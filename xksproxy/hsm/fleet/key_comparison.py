"""Which keys of a key store differ, are missing or are ambiguous on its HSMs, by their last listings."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from xksproxy.hsm.fleet.key_identity import KeyIdentity
from xksproxy.hsm.instance.instance import Instance

_MAXIMUM_AGE_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class KeyProblems:
    """The labels, sorted, whose keys have a problem on one HSM."""

    instance: Instance
    differing: tuple[str, ...] = ()
    """Keys that are not those on record."""

    missing: tuple[str, ...] = ()
    """Keys that the configuration names or that another HSM has."""

    ambiguous: tuple[str, ...] = ()
    """Labels that several keys carry."""


class KeyComparison:
    """Compares the keys of the HSMs with each other and with the record. May be used from any thread.

    That takes time for each key, so it is done after a change on a token, a refusal or a new record only, and every ten
    minutes.
    """

    def __init__(
        self,
        instances: Sequence[Instance],
        identity: KeyIdentity,
        exposes: Callable[[str], bool],
        named: Callable[[], Iterable[str]],
        revision: Callable[[], object] = lambda: None,
    ) -> None:
        """``exposes`` says whether the key store exposes a label; ``named`` returns the labels that it needs.

        ``revision`` changes when ``named`` may return others.
        """
        self._revision = revision
        self._instances = instances
        self._identity = identity
        self._exposes = exposes
        self._named = named
        self._last: tuple[list[object], float, tuple[KeyProblems, ...]] = ([], 0.0, ())
        """The data that was compared, the monotonic time, and the result."""

    def problems(self) -> Sequence[KeyProblems]:
        """The problems of each HSM, in the order of the instances. An HSM whose keys were never listed has none."""
        compared: list[object] = [self._identity.revision, self._revision()]
        for instance in self._instances:
            compared += (
                instance.listed,
                instance.labels,
                instance.check_values,
                instance.ambiguous,
                self._identity.refused_keys(instance),
            )
        before, at, problems = self._last
        if time.monotonic() - at >= _MAXIMUM_AGE_SECONDS or not _same(compared, before):
            problems = tuple(self._compare())
            self._last = compared, time.monotonic(), problems
        return problems

    def _compare(self) -> Iterable[KeyProblems]:
        labels = {label for instance in self._instances for label in (*instance.labels, *instance.check_values)}
        exposed = set(filter(self._exposes, labels))
        needed = {label for instance in self._instances for label in instance.labels if label in exposed}
        needed.update(self._named())
        for instance in self._instances:
            refused = self._identity.refused_keys(instance)
            if instance.listed:
                differing = {label for label in exposed if self._differs(label, instance.check_values)}
                missing = needed - instance.labels
                ambiguous = exposed & instance.ambiguous
                yield KeyProblems(instance, _sorted({*differing, *refused}), _sorted(missing), _sorted(ambiguous))
            else:
                yield KeyProblems(instance, _sorted(refused))

    def _differs(self, label: str, check_values: Mapping[str, bytes | None]) -> bool:
        return label in check_values and not self._identity.agrees(label, check_values[label])


def _sorted(labels: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(labels))


def _same(one: list[object], other: list[object]) -> bool:
    """Listings are compared by identity, because each makes new objects; the rest is short and compared by value."""
    return len(one) == len(other) and all(
        a is b or (not isinstance(a, (frozenset, dict)) and a == b) for a, b in zip(one, other, strict=True)
    )
