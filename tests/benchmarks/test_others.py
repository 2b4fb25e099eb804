import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.others import read_others
from xksproxy.client.target import TargetError

_ENTRY = {
    "name": "other",
    "endpoint": "https://other.example:9443",
    "path": "/store/kms/xks/v1",
    "credential_file": "credential.json",
    "key": "key-0000",
    "keys_on_token": 600,
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    credential = tmp_path / "credential.json"
    credential.write_text(json.dumps({"AccessKeyId": "BETWEEN2TENAND3TENCHARACTERS", "RawSecretAccessKey": "x" * 43}))
    credential.chmod(0o600)
    return tmp_path / "others.json"


def _write(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps([{**_ENTRY, **changes}]))


def test_another_proxy_is_named_by_its_url_and_path(file: Path) -> None:
    _write(file)

    (other,) = read_others(file)

    (destination,) = other.server.destinations
    assert (destination.target.host, destination.target.port) == ("other.example", 9443)
    assert destination.target.path_prefix == "/store"
    assert (other.name, other.keys_on_token, destination.key_id) == ("other", 600, "key-0000")
    assert other.server.cpu_seconds() == 0.0


@pytest.mark.parametrize(
    "changes", [{"endpoint": "http://x"}, {"path": "/store"}, {"unknown": 1}, {"credential_file": "none.json"}], ids=str
)
def test_a_file_that_cannot_be_used_is_refused(file: Path, changes: dict[str, Any]) -> None:
    _write(file, **changes)

    with pytest.raises(TargetError):
        read_others(file)
