"""How often a token is searched for requests that are refused, and for those that only ask about keys."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from fault_support import FaultyHsm, is_quiet, until
from pkcs11 import Attribute

from xksproxy.config.model import Key
from xksproxy.deadline import Deadline
from xksproxy.hsm.fleet.fleet import Fleet
from xksproxy.hsm.fleet.key_searches import MISSING_SECONDS
from xksproxy.hsm.fleet.search_allowance import LEAST_SECONDS, SECONDS_AT_ONCE, SHARE
from xksproxy.hsm.instance.instance import Instance
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.keystore.key_map import KeyMap
from xksproxy.operations.access import KeyAccess
from xksproxy.operations.decrypt import decrypt
from xksproxy.operations.encrypt import encrypt
from xksproxy.operations.health import get_health_status
from xksproxy.operations.metadata import get_key_metadata
from xksproxy.operations.version_search import VersionSearch
from xksproxy.server.state_tables import StateTables
from xksproxy.spec.errors import (
    InvalidCiphertextException,
    InvalidKeyUsageException,
    InvalidStateException,
    KeyNotFoundException,
    ThrottlingException,
    XksError,
)
from xksproxy.spec.messages import CryptoRequestMetadata, DecryptRequest, EncryptRequest
from xksproxy.state.blocks import Block, block_table
from xksproxy.state.usage import UsageBook

REQUESTS = 500
SEARCHES_FOR_A_NAME = 2
"""One for each class of keys."""


def later() -> Deadline:
    return Deadline.after(60)


class Store:
    """A key store on an HSM that notes each search."""

    def __init__(self, faulty: FaultyHsm, instance: Instance, fleet: Fleet, access: KeyAccess) -> None:
        self.access = access
        self.fleet = fleet
        self.instance = instance
        self._faulty = faulty

    async def encrypt(self, key_id: str) -> None:
        request = EncryptRequest(
            request_metadata=CryptoRequestMetadata("arn", "key", "Encrypt", "id"),
            plaintext=b"text",
            encryption_algorithm="AES_GCM",
        )
        await encrypt(request, key_id, self.access, later())

    async def decrypt(self, key_id: str) -> None:
        request = DecryptRequest(
            request_metadata=CryptoRequestMetadata("arn", "key", "Decrypt", "id"),
            ciphertext=b"text",
            encryption_algorithm="AES_GCM",
            initialization_vector=bytes(12),
            authentication_tag=bytes(16),
        )
        await decrypt(request, key_id, self.access, later())

    async def searches(
        self, request: Callable[[int], Awaitable[object]], *expected: type[XksError], slow_ms: int = 0
    ) -> int:
        """How many searches so many requests cost that are refused as expected, or not refused."""
        self._faulty.tell("note C_FindObjectsInit", f"C_FindObjectsInit delay {slow_ms}")
        before = self._faulty.noted_calls()
        for number in range(REQUESTS):
            try:
                await request(number)
                assert not expected
            except expected:
                pass
        return self._faulty.noted_calls() - before


@pytest.fixture
async def store(make_faulty: Callable[..., FaultyHsm], modules: Modules, tmp_path: Path) -> AsyncIterator[Store]:
    faulty = make_faulty(check_interval_s=600)
    instance = Instance(faulty.hsm, modules)
    instance.start()
    await until(lambda: is_quiet(instance))
    block_table(tmp_path, "store").update("demo-key", lambda _: Block(1.0))
    state = StateTables(tmp_path).of("store")
    keys = KeyMap((Key(id="*"), Key(id="off", label="impotent-key", disabled=True)))
    fleet = Fleet([instance], state.fingerprints, lambda _: True)
    usage = UsageBook(tmp_path)
    yield Store(
        faulty, instance, fleet, KeyAccess(keys, state.versions, state.blocks, VersionSearch(fleet), fleet, usage)
    )
    faulty.tell()
    instance.stop()


async def test_a_blocked_and_a_disabled_key_cost_no_search(store: Store) -> None:
    assert await store.searches(lambda _: store.encrypt("demo-key"), InvalidStateException) == 0
    assert await store.searches(lambda _: store.decrypt("demo-key"), InvalidStateException) == 0
    assert await store.searches(lambda _: store.encrypt("off"), InvalidStateException) == 0


async def test_the_metadata_of_keys_and_the_health_cost_no_search(store: Store) -> None:
    keys = ("demo-key", "off", "encrypt-only-key", "decrypt-only-key")

    async def health(_: int) -> None:
        get_health_status(store.access.engine, 1, "")

    for key in keys:
        await get_key_metadata(key, store.access, later())  # the first makes a fingerprint
    assert await store.searches(lambda number: get_key_metadata(keys[number % 4], store.access, later())) == 0
    assert await store.searches(health) == 0


async def test_a_usage_that_a_key_does_not_have_costs_no_search(store: Store) -> None:
    for key in ("encrypt-only-key", "decrypt-only-key"):
        await get_key_metadata(key, store.access, later())

    assert await store.searches(lambda _: store.encrypt("decrypt-only-key"), InvalidKeyUsageException) == 0
    assert await store.searches(lambda _: store.decrypt("encrypt-only-key"), InvalidKeyUsageException) == 0


async def test_a_missing_key_is_searched_once_for_all_requests_of_two_seconds(store: Store) -> None:
    requests = (store.encrypt, store.decrypt, lambda key: get_key_metadata(key, store.access, later()))

    before = time.monotonic()
    searches = await store.searches(lambda number: requests[number % 3]("missing"), KeyNotFoundException)

    assert searches <= SEARCHES_FOR_A_NAME * (1 + (time.monotonic() - before) / MISSING_SECONDS)


@pytest.mark.parametrize("slow_ms", [5, 20])
async def test_searches_for_many_missing_keys_take_a_small_part_of_the_time(store: Store, slow_ms: int) -> None:
    before = time.monotonic()
    searches = await store.searches(
        lambda number: get_key_metadata(f"missing-{number}", store.access, later()),
        KeyNotFoundException,
        ThrottlingException,
        slow_ms=slow_ms,
    )

    seconds = SECONDS_AT_ONCE + SHARE * (time.monotonic() - before)
    assert 2 <= searches <= SEARCHES_FOR_A_NAME + seconds / (slow_ms / 1000)


async def test_keys_that_exist_are_served_while_missing_ones_are_throttled(store: Store) -> None:
    def look(key: str) -> Awaitable[object]:
        return get_key_metadata(key, store.access, later())

    await look("encrypt-only-key")
    with pytest.raises(ThrottlingException):
        await asyncio.gather(*(look(f"missing-{number}") for number in range(2 * REQUESTS)))

    await look("encrypt-only-key")
    await store.encrypt("encrypt-only-key")


async def test_a_key_that_no_listing_has_found_yet_is_searched_for_once_though_its_ciphertexts_are_refused(
    store: Store,
) -> None:
    await store.instance.call(lambda session: session.create_key("new", bits=256, encrypt=True, decrypt=True), later())

    for _ in range(2 * int(SECONDS_AT_ONCE / LEAST_SECONDS)):
        with pytest.raises(InvalidCiphertextException):
            await store.decrypt("new")


async def test_a_key_that_was_missing_is_found_at_once_after_a_new_look(store: Store) -> None:
    with pytest.raises(KeyNotFoundException):
        await get_key_metadata("new", store.access, later())
    await store.instance.call(lambda session: session.create_key("new", bits=256, encrypt=True, decrypt=True), later())
    with pytest.raises(KeyNotFoundException):
        await store.encrypt("new")
    store.fleet.forget_missing_keys()

    await store.encrypt("new")


async def test_a_key_that_is_gone_is_noticed_within_seconds_by_its_use(store: Store) -> None:
    await store.instance.call(lambda session: session.create_key("old", bits=256, encrypt=True, decrypt=True), later())
    await store.encrypt("old")
    await store.instance.call(lambda session: remove(session, "old"), later())

    with pytest.raises(KeyNotFoundException):
        await store.encrypt("old")


def remove(session: HsmSession, label: str) -> None:
    for key in list(session.binding.get_objects({Attribute.LABEL: label})):
        key.destroy()
