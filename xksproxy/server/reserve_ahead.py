"""What a worker does about counts of encryptions when it starts, before the first request."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Final

from xksproxy.server.find_conditions import NEARLY_USED
from xksproxy.server.key_index import KeyIndex, key_counts
from xksproxy.server.services import Services
from xksproxy.server.snapshot import primary_labels
from xksproxy.state.state_file import StateUnusable
from xksproxy.state.state_number import unrecorded_encryptions
from xksproxy.state.usage_records import KeyUsage

_RECENT_SECONDS: Final = 3_600.0
_MOST_KEYS: Final = 32
"""A reservation takes a few syncs of the disk."""


def reserve_ahead(services: Services) -> None:
    """Reserve encryptions for the primary versions used in the last hour, at most 32. Call it on a thread.

    So their first requests do not wait for the disk.
    """
    usage = services.state.usage
    with suppress(StateUnusable):  # which the requests report
        if not (records := usage.records.recent(_RECENT_SECONDS, _MOST_KEYS)):
            return
        index = KeyIndex([service.store for service in services.snapshot.services.values()])
        for record in records[: index.most_names]:
            maxima = [count.maximum for count in key_counts(record, usage, index) if count.primary]
            if maxima:
                usage.reserve_ahead(record.label, min(maxima))


def note_nearly_used(services: Services) -> None:
    """Note which primary versions near their maximum, so that this is reported before a request fails.

    It reads all counts, or as many as can be compared with patterns in reasonable time. Call it on a thread.
    """
    usage = services.state.usage
    with suppress(StateUnusable):  # which the requests report
        index = KeyIndex([service.store for service in services.snapshot.services.values()])
        for record in islice(_counts(services), index.most_names):
            for count in key_counts(record, usage, index):
                if count.primary and record.encryptions >= NEARLY_USED * count.maximum:
                    usage.note_reached(record.label, record.encryptions, count.maximum)


def _counts(services: Services) -> Iterator[KeyUsage]:
    """All records, and, after a loss, what keys count that have none and that the configuration names.

    Raises:
        StateUnusable: one cannot be read.
    """
    usage = services.state.usage
    yield from usage.records.read_all()
    if unrecorded_encryptions(usage.directory):
        for service in services.snapshot.services.values():
            yield from map(usage.read, primary_labels(service.store))
