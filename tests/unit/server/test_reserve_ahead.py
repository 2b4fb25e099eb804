"""What a worker knows of counts when it starts."""

import time
from pathlib import Path

import pytest
from xksproxy_tools.development.certificates import create_authority, issue, write_private

from xksproxy.config.credentials import save_credential
from xksproxy.config.model import Config, Hsm, Key, KeyStore, Server, State, Tls
from xksproxy.server.reserve_ahead import note_nearly_used
from xksproxy.server.services import Services
from xksproxy.sigv4.keyring import generate_credential
from xksproxy.state.backup import accept_directory
from xksproxy.state.usage_records import UsageRecords


@pytest.fixture
def config(tmp_path: Path) -> Config:
    for name, content in zip(
        ("server.pem", "server-key.pem"), issue(create_authority("counts"), "localhost", hosts=()), strict=True
    ):
        write_private(tmp_path / name, content)
    for name in ("credentials", "state"):
        (tmp_path / name).mkdir(0o700)
    save_credential(tmp_path / "credentials", generate_credential())
    keys = (Key(id="few", maximum_encryptions=100), Key(id="other", maximum_encryptions=100), Key(id="many"))
    return Config(
        server=Server(tls=Tls(certificate=str(tmp_path / "server.pem"), private_key=str(tmp_path / "server-key.pem"))),
        hsm=(Hsm(id="h", module="m", token="t"),),
        keystore=(
            KeyStore(name="s", uri_path_prefix="", hsms=("h",), credentials=str(tmp_path / "credentials"), keys=keys),
        ),
        state=State(directory=str(tmp_path / "state")),
    )


def test_keys_near_their_maximum_are_known_before_they_are_used(config: Config, tmp_path: Path) -> None:
    records = UsageRecords(tmp_path / "state")
    for label, count in (("few", 81), ("other", 79), ("many", 1000), ("few.v2", 100)):
        records.add(label, count, None, 1)
    services = Services(config, tmp_path / "run")

    note_nearly_used(services)

    assert services.state.usage.nearly_used(0.8) == {"few": 81}


def test_after_a_loss_keys_without_a_record_are_known_as_full(config: Config, tmp_path: Path) -> None:
    accept_directory(tmp_path / "state", 1.0, time.time())
    services = Services(config, tmp_path / "run")

    note_nearly_used(services)

    assert services.state.usage.nearly_used(0.8).keys() == {"few", "other", "many"}
