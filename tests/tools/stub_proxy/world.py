"""What the stub serves: key stores, their credentials and keys."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from xksproxy.sigv4.keyring import Credential, generate_credential


@dataclass(frozen=True, slots=True)
class StubKey:
    id: str
    usage: tuple[str, ...] = ("ENCRYPT", "DECRYPT")
    enabled: bool = True
    value: bytes = field(default_factory=lambda: os.urandom(32), repr=False)


@dataclass(frozen=True, slots=True)
class Store:
    prefix: str
    credentials: tuple[Credential, ...]
    keys: tuple[StubKey, ...]
    outage: Path
    """While this file exists, the stub has no HSM."""

    def key(self, key_id: str) -> StubKey | None:
        return next((key for key in self.keys if key.id == key_id), None)


@dataclass(frozen=True, slots=True)
class World:
    stores: tuple[Store, ...]
    crashes: list[Exception] = field(default_factory=list)
    """What the stub did not mean to raise."""

    def store(self, prefix: str) -> Store | None:
        return next((store for store in self.stores if store.prefix == prefix), None)


def make_world(outage: Path) -> World:
    """Two key stores; the first has two credentials and a key of every kind."""
    keys: Iterable[StubKey] = (
        StubKey("usable"),
        StubKey("encrypt-only", ("ENCRYPT",)),
        StubKey("decrypt-only", ("DECRYPT",)),
        StubKey("impotent", ()),
        StubKey("disabled", enabled=False),
    )
    first = Store("/stub/store", (generate_credential(), generate_credential()), tuple(keys), outage)
    other = Store("/stub/other", (generate_credential(),), (StubKey("usable"),), outage)
    return World((first, other))
