"""What is wrong is reported alike by the status, the metrics, the log, the probes and GetHealthStatus."""

import json
import os
import re
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from commands import run_command
from fault_support import FaultyHsm, change_key
from server_support import (
    OwnProxy,
    Wire,
    ask_admin,
    encrypt_body,
    health,
    key_path,
    on,
    request,
    signed,
    wait_for_every_worker,
    workers,
)
from support import Proxy, eventually, lines_with, metrics_text

from xksproxy.state.usage import UsageBook
from xksproxy.state.versions import OF_ALL_KEYS, VersionRecord, version_table

pytestmark = pytest.mark.slow


def status(proxy: Proxy) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(ask_admin(proxy, "/status").content)
    return document


def causes(proxy: Proxy) -> set[tuple[str, str, str, str]]:
    """Severity, cause, key store and HSM of each condition in `/status`."""
    found = status(proxy)["conditions"]
    return {(item["severity"], item["cause"], item["keystore"], item["hsm"]) for item in found}


def in_metrics(proxy: Proxy) -> set[tuple[str, str, str, str]]:
    """The same from `/metrics`."""
    found = set()
    for line in metrics_text(proxy).splitlines():
        if line.startswith("xksproxy_conditions{") and float(line.rpartition(" ")[2]) > 0:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            found.add((labels["severity"], labels["cause"], labels["keystore"], labels["hsm"]))
    return found


def only_demo_key(text: str) -> str:
    """The token has keys of other tests, some of which are ambiguous or restricted on purpose."""
    others = r'\[\[keystore\.keys\]\]\nid = "(?!demo-key")[^"]*"\n(?:\w[^\n]*\n)*'
    return re.sub(others, "", text)


def add_absent_key(text: str) -> str:
    return text.replace('id = "demo-key"', 'id = "absent-key"\n\n[[keystore.keys]]\nid = "demo-key"', 1)


def expose_credential(proxy: Proxy) -> None:
    next((proxy.environment.directory / "credentials").glob("*.toml")).chmod(0o644)


def remove_state(proxy: Proxy) -> None:
    (proxy.environment.directory / "state").rename(proxy.environment.directory / "elsewhere")


def damage(name: str) -> Callable[[Proxy], None]:
    def damage_file(proxy: Proxy) -> None:
        (proxy.environment.directory / "state" / name).write_text("{")

    return damage_file


def block_key(proxy: Proxy) -> None:
    done = run_command("block", "--keystore", "dev", "--key", "demo-key", "--config", proxy.environment.config)
    done.check_returncode()


