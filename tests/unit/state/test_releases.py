"""The state files that releases have written, kept from 0.1.0 on: each later release reads them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xksproxy.config.secret import Secret
from xksproxy.hsm.errors import LoginRefused
from xksproxy.hsm.fingerprint_index import FingerprintIndex
from xksproxy.hsm.keys import KeyFingerprint
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.server.followers import RunningProxy, proxy_table
from xksproxy.state.audit_spool import AuditSpool
from xksproxy.state.blocks import Block, block_table
from xksproxy.state.credential_uses import CredentialUses
from xksproxy.state.known_credentials import KnownKeyStore
from xksproxy.state.shared_table import SharedTable
from xksproxy.state.usage import UsageBook
from xksproxy.state.usage_names import UsageNames
from xksproxy.state.versions import VersionRecord, version_table

RELEASES = sorted(Path(__file__).with_name("releases").iterdir())


def entries(table: SharedTable[Any]) -> dict[str, Any]:
    table.refresh()
    return {**table.entries()}


def counts(state: Path) -> dict[str, int]:
    return {usage.label: usage.encryptions for usage in UsageBook(state).records.read_all()}


def outcomes_of_pins(state: Path) -> dict[str, bool]:
    """Whether each PIN may be tried."""
    found = {}
    for pin in ("1234", "wrong"):
        try:
            with PinGuard(state).attempt("softhsm", Secret(pin)):
                found[pin] = True
        except LoginRefused:
            found[pin] = False
    return found


EXPECTED: dict[str, tuple[Callable[[Path], Any], Any]] = {
    "blocks-dev.json": (
        lambda state: entries(block_table(state, "dev")),
        {"encrypt-only-key": Block(1796004536.6128683, "incident")},
    ),
    "versions-dev.json": (
        lambda state: entries(version_table(state, "dev")),
        {"demo-key": VersionRecord(2, proven=(2,), disabled=(1,))},
    ),
    "keys-dev.json": (
        lambda state: entries(SharedTable(state, "keys-dev.json", KeyFingerprint))["demo-key"].check_value.hex(),
        "2a5393",
    ),
    "fingerprints.json": (
        lambda state: [item.check_value.hex() for item in FingerprintIndex(state).of("demo-key")],
        ["2a5393"],
    ),
    "usage": (counts, {"demo-key": 3, "demo-key.v2": 2}),
    "usage-names.json": (lambda state: UsageNames(state).of("id:0a0b"), "demo-key"),
    "credential-uses.json": (
        lambda state: CredentialUses(state, "dev").last_used(("AKEXAMPLE00000000001",)),
        {"AKEXAMPLE00000000001": 1796004533.8319135},
    ),
    "credentials-dev.json": (
        lambda state: CredentialUses(state, "dev").last_used(("AKEXAMPLE00000000002",)),
        {"AKEXAMPLE00000000002": 1796000000.5},
    ),
    "known-credentials.json": (
        lambda state: entries(SharedTable(state, "known-credentials.json", KnownKeyStore)),
        {"dev": KnownKeyStore({"AKEXAMPLE00000000001": "b4af"})},
    ),
    "services.json": (
        lambda state: entries(proxy_table(state)),
        {"/run/xksproxy/xksproxy-6h8ql24t": RunningProxy(13190, "/var/lib/xksproxy", (65024, 10037550))},
    ),
    "pin-116ecbe52042917f.json": (outcomes_of_pins, {"1234": True, "wrong": False}),
    "audit": (
        lambda state: [item.message for item in AuditSpool(state).entries().values() if item],
        ["version disabled"],
    ),
}


@pytest.fixture(params=RELEASES, ids=lambda path: path.name)
def state(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A state directory as a release has left it."""
    shutil.copytree(request.param, tmp_path / "state")
    return tmp_path / "state"


def test_there_is_a_file_of_each_kind(state: Path) -> None:
    assert {path.name for path in state.iterdir()} == {*EXPECTED, "manifest"}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_that_a_release_has_written_is_read(state: Path, name: str) -> None:
    read, expected = EXPECTED[name]

    assert read(state) == expected


@pytest.mark.parametrize("name", [name for name in EXPECTED if name.endswith(".json")])
def test_a_field_that_a_later_release_adds_does_not_matter(state: Path, name: str) -> None:
    document = json.loads((state / name).read_text())
    inner = "pins" if "pins" in document else "entries"
    document = {**document, "new": 1, inner: {key: {**entry, "new": 1} for key, entry in document[inner].items()}}
    (state / name).write_text(json.dumps(document))
    read, expected = EXPECTED[name]

    assert read(state) == expected
