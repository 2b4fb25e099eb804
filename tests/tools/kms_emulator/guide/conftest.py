"""Fixtures of the tests of AWS's guide: one emulator, one proxy, and an account of its own for each test."""

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from emulator_guide_support import Account, Accounts, LoopThread, account_callers
from server_support import Caller
from support import REGION, Proxy, wait_until_serving
from tls_server_support import Certificates
from xksproxy_tools.kms_emulator.durations import NO_DURATIONS
from xksproxy_tools.kms_emulator.serve import Settings, running

from xksproxy.cli.main import cli
from xksproxy.client.xks import XksClient
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.pkcs11.connection import Connection

_PATIENT_MS = 40_000

StartEmulator = Callable[..., AbstractContextManager[str]]


@pytest.fixture(scope="session", autouse=True)
def everybody_has_logged_in(proxy: Proxy, connection: Connection) -> None:
    """This process too, before the first test: SoftHSM2 fails the proxy's calls while it does."""
    wait_until_serving(proxy.environment.config, proxy.process)


@pytest.fixture(scope="session")
def loop_thread() -> Iterator[LoopThread]:
    made = LoopThread()
    yield made
    made.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority that the emulators trust beside the proxy's, for servers that stand in for bad proxies."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def start_emulator(
    loop_thread: LoopThread, proxy: Proxy, certificates: Certificates, tmp_path_factory: pytest.TempPathFactory
) -> StartEmulator:
    """Start an emulator that finds the proxy at https://localhost; ``hosts`` are ports of further hosts."""
    numbers = count()
    directory = tmp_path_factory.mktemp("emulators")
    ca = directory / "ca.pem"
    ca.write_bytes(proxy.environment.authority.read_bytes() + certificates.ca.read_bytes())

    def start(hosts: dict[str, int] | None = None, **changes: Any) -> AbstractContextManager[str]:
        ports = {"localhost": proxy.port, **(hosts or {})}
        settings: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": 0,
            "state": directory / f"state-{next(numbers)}",
            "region": REGION,
            "account": "111122223333",
            "resolve": {(host, 443): ("127.0.0.1", port) for host, port in ports.items()},
            "ca": ca,
            "durations": NO_DURATIONS,
            "callers": account_callers(),
            "time_limit_ms": _PATIENT_MS,
            **changes,
        }
        return loop_thread.entered(running(Settings(**settings)))

    return start


@pytest.fixture(scope="session")
def accounts(start_emulator: StartEmulator, proxy: Proxy) -> Iterator[Accounts]:
    """The emulator that most tests share. At nobody.example.com nobody listens, and nobody else can."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        with start_emulator({"nobody.example.com": bound.getsockname()[1]}) as url:
            yield Accounts.of(url, proxy)


@pytest.fixture
def account(accounts: Accounts) -> Account:
    """An account in which there is nothing yet."""
    return accounts.new()


@pytest.fixture
def kms(account: Account) -> Any:
    """boto3's client in that account."""
    return account.kms


@pytest.fixture
def store_id(account: Account) -> str:
    """A connected external key store."""
    return account.connected_store()


@pytest.fixture
def key(account: Account, store_id: str) -> dict[str, Any]:
    """A KMS key on demo-key."""
    return account.create_key(store_id)


@pytest.fixture
def blob(kms: Any, key: dict[str, Any]) -> bytes:
    """What that key has encrypted, without an encryption context."""
    return bytes(kms.encrypt(KeyId=key["KeyId"], Plaintext=b"Hello World!")["CiphertextBlob"])


@pytest.fixture
def external_key(session: HsmSession, unique_label: Callable[[str], str]) -> str:
    """The id of an external key that this test alone uses."""
    label = unique_label("guide")
    session.create_key(label, bits=256, encrypt=True, decrypt=True)
    return label


@pytest.fixture
def proxy_caller(client: XksClient, request_metadata: dict[str, str]) -> Caller:
    """Encrypt and Decrypt straight at the proxy, past KMS."""
    return Caller(client, request_metadata)


@pytest.fixture
def tell_proxy(proxy: Proxy) -> Callable[..., None]:
    """Run a command of the proxy's, such as `block`."""

    def run(command: str, *arguments: str | Path) -> None:
        options = [command, "--config", str(proxy.environment.config), "--keystore", "dev", *map(str, arguments)]
        done = CliRunner().invoke(cli, options)
        assert done.exit_code == 0, done.output

    return run