@pytest.mark.parametrize(
    ("edit", "cause", "expected", "says"),
    [
        (add_absent_key, None, ("DEGRADED", "key-missing", "dev", "softhsm"), {"DEGRADED"}),
        (only_demo_key, expose_credential, ("DEGRADED", "files-refused", "", ""), {"ACTIVE"}),
        (only_demo_key, block_key, ("DEGRADED", "blocked", "dev", ""), {"ACTIVE"}),
        (only_demo_key, damage("fingerprints.json"), ("DEGRADED", "state-unusable", "", ""), {"ACTIVE"}),
        (only_demo_key, damage("usage-names.json"), ("DEGRADED", "state-unusable", "", ""), {"ACTIVE"}),
        (only_demo_key, remove_state, ("UNAVAILABLE", "state-unusable", "", ""), {"UNAVAILABLE"}),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else "",
)
def test_each_report_has_the_condition(
    own_proxy: OwnProxy,
    edit: Callable[[str], str],
    cause: Callable[[Proxy], None] | None,
    expected: tuple[str, str, str, str],
    says: set[str],
) -> None:
    proxy = own_proxy.start(edit=edit)
    if cause is not None:
        # Tests before may have rotated keys of the token, which this proxy has no record of.
        eventually(lambda: {item for item in causes(proxy) if item[1] != "key-unrecorded"}, set())
        cause(proxy)

    eventually(lambda: expected in causes(proxy))
    eventually(lambda: expected in in_metrics(proxy))
    eventually(lambda: health(proxy), says)
    eventually(lambda: ask_admin(proxy, "/readyz").status, 503 if expected[0] == "UNAVAILABLE" else 200)
    (store,) = [item for item in status(proxy)["keystores"] if item["name"] == "dev"]
    assert (store["state"] == "UNAVAILABLE") == (says == {"UNAVAILABLE"})
    assert lines_with(proxy.log, " condition ", f'cause="{expected[1]}"')
    shown = run_command("status", "--config", proxy.environment.config)
    assert shown.returncode == 1
    assert expected[1] in shown.stdout


def test_a_worker_that_hangs_is_a_condition_until_it_serves_again(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start(server="workers = 2")
    hanging = max(workers(proxy))
    os.kill(hanging, signal.SIGSTOP)
    try:
        eventually(lambda: ("DEGRADED", "workers-missing", "", "") in causes(proxy))
        shown = run_command("status", "--config", proxy.environment.config)
        in_page = ask_admin(proxy, "/").content
        eventually(lambda: ("DEGRADED", "workers-missing", "", "") in in_metrics(proxy))
        ready = ask_admin(proxy, "/readyz").status
    finally:
        with suppress(ProcessLookupError):  # the master has ended it after 30 s
            os.kill(hanging, signal.SIGCONT)

    assert shown.returncode == 1
    assert "1 of 2 workers serve" in shown.stdout
    assert b"1 of 2 workers serve" in in_page
    assert ready == 200
    eventually(lambda: "workers-missing" not in str(causes(proxy)))


def test_a_key_store_without_an_hsm_leaves_the_machine_ready_for_the_others(own_proxy: OwnProxy) -> None:
    def add_store(text: str) -> str:
        hsm = re.search(r"\[\[hsm\]\]\n(?:.+\n)+", text)
        assert hsm
        lost = re.sub(r'token = ".*"', 'token = "no such token"', hsm[0].replace('id = "softhsm"', 'id = "lost"'))
        store = '[[keystore]]\nname = "lost"\nuri_path_prefix = "/lost"\nhsms = ["lost"]\ncredentials = "credentials"\n'
        return f'{only_demo_key(text)}\n{lost}\n{store}\n[[keystore.keys]]\nid = "demo-key"\n'

    proxy = own_proxy.start(edit=add_store)

    paths = ("/readyz", "/readyz?x=1", "/readyz/dev", "/readyz/other", "/readyz/lost", "/readyz/none", "/readyz/")
    eventually(lambda: [ask_admin(proxy, path).status for path in paths], [200, 200, 200, 200, 503, 404, 404])
    wanted = {("UNAVAILABLE", "hsm-out-of-service", "", "lost"), ("UNAVAILABLE", "no-hsm", "lost", "")}
    eventually(lambda: wanted <= causes(proxy))
    eventually(lambda: health(proxy), {"ACTIVE"})  # DEGRADED while another process logs in to the token

    def require_all(text: str) -> str:
        return add_store(text) + '\n[health]\nready_when = "all"\n'

    strict = own_proxy.start("strict", edit=require_all, serving=False)
    eventually(lambda: ask_admin(strict, "/readyz/dev").status, 200)
    assert ask_admin(strict, "/readyz").status == 503


@pytest.mark.parametrize(("keys", "told"), [(0, False), (10, True)])
def test_fingerprints_of_a_first_start_are_a_condition_only_if_they_take_long(
    own_proxy: OwnProxy, make_faulty: Callable[..., FaultyHsm], keys: int, *, told: bool
) -> None:
    faulty = make_faulty()
    pin = (own_proxy.environment.directory / "pin").read_text().strip()
    labels = [f"new-{number}" for number in range(keys)]
    for label in labels:
        change_key(faulty, pin, label, os.urandom(32))
    faulty.tell("C_Encrypt delay 700")

    def edit(text: str) -> str:
        text = on(faulty, text.replace('directory = "state"', 'directory = "new-state"'), "sessions = 1")
        tables = "".join(f'[[keystore.keys]]\nid = "{label}"\n\n' for label in labels)
        return text.replace("[[keystore.keys]]", f"{tables}[[keystore.keys]]", 1)

    proxy = own_proxy.start(server="workers = 1", edit=edit)

    eventually(lambda: ask_admin(proxy, "/readyz/dev").status, 200)
    assert bool(lines_with(proxy.log, " condition ", 'cause="no-hsm"')) == told
    eventually(lambda: "no-hsm" not in str(causes(proxy)))


def test_versions_that_a_lost_state_directory_knew_are_a_condition(own_proxy: OwnProxy) -> None:
    def exposing(key_id: str) -> Callable[[str], str]:
        added = f'id = "{key_id}"\n\n[[keystore.keys]]\nid = "demo-key"'
        return lambda text: text.replace('id = "demo-key"', added, 1)

    def unrecorded(proxy: Proxy) -> list[str]:
        found = status(proxy)["conditions"]
        return [
            item["text"] for item in found if item["cause"] == "key-unrecorded" and "unrecorded-key" in item["text"]
        ]

    first = own_proxy.start("first", edit=exposing("unrecorded-key"))
    table = version_table(first.environment.directory / "state", "dev")
    table.update(OF_ALL_KEYS, lambda _: VersionRecord(1, highest=10))  # as after `state accept`
    for command in ("create", "rotate"):
        options = ("--keystore", "dev", "--config", first.environment.config)
        run_command("keys", command, "unrecorded-key", *options).check_returncode()
    eventually(lambda: "key-missing" not in {cause for _, cause, _, _ in causes(first)})
    assert unrecorded(first) == []

    for name, key_id in (("second", "unrecorded-key"), ("third", "unrecorded-*")):
        other = own_proxy.start(name, edit=exposing(key_id))  # which has another state directory

        assert "unrecorded-key.v11" in eventually(partial(unrecorded, other))[0]


@pytest.mark.parametrize("exposed", ["demo-key", "demo-*"])
def test_a_reload_that_lowers_a_maximum_reports_the_key_before_it_is_used(own_proxy: OwnProxy, exposed: str) -> None:
    def edit(text: str) -> str:
        return only_demo_key(text).replace('id = "demo-key"', f'id = "{exposed}"\nmaximum_encryptions = 10000', 1)

    proxy = own_proxy.start(edit=edit)
    UsageBook(proxy.environment.directory / "state").records.add("demo-key", 900, None, 0)
    config = proxy.environment.config
    assert "key-limit" not in {cause for _, cause, _, _ in causes(proxy)}

    config.write_text(config.read_text().replace("10000", "1000"))
    run_command("reload", "--config", config).check_returncode()

    eventually(lambda: ("DEGRADED", "key-limit", "dev", "") in causes(proxy))


def test_of_two_key_stores_with_one_label_the_one_near_its_own_maximum_has_the_condition(own_proxy: OwnProxy) -> None:
    small = """
[[keystore]]
name = "small"
uri_path_prefix = "/small"
hsms = ["softhsm"]
credentials = "credentials"

[[keystore.keys]]
id = "demo-key"
maximum_encryptions = 40

[state]
"""
    proxy = own_proxy.start(edit=lambda text: text.replace("[state]\n", small, 1))
    body = encrypt_body(b"text")

    def encrypt_often(prefix: str) -> int:
        path = key_path("encrypt", prefix=prefix)
        with Wire(proxy) as wire:
            return [wire.ask(request("POST", path, signed(proxy, path, body), body)).status for _ in range(60)][-1]

    def limited() -> set[str]:
        return {keystore for _, cause, keystore, _ in causes(proxy) if cause == "key-limit"}

    eventually(lambda: encrypt_often("/small"), 400)
    eventually(limited, {"small"})
    assert encrypt_often("/dev") == 200
    eventually(lambda: len(lines_with(proxy.log, " condition ", 'cause="key-limit"')) > 0)
    assert limited() == {"small"}

    old = workers(proxy)  # their successors know it before they are asked to encrypt
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(wait_for_every_worker(proxy) - old), 2)
    eventually(limited, {"small"})
