"""Which keys a key store misses on its HSMs."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from fault_support import FaultyHsm, is_quiet, until
from pkcs11 import Attribute

from xksproxy.deadline import Deadline
from xksproxy.hsm.fleet.fleet import Fleet
from xksproxy.hsm.instance.instance import Instance
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.server.state_tables import StateTables


class Store:
    """A key store that needs some labels, on an HSM whose keys are listed when it is checked."""

    def __init__(self, instance: Instance, directory: Path) -> None:
        self.instance = instance
        self._labels = ["demo-key"]
        fingerprints = StateTables(directory).of("store").fingerprints
        self._fleet = Fleet(
            [instance], fingerprints, lambda _: False, lambda: self._labels, revision=lambda: tuple(self._labels)
        )

    def need(self, label: str) -> None:
        self._labels.append(label)

    async def make(self, label: str) -> None:
        await self.instance.call(
            lambda session: session.create_key(label, bits=256, encrypt=True, decrypt=True), Deadline.after(60)
        )

    async def remove(self, label: str) -> None:
        def destroy(session: HsmSession) -> None:
            for key in list(session.binding.get_objects({Attribute.LABEL: label})):
                key.destroy()

        await self.instance.call(destroy, Deadline.after(60))

    @property
    def missing(self) -> tuple[str, ...]:
        (problems,) = self._fleet.key_problems()
        return problems.missing

    @property
    def not_listed_yet(self) -> frozenset[str]:
        (problems,) = self._fleet.key_problems()
        return problems.not_listed_yet


@pytest.fixture
async def store(make_faulty: Callable[..., FaultyHsm], modules: Modules, tmp_path: Path) -> AsyncIterator[Store]:
    instance = Instance(make_faulty(check_interval_s=600).hsm, modules)
    instance.start()
    await until(lambda: is_quiet(instance))
    yield Store(instance, tmp_path)
    instance.stop()


async def test_a_key_that_a_rotation_made_since_the_listing_is_not_missing(store: Store) -> None:
    assert store.missing == ()
    await store.make("made by a rotation")
    store.need("made by a rotation")

    assert store.missing == ()
    assert store.not_listed_yet == {"made by a rotation"}

    await listed(store)
    assert store.missing == ()
    assert store.not_listed_yet == set()


async def test_a_key_that_a_later_listing_does_not_have_is_missing(store: Store) -> None:
    assert store.missing == ()
    store.need("not made")
    assert store.missing == ()

    await listed(store)
    assert store.missing == ("not made",)


async def test_a_key_that_the_next_listing_no_longer_has_is_missing(store: Store) -> None:
    await store.make("made by a rotation")
    store.need("made by a rotation")
    await listed(store)
    assert store.missing == ()
    await store.remove("made by a rotation")
    assert store.missing == ()

    await listed(store)
    assert store.missing == ("made by a rotation",)


async def test_a_key_that_was_made_before_a_reload_that_names_it_is_not_missing(store: Store) -> None:
    await store.make("made before a reload")
    store.need("made before a reload")
    store.need("not made")
    assert store.missing == ()

    await listed(store)
    assert store.missing == ("not made",)


async def test_what_was_needed_before_the_first_listing_is_missing_at_the_first_comparison(store: Store) -> None:
    store.need("not made")
    await listed(store)

    assert store.missing == ("not made",)


async def listed(store: Store) -> None:
    before = store.instance.listing.listed_at
    while store.instance.listing.listed_at == before:
        await store.instance.check()
