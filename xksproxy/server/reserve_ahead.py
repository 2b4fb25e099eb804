"""Encryptions that a worker reserves when it starts, so that its first requests do not wait for the disk."""

from contextlib import suppress
from typing import Final

from xksproxy.server.key_index import KeyIndex, key_counts
from xksproxy.server.services import Services
from xksproxy.state.state_file import StateUnusable

_RECENT_SECONDS: Final = 3_600.0
_MOST_KEYS: Final = 32
"""A reservation takes a few syncs of the disk."""


def reserve_ahead(services: Services) -> None:
    """Reserve encryptions for the primary versions used in the last hour, at most 32. Call it on a thread."""
    usage = services.state.usage
    with suppress(StateUnusable):  # which the requests report
        if not (records := usage.records.recent(_RECENT_SECONDS, _MOST_KEYS)):
            return
        index = KeyIndex([service.store for service in services.snapshot.services.values()])
        for record in records[: index.most_names]:
            maxima = [count.maximum for count in key_counts(record, usage, index) if count.primary]
            if maxima:
                usage.reserve_ahead(record.label, min(maxima))
