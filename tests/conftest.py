"""Fixtures on real parts: one SoftHSM2 token, one running proxy, one client, shared by a test run."""

import base64
import gc
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fault_support import FaultyHsm, compile_fault_module, make_faulty_hsm, unique
from hypothesis import HealthCheck, settings
from pkcs11 import Attribute, ObjectClass
from support import PATIENCE_SECONDS, Proxy, make_environment, serve, wait_for_port, wait_until_serving
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.client.xks import XksClient
from xksproxy.config.credentials import save_credential
from xksproxy.config.load import load_config
from xksproxy.config.model import Hsm
from xksproxy.config.pins import read_pin
from xksproxy.hsm.fleet.fingerprint_records import FingerprintRecords
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.pkcs11.connection import Connection
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.sigv4.keyring import Credential, generate_credential
from xksproxy.state.usage import UsageBook

# How fast an example runs or is drawn is no property of the code: a loaded machine must not fail a test. In continuous
# integration the examples are the same in each run, so that no change fails for an example that was never drawn before.
settings.register_profile(
    "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
settings.register_profile("ci", settings.get_profile("patient"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "patient")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let each process of pytest-xdist begin with its part of the tests that start processes, and end with short ones.

    Each gets a contiguous part of the list, of equal length, and at the end takes tests over from the others.
    """
    processes: int = getattr(config, "workerinput", {}).get("workercount", 1)
    modules: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    short: list[pytest.Item] = []
    for item in items:
        is_slow = item.get_closest_marker("slow") or "own_proxy" in item.fixturenames
        (modules[item.nodeid.partition("::")[0]] if is_slow else short).append(item)
    parts: list[list[pytest.Item]] = [[] for _ in range(processes)]
    for tests in modules.values():
        min(parts, key=len).extend(tests)
    length = -(-len(items) // processes)
    for part in parts:
        room = max(0, length - len(part))
        part.extend(short[:room])
        del short[:room]
    items[:] = [item for part in (*parts, short) for item in part]


def pytest_collection_finish() -> None:
    """Keep what was collected out of each later search for garbage, in this process and in its forks."""
    gc.collect()
    gc.freeze()


_TEST_LABEL = "test-"

# What the tests add to the configuration of `xksproxy dev`: labels they make as they go, and a second key store.
_LEGACY_METADATA = [base64.b64encode(value).decode() for value in (b"key_version=1", b"ctm", b"m", b"m" * 20)]
_MORE_CONFIGURATION = f"""
[[keystore.keys]]
id = "{_TEST_LABEL}*"
legacy_metadata = {_LEGACY_METADATA}

[[keystore.keys]]
id = "moved-*"
aad_encoding = "sha256"
legacy_metadata = ["djAuMC4x"]

[[keystore.keys]]
id = "limited-*"
maximum_encryptions = 24

[[keystore.keys]]
id = "disabled-key"
label = "demo-key"
disabled = true

[[keystore]]
name = "other"
uri_path_prefix = ""
hsms = ["softhsm"]
credentials = "other-credentials"

[[keystore.keys]]
id = "demo-key"
"""


@dataclass(frozen=True)
class Site:
    """What the tests' proxy serves, and who may call it: two credentials of the first key store, one of the other."""

    environment: DevEnvironment
    first: Credential
    second: Credential
    other: Credential


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The directory of `xksproxy dev`: token, keys, certificates, credentials; and more configuration than it makes."""
    made = make_environment(tmp_path_factory.mktemp("proxy") / "dev")
    text = made.config.read_text().replace('preset = "softhsm2"', 'preset = "softhsm2"\ncheck_interval_s = 2')
    text = text.replace('id = "demo-key"', f'id = "demo-key"\nlegacy_metadata = {_LEGACY_METADATA}')
    made.config.write_text(text + _MORE_CONFIGURATION)
    site = Site(made, made.credential, generate_credential(), generate_credential())
    save_credential(made.directory / "credentials", site.second)
    (made.directory / "other-credentials").mkdir(0o700)
    save_credential(made.directory / "other-credentials", site.other)
    return site


@pytest.fixture(scope="session")
def environment(site: Site) -> DevEnvironment:
    """The same, for tests that bring their own callers."""
    return site.environment


@pytest.fixture(scope="session")
def proxy(site: Site) -> Iterator[Proxy]:
    """A proxy that serves the token of the tests, with all of its workers."""
    environment = site.environment
    log = environment.directory / "log"
    process = serve(environment.config, log, forked=False)
    try:
        wait_for_port(environment.port, process)
        wait_until_serving(environment.config, process)
        yield Proxy(environment, process, log, site.first, site.second, site.other)
    finally:
        process.terminate()
        process.wait(PATIENCE_SECONDS)


@pytest.fixture
def client(proxy: Proxy) -> Iterator[XksClient]:
    """A client with the key store's credential."""
    with XksClient(proxy.endpoint(), proxy.context()) as made:
        yield made


@pytest.fixture(scope="session")
def hsm(environment: DevEnvironment) -> Hsm:
    """The token of the tests, as configured."""
    return load_config(environment.config).hsm[0]


@pytest.fixture(scope="session")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Modules:
    """The PKCS#11 modules of this test process; a module can be initialised only once in it."""
    state = tmp_path_factory.mktemp("state")
    return Modules(PinGuard(state), UsageBook(state))


@pytest.fixture(scope="session")
def connection(hsm: Hsm, modules: Modules) -> Connection:
    """This process's log-in to the token, beside the proxy's own."""
    return modules.connect(hsm, read_pin(hsm))


@pytest.fixture
def session(connection: Connection, hsm: Hsm, site: Site) -> Iterator[HsmSession]:
    """An HSM session of this process. The keys of :func:`unique_label` are destroyed at the end, and not missed.

    Some are ambiguous or restricted on purpose, and would make the HSM DEGRADED for the tests after.
    """
    made = HsmSession(connection)
    yield made
    for keystore in ("dev", "other"):
        records = FingerprintRecords(site.environment.directory / "state", keystore)
        records.refresh()
        for label in [label for label in records.expected() if label.startswith(_TEST_LABEL)]:
            if (known := records.get(label)) is not None:
                records.replace(label, known, msgspec.structs.replace(known, removed=True))
    binding = made._session
    for key in binding.get_objects({Attribute.CLASS: ObjectClass.SECRET_KEY}):
        if key[Attribute.LABEL].startswith(_TEST_LABEL):
            key.destroy()
    made.close()


@pytest.fixture
def request_metadata() -> dict[str, str]:
    """A complete requestMetadata, good for all four operations."""
    return {
        "awsPrincipalArn": "arn:aws:iam::123456789012:user/Alice",
        "kmsKeyArn": "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        "kmsOperation": "Encrypt",
        "kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
    }


@pytest.fixture
def unique_label() -> Callable[[str], str]:
    """Labels that no other test uses; the key store `dev` exposes them by its pattern test-*."""

    def label(name: str) -> str:
        return f"{_TEST_LABEL}{name}-{os.urandom(4).hex()}"

    return label


@pytest.fixture(scope="session")
def fault_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled fault module."""
    return compile_fault_module(tmp_path_factory.mktemp("fault"))


@pytest.fixture
def make_faulty(
    tmp_path: Path, fault_module: Path, environment: DevEnvironment, hsm: Hsm
) -> Iterator[Callable[..., FaultyHsm]]:
    """HSMs with a copy of the test token each, that do wrong what they are told; hung calls are let go at the end."""
    made: list[FaultyHsm] = []

    def make(**settings: Any) -> FaultyHsm:
        like = msgspec.structs.replace(hsm, sessions=2, **settings)
        faulty = make_faulty_hsm(tmp_path, unique("hsm"), fault_module, environment.directory / "tokens", like)
        made.append(faulty)
        return faulty

    yield make
    for faulty in made:
        faulty.tell()
