"""Which credentials a key store accepts, and which it says were retired."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from xksproxy.config.credentials import StoredCredential
from xksproxy.config.model import Key
from xksproxy.config.model import KeyStore as Table
from xksproxy.config.object_names import ObjectName
from xksproxy.keystore.store import KeyStore, StoreRecords
from xksproxy.server.state_tables import StateTables
from xksproxy.sigv4.keyring import generate_credential
from xksproxy.state.retired_credentials import mark_retired
from xksproxy.state.versions import VersionRecord, version_table


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir(0o700)
    return directory


STORED = [StoredCredential(generate_credential(), Path("a.toml"), datetime.now(UTC)) for _ in range(2)]
FIRST, SECOND = (stored.credential.access_key_id for stored in STORED)


def build(state: Path, *keys: Key) -> KeyStore:
    tables = StateTables(state)
    of_store = tables.of("s")
    records = StoreRecords(of_store.versions, of_store.blocks, of_store.credential_uses, tables.retired)
    table = Table(name="s", uri_path_prefix="", hsms=(), credentials="-", keys=keys or (Key(id="k"),))
    return KeyStore.build(table, 1, STORED, records)


def test_a_retired_credential_whose_file_is_there_is_refused_by_name(state: Path) -> None:
    mark_retired(state, "s", FIRST)
    mark_retired(state, "other", SECOND)

    store = build(state)

    assert (FIRST in store.keyring, SECOND in store.keyring) == (False, True)
    assert store.refused_credentials == (FIRST,)


def test_no_credential_is_accepted_or_called_retired_while_the_record_cannot_be_read(state: Path) -> None:
    mark_retired(state, "s", FIRST)
    (state / "retired-credentials.json").write_text("{")

    store = build(state)

    assert (FIRST in store.keyring, SECOND in store.keyring) == (False, False)
    assert store.refused_credentials == ()


@pytest.mark.parametrize("key", [Key(id="k"), Key(id="k", versions={1: "k", 2: "k.v2", 3: "other"})])
def test_versions_are_exposed_but_those_that_were_abandoned(state: Path, key: Key) -> None:
    third = key.versions.get(3, "k.v3")
    assert all(map(build(state, key).exposes, ("k", "k.v2", third)))
    version_table(state, "s").update("k", lambda _: VersionRecord(2, proven=(2,), highest=3, abandoned=(3,)))

    store = build(state, key)

    assert [label for label in ("k", "k.v2", third, "x") if store.exposes(label)] == ["k", "k.v2"]


@pytest.mark.parametrize("label", [None, "stem"])
def test_a_label_that_is_not_the_name_of_a_key_with_a_cka_id_is_not_exposed(state: Path, label: str | None) -> None:
    """So nothing is said of other keys on the token that have this label."""
    key = Key(id="stem", label=label, object_id="0a1b")
    name = str(ObjectName(label, b"\x0a\x1b"))

    store = build(state, key, Key(id="*"))

    assert [item for item in (name, "stem", "stem.v2", "other") if store.exposes(item)] == [name, "stem.v2", "other"]
