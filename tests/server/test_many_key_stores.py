"""A proxy with more key stores than are listed, or looked at, at once."""

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import run_command
from server_support import OwnProxy
from support import Proxy, eventually
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.config.load import load_config

STORES = 250
LAST = f"store-{STORES - 1}"


@pytest.fixture(scope="module")
def proxy(environment: DevEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """One with 250 further key stores, each with the same credentials in a directory of its own."""
    home = tmp_path_factory.mktemp("many")

    def add_stores(text: str) -> str:
        credentials = Path(load_config(environment.config).keystore[0].credentials)
        for number in range(STORES):
            shutil.copytree(credentials, home / "own" / f"credentials-{number}")
            text += f"""
[[keystore]]
name = "store-{number}"
uri_path_prefix = "/store-{number}"
hsms = ["softhsm"]
credentials = "credentials-{number}"
[[keystore.keys]]
id = "demo-key"
"""
        return text

    with OwnProxy(environment, home) as made:
        yield made.start(edit=add_stores)


def admin(proxy: Proxy, path: str) -> str:
    listen = load_config(proxy.environment.config).admin.listen
    with urllib.request.urlopen(f"http://{listen}{path}") as answer:
        return str(answer.read().decode())


def status(proxy: Proxy, query: str = "") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(admin(proxy, f"/status{query}"))
    return found


def run(proxy: Proxy, *arguments: str) -> Any:
    return run_command(*arguments, "--config", proxy.environment.config)


def listed(proxy: Proxy) -> list[str]:
    """Those of the test; the others have keys of other tests, of which some are ambiguous."""
    names = [store["name"] for store in status(proxy)["keystores"]]
    return [name for name in names if name.startswith("store-")]


def test_of_many_key_stores_those_that_need_attention_are_listed(proxy: Proxy) -> None:
    eventually(lambda: listed(proxy), [])
    assert status(proxy)["keystore_count"] == STORES + 2
    run(proxy, "block", "--keystore", LAST, "--reason", "a test")
    eventually(lambda: listed(proxy), [LAST])

    assert LAST in run(proxy, "status").stdout
    assert f"{STORES + 2} key stores" in run(proxy, "status").stdout
    run(proxy, "unblock", "--keystore", LAST)
    eventually(lambda: listed(proxy), [])


def test_any_key_store_can_be_asked_for_with_its_keys(proxy: Proxy) -> None:
    (store,) = status(proxy, f"?keystore={LAST}")["keystores"]

    assert store["name"] == LAST
    assert [key["id"] for key in store["keys"]] == ["demo-key"]
    assert proxy.credential.access_key_id in [item["access_key_id"] for item in store["credentials"]]
    assert "demo-key" in run(proxy, "status", "--keystore", LAST).stdout
    assert f"Key store {LAST}" in admin(proxy, f"/?keystore={LAST}")


def test_a_key_store_that_is_not_there_is_said_not_to_be(proxy: Proxy) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        admin(proxy, "/status?keystore=nobody")

    done = run(proxy, "status", "--keystore", "nobody")
    assert (done.returncode, "no key store 'nobody'" in done.stderr) == (2, True)
