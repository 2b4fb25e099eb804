"""What a reload builds anew, and what it takes over from the snapshot before."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace
from support import make_environment

from xksproxy.config.credentials import save_credential
from xksproxy.config.load import load_config
from xksproxy.config.model import Config, Key, KeyStore
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.instance.shares import Share
from xksproxy.hsm.keys import KeyFingerprint
from xksproxy.server.services import Services
from xksproxy.server.snapshot import _needed_labels
from xksproxy.sigv4.keyring import generate_credential
from xksproxy.state.versions import VersionRecord, version_table

PERMIT = "permit (principal, action, resource);"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A configuration with certificates."""
    return load_config(make_environment(tmp_path_factory.mktemp("snapshot") / "dev").config)


@pytest.fixture
def config(certificates: Config, tmp_path: Path) -> Config:
    """With the key stores ``a`` and ``b``, each with a credential and a file of policies."""
    stores = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir(0o700)
        save_credential(tmp_path / name, generate_credential())
        (tmp_path / f"{name}.cedar").write_text(PERMIT)
        stores.append(
            replace(
                certificates.keystore[0],
                name=name,
                uri_path_prefix=f"/{name}",
                credentials=str(tmp_path / name),
                policies=(str(tmp_path / f"{name}.cedar"),),
            )
        )
    return replace(certificates, keystore=tuple(stores), state=replace(certificates.state, directory=str(tmp_path)))


def with_b(config: Config, change: Callable[[KeyStore], KeyStore]) -> Config:
    a, b = config.keystore
    return replace(config, keystore=(a, change(b)))


def nothing(config: Config) -> Config:
    return config


def another_credential(config: Config) -> Config:
    save_credential(Path(config.keystore[1].credentials), generate_credential())
    return config


def another_policy(config: Config) -> Config:
    path = Path((config.keystore[1].policies or ("",))[0])
    path.write_text(PERMIT.replace("permit", "forbid"))
    return config


def policies_of_a_directory(config: Config) -> Config:
    path = Path((config.keystore[1].policies or ("",))[0])
    directory = path.with_suffix(".d")
    directory.mkdir(exist_ok=True)
    shutil.copy(path, directory)
    return with_b(config, lambda store: replace(store, policies=(str(directory),)))


def test_of_the_keys_that_were_used_the_primary_ones_are_needed_that_are_exposed_and_not_disabled(
    config: Config,
) -> None:
    keys = (Key(id="named"), Key(id="pattern-*"), Key(id="pattern-disabled", disabled=True))
    config = with_b(config, lambda store: replace(store, keys=keys, policies=None))
    state = Path(config.state.directory)
    used = ("pattern-1", "pattern-1.v2", "pattern-2", "pattern-2.v2", "pattern-gone", "pattern-disabled", "elsewhere")
    records = FingerprintRecords(state, "b")
    records.propose_all({label: KeyFingerprint(b"abc", None, removed=label == "pattern-gone") for label in used})
    version_table(state, "b").update("pattern-2", lambda _: VersionRecord(2))
    service = Services(config, state).at("/b")

    assert [*_needed_labels(service.store, records)] == ["named", "pattern-1", "pattern-2.v2"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (nothing, {"/a": True, "/b": True}),
        (another_credential, {"/a": True, "/b": False}),
        (another_policy, {"/a": True, "/b": False}),
        (policies_of_a_directory, {"/a": True, "/b": False}),
        (lambda config: with_b(config, lambda store: replace(store, weight=2)), {"/a": True, "/b": False}),
        (
            lambda config: replace(config, server=replace(config.server, fleet_size=2)),
            {"/a": False, "/b": False},
        ),
    ],
)
def test_only_key_stores_whose_inputs_changed_are_built_anew(
    config: Config, tmp_path: Path, change: Callable[[Config], Config], expected: dict[str, bool]
) -> None:
    services = Services(config, tmp_path / "run")
    before = services.snapshot.services

    services.replace_snapshot(change(config))

    after = services.snapshot.services
    assert {prefix: after[prefix] is before[prefix] for prefix in after} == expected


def test_a_new_policy_in_a_directory_builds_the_key_store_anew(config: Config, tmp_path: Path) -> None:
    config = policies_of_a_directory(config)
    services = Services(config, tmp_path / "run")
    before = services.at("/b")

    (Path((config.keystore[1].policies or ("",))[0]) / "more.cedar").write_text(f'@id("more")\n{PERMIT}')
    services.replace_snapshot(config)

    assert services.at("/b") is not before


def test_a_key_store_that_is_taken_over_looks_again_for_missing_keys(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = Services(config, tmp_path / "run")
    looked: list[str] = []
    monkeypatch.setattr(services.at("/a").fleet, "forget_missing_keys", lambda: looked.append("a"))

    services.replace_snapshot(config)

    assert looked == ["a"]


def test_a_key_store_has_the_share_that_is_configured(config: Config, tmp_path: Path) -> None:
    services = Services(with_b(config, lambda store: replace(store, weight=3)), tmp_path / "run")

    assert [services.at(prefix).fleet.share for prefix in ("/a", "/b")] == [Share("a", 1), Share("b", 3)]


def test_key_stores_with_equal_policies_share_the_compiled_ones(config: Config, tmp_path: Path) -> None:
    services = Services(config, tmp_path / "run")
    one, other = (services.at(prefix).authorizer for prefix in ("/a", "/b"))

    assert one is not None
    assert other is not None
    assert one._policies.policy_set is other._policies.policy_set
