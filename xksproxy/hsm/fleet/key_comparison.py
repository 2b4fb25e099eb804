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
    """Keys that are not those on record. Of a label that several keys carry, this is not said."""

    missing: tuple[str, ...] = ()
    """Keys that the configuration names, that were used before, or that another HSM has."""

    ambiguous: tuple[str, ...] = ()
    """Labels that several keys carry."""

    restricted: tuple[str, ...] = ()
    """Keys that could encrypt and decrypt, and may no longer decrypt, or no longer encrypt although they have to."""

    not_listed_yet: frozenset[str] = frozenset()
    """Keys that were not needed before the last listing, and are not in it."""

    unrecorded: tuple[str, ...] = ()
    """Later versions of keys than this machine has a record of, as after a loss of its state."""

    @property
    def refused(self) -> frozenset[str]:
        """The keys that the HSM has and that are not used on it, or not for all that they have to do."""
        return frozenset((*self.differing, *self.ambiguous, *self.restricted))


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
        *,
        encrypts: Callable[[str], bool],
        unrecorded: Callable[[str], bool],
        revision: Callable[[], object],
    ) -> None:
        """``exposes`` says whether the key store exposes a label; ``named`` returns the labels that it needs.

        ``encrypts`` says whether the key of a label has to encrypt: a former version need not. ``unrecorded`` says
        whether an exposed label is that of a later version than there is a record of. ``revision`` changes when
        ``named``, ``encrypts`` or ``unrecorded`` may return something else.
        """
        self._encrypts = encrypts
        self._unrecorded = unrecorded
        self._revision = revision
        self._instances = instances
        self._identity = identity
        self._exposes = exposes
        self._named = named
        self._last: tuple[list[object], float, tuple[KeyProblems, ...]] = ([], 0.0, ())
        """The data that was compared, the monotonic time, and the result."""
        self._needed: frozenset[str] | None = None
        """What ``named`` returned last; None before the first comparison."""
        self._made_at = time.monotonic()
        self._new: dict[str, float] = {}
        """Labels that ``named`` returns, with the time since when, until each HSM has been listed after that time."""

    def problems(self) -> Sequence[KeyProblems]:
        """The problems of each HSM, in the order of the instances. An HSM whose keys were never listed has none."""
        compared: list[object] = [self._identity.revision, self._revision()]
        for instance in self._instances:
            compared += (
                instance.listing.revision,
                self._identity.refused_keys(instance),
                instance.listing.listed_at if self._new else None,
            )
        before, at, problems = self._last
        if time.monotonic() - at >= _MAXIMUM_AGE_SECONDS or compared != before:
            problems = tuple(self._compare())
            self._last = compared, time.monotonic(), problems
        return problems

    def _compare(self) -> Iterable[KeyProblems]:
        labels = {
            label for instance in self._instances for label in (*instance.keys.labels, *instance.keys.check_values)
        }
        exposed = set(filter(self._exposes, labels))
        needed = {label for instance in self._instances for label in instance.keys.labels if label in exposed}
        needed.update(self._named_labels())
        for instance in self._instances:
            refused = self._identity.refused_keys(instance)
            if instance.listing.listed:
                ambiguous = exposed & instance.keys.ambiguous
                differing = {label for label in exposed if self._differs(label, instance.keys.check_values)}
                absent = needed - instance.keys.labels
                missing = {label for label in absent if self._is_listed_since_needed(label, instance)}
                yield KeyProblems(
                    instance,
                    _sorted({*differing, *refused} - ambiguous),
                    _sorted(missing),
                    _sorted(ambiguous),
                    _sorted(filter(self._identity.could_do_both, exposed & self._restricted(instance))),
                    frozenset(absent - missing),
                    _sorted(filter(self._unrecorded, exposed & instance.keys.labels)),
                )
            else:
                yield KeyProblems(instance, _sorted(refused))

    def _restricted(self, instance: Instance) -> frozenset[str]:
        """The labels whose keys may not do all that they have to."""
        return instance.keys.not_decrypting.union(filter(self._encrypts, instance.keys.not_encrypting))

    def _named_labels(self) -> frozenset[str]:
        """The labels that the key store needs; those that it did not need before are noted."""
        now, before = time.monotonic(), self._needed
        self._needed = named = frozenset(self._named())
        if before is None:
            self._new = dict.fromkeys(named, self._made_at)
        else:
            self._new.update((label, now) for label in named - before)
        listed_at = min((instance.listing.listed_at for instance in self._instances), default=now)
        self._new = {label: at for label, at in self._new.items() if label in named and at >= listed_at}
        return named

    def _is_listed_since_needed(self, label: str, instance: Instance) -> bool:
        """A rotation, or a command before a reload, makes a key that the listing before cannot have."""
        at = self._new.get(label)
        return at is None or at < instance.listing.listed_at

    def _differs(self, label: str, check_values: Mapping[str, bytes | None]) -> bool:
        return label in check_values and not self._identity.agrees(label, check_values[label])


def _sorted(labels: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(labels))
