"""What an operator sees and does: blocks, quotas, the audit log, metrics and status, over all workers."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from server_support import (
    HEALTH_MESSAGE,
    Caller,
    OwnProxy,
    RoamingClient,
    ask_admin,
    assert_refused,
    eventually,
    stop,
    wait_for_every_worker,
)
from support import Proxy, serve, wait_for_port

from xksproxy.client.xks import XksClient
from xksproxy.config.secret import Secret
from xksproxy.hsm.session import HsmSession
from xksproxy.spec.uri import Operation
from xksproxy.telemetry.chain import verify_lines

HELLO = b"Hello World!"
KEY = "k" * 64

Callers = Callable[[Proxy], Caller]


def run(proxy: Proxy, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "xksproxy", *arguments, "--config", str(proxy.environment.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def callers(request_metadata: dict[str, Any]) -> Iterator[Callable[[Proxy], Caller]]:
    """Callers over connections enough to find every worker."""
    with ExitStack() as stack:

        def connect(proxy: Proxy) -> Caller:
            clients = [stack.enter_context(XksClient(proxy.endpoint(), proxy.context())) for _ in range(10)]
            return Caller(RoamingClient(clients), request_metadata)

        yield connect


def statuses(caller: Caller, count: int = 20) -> set[int]:
    return {caller.encrypt("demo-key", HELLO).status for _ in range(count)}


def samples(proxy: Proxy, name: str, **labels: str) -> list[float]:
    text = ask_admin(proxy, "/metrics").content.decode()
    return [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


# --- The kill switch


def test_a_block_takes_effect_in_every_worker_within_a_second_and_survives_a_restart(
    own_proxy: OwnProxy, request_metadata: dict[str, Any], callers: Callers
) -> None:
    proxy = own_proxy.start()
    wait_for_every_worker(proxy)
    caller = callers(proxy)
    sealed = caller.seal("demo-key", HELLO)

    done = run(proxy, "block", "--keystore", "dev", "--key", "demo-key", "--reason", "incident 4711")
    time.sleep(1)

    assert done.returncode == 0
    assert "data keys that they already hold" in done.stdout
    for _ in range(20):
        assert_refused(caller.encrypt("demo-key", HELLO), 400, "InvalidStateException")
        assert_refused(caller.decrypt("demo-key", sealed), 400, "InvalidStateException")
    metadata = caller.client.call(Operation.GET_KEY_METADATA, {"requestMetadata": request_metadata}, "demo-key")
    assert (metadata.status, metadata.body["keyStatus"]) == (200, "DISABLED")
    assert caller.client.call(Operation.GET_HEALTH_STATUS, HEALTH_MESSAGE).status == 200
    shown = run(proxy, "status")
    assert shown.returncode == 1
    assert "BLOCKED: incident 4711" in shown.stdout

    assert stop(proxy) == 0
    again = serve(proxy.environment.config, proxy.log)
    own_proxy.adopt(again)
    wait_for_port(proxy.port, again)
    caller = callers(proxy)
    assert statuses(caller) == {400}

    assert run(proxy, "unblock", "--keystore", "dev", "--key", "demo-key").returncode == 0
    time.sleep(1)
    assert statuses(caller) == {200}
    assert run(proxy, "unblock", "--keystore", "dev", "--key", "demo-key").returncode == 1


def test_a_blocked_key_store_leaves_others_alone(own_proxy: OwnProxy, callers: Callers) -> None:
    proxy = own_proxy.start()
    wait_for_every_worker(proxy)
    run(proxy, "block", "--keystore", "other")
    time.sleep(1)

    assert statuses(callers(proxy)) == {200}
    assert json.loads(ask_admin(proxy, "/status").content)["keystores"][1]["blocked"] is not None


def test_a_key_that_is_not_exposed_is_not_blocked(proxy: Proxy) -> None:
    done = run(proxy, "block", "--keystore", "dev", "--key", "no-such-key")

    assert (done.returncode, done.stdout) == (1, "")
    assert "exposes no external key no-such-key; nothing was blocked" in done.stderr


def test_blocks_that_cannot_be_read_at_the_start_count_as_blocks(own_proxy: OwnProxy, callers: Callers) -> None:
    def break_state(text: str) -> str:
        (own_proxy.directory / "own" / "state" / "blocks-dev.json").write_text("{")
        return text

    proxy = own_proxy.start(edit=break_state)

    assert_refused(callers(proxy).encrypt("demo-key", HELLO), 500, "InternalException")


# --- Quotas


def test_a_quota_holds_over_all_workers_and_leaves_other_key_stores_alone(
    own_proxy: OwnProxy, request_metadata: dict[str, Any], callers: Callers
) -> None:
    quota = 'uri_path_prefix = "/dev"\nrequests_per_second = 0.001\nburst = 30'
    proxy = own_proxy.start(edit=lambda text: text.replace('uri_path_prefix = "/dev"', quota))
    caller = callers(proxy)

    answers = [caller.encrypt("demo-key", HELLO) for _ in range(60)]

    assert sum(answer.status == 200 for answer in answers) <= 30
    assert_refused(answers[-1], 429, "ThrottlingException")
    with XksClient(proxy.endpoint("", other_credential(proxy)), proxy.context()) as client:
        assert Caller(client, request_metadata).encrypt("demo-key", HELLO).status == 200


def other_credential(proxy: Proxy) -> Any:
    from xksproxy.config.credentials import load_credentials  # noqa: PLC0415 - for one test

    return load_credentials(proxy.environment.directory / "other-credentials")[0]


def test_a_quota_fills_up_again(own_proxy: OwnProxy, callers: Callers) -> None:
    quota = 'uri_path_prefix = "/dev"\nrequests_per_second = 5\nburst = 1'
    proxy = own_proxy.start(edit=lambda text: text.replace('uri_path_prefix = "/dev"', quota))
    caller = callers(proxy)
    while caller.encrypt("demo-key", HELLO).status == 200:
        pass

    time.sleep(0.5)

    assert caller.encrypt("demo-key", HELLO).status == 200


# --- The audit log


def chained(text: str, log: Path, more: str = "") -> str:
    key = log.with_name("audit-key")
    key.write_text(KEY)
    key.chmod(0o600)
    table = f'[audit]\nfile = "{log}"\nchain = true\nkey = {{ file = "{key}" }}\ncheckpoint_interval_s = 1\n{more}'
    return re.sub(r"(?s)\[audit\]\nformat = \"console\"\n", table + "\n", text)


def test_each_request_is_one_chained_line_of_its_worker(
    own_proxy: OwnProxy, request_metadata: dict[str, Any], tmp_path: Path, callers: Callers
) -> None:
    log = tmp_path / "audit.log"
    proxy = own_proxy.start(edit=lambda text: chained(text, log))
    request_metadata |= {"kmsRequestId": 'forged\n{"a": 1}\u2028', "someNewMember": "new", "kmsViaService": "ebs"}
    caller = callers(proxy)
    for _ in range(20):
        caller.encrypt("demo-key", HELLO)
    caller.encrypt("no-such-key", HELLO)
    caller.decrypt("demo-key", caller.seal("demo-key", b"plaintext of no concern to a log"))
    time.sleep(2)
    assert stop(proxy) == 0

    lines = log.read_bytes().splitlines(keepends=True)
    requests = [line for line in map(json.loads, lines) if line["message"] == "request"]
    assert len(requests) == 23
    good = requests[0]
    assert good["request_metadata"] == request_metadata
    assert (good["keystore"], good["operation"], good["key_id"], good["key_version"]) == (
        "dev",
        "Encrypt",
        "demo-key",
        1,
    )
    assert (good["status"], good["hsms"], good["peer"]) == (200, ["softhsm"], "127.0.0.1")
    assert good["access_key_id"] == proxy.credential.access_key_id
    assert 0 < good["hsm_ms"] <= good["ms"]
    refused = next(line for line in requests if line["status"] == 404)
    assert (refused["error"], refused["error_message"][:20]) == ("KeyNotFoundException", "The key store expose")
    assert b"no concern" not in log.read_bytes()
    assert proxy.credential.secret_access_key.encode() not in log.read_bytes()
    verification = verify_lines(lines, Secret(KEY))
    assert verification.problems == []
    assert all(chain.lines_after_checkpoint == 0 for chain in verification.chains.values())
    done = run(proxy, "audit", "verify", str(log))
    assert done.returncode == 0


def test_a_log_that_is_renamed_goes_on_in_a_new_file_and_verifies_with_the_old_one(
    own_proxy: OwnProxy, tmp_path: Path, callers: Callers
) -> None:
    log, old = tmp_path / "audit.log", tmp_path / "audit.log.1"
    proxy = own_proxy.start(edit=lambda text: chained(text, log))
    caller = callers(proxy)
    for _ in range(20):
        caller.encrypt("demo-key", HELLO)
    assert eventually(log.exists)
    log.rename(old)
    for _ in range(20):
        caller.encrypt("demo-key", HELLO)
    stop(proxy)

    assert run(proxy, "audit", "verify", str(old), str(log)).returncode == 0
    alone = run(proxy, "audit", "verify", str(log))
    assert alone.returncode == 1
    assert "lines before it are removed or in another file" in alone.stderr


def test_blocks_are_audited(own_proxy: OwnProxy, tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    proxy = own_proxy.start(edit=lambda text: chained(text, log))
    assert eventually(lambda: samples(proxy, "xksproxy_workers") == [2])
    run(proxy, "block", "--keystore", "dev", "--reason", "incident 4711")

    def blocked() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        return [line for line in lines if line["message"] == "blocked"]

    assert eventually(lambda: log.exists() and len(blocked()) == 2)
    assert {(line["keystore"], line["block_reason"]) for line in blocked()} == {("dev", "incident 4711")}


def test_what_cannot_be_recorded_is_refused_where_the_settings_ask_for_it(
    own_proxy: OwnProxy, tmp_path: Path, callers: Callers
) -> None:
    log = tmp_path / "directory" / "audit.log"
    log.parent.mkdir()
    proxy = own_proxy.start(edit=lambda text: chained(text, log, 'when_full = "refuse"'))
    caller = callers(proxy)
    assert caller.encrypt("demo-key", HELLO).status == 200

    assert eventually(log.exists)
    log.unlink()
    log.mkdir()

    assert eventually(lambda: caller.encrypt("demo-key", HELLO).status == 500)
    log.rmdir()
    assert eventually(lambda: statuses(caller) == {200})


# --- Metrics and status


def test_metrics_are_summed_over_the_workers(own_proxy: OwnProxy, callers: Callers) -> None:
    proxy = own_proxy.start()
    caller = callers(proxy)
    sealed = [caller.seal("demo-key", HELLO) for _ in range(30)]
    for item in sealed[:7]:
        caller.decrypt("demo-key", item)
    for _ in range(5):
        caller.encrypt("no-such-key", HELLO)

    ok = {"keystore": "dev", "xks_operation": "Encrypt", "exception": "None", "error_type": "none"}
    assert samples(proxy, "xksproxy_requests_total", **ok) == [30]
    assert samples(proxy, "xksproxy_requests_total", exception="KeyNotFoundException") == [5]
    assert samples(proxy, "xksproxy_request_duration_seconds_count", xks_operation="Decrypt") == [7]
    assert samples(proxy, "xksproxy_decrypts_total", key_id="demo-key") == [7]
    assert eventually(lambda: samples(proxy, "xksproxy_workers") == [2])
    assert eventually(lambda: samples(proxy, "xksproxy_hsm_state", state="serving") == [2])
    (encryptions,) = samples(proxy, "xksproxy_key_encryptions", key_id="demo-key", version="1", keystore="dev")
    assert encryptions >= 30
    assert samples(proxy, "xksproxy_key_encryptions_limit", key_id="demo-key", keystore="dev") == [2**32]


def test_what_a_dead_worker_counted_stays_and_what_it_said_of_its_present_goes(
    own_proxy: OwnProxy, callers: Callers
) -> None:
    proxy = own_proxy.start()
    pids = wait_for_every_worker(proxy)
    caller = callers(proxy)
    for _ in range(20):
        caller.seal("demo-key", HELLO)
    good = {"xks_operation": "Encrypt", "exception": "None", "keystore": "dev"}
    (before,) = samples(proxy, "xksproxy_requests_total", **good)

    os.kill(min(pids), 9)

    assert eventually(lambda: samples(proxy, "xksproxy_workers") == [2])
    assert samples(proxy, "xksproxy_requests_total", xks_operation="Encrypt", exception="None", keystore="dev") == [
        before
    ]
    views = json.loads(ask_admin(proxy, "/status").content)["workers"]
    assert min(pids) not in {view["pid"] for view in views}


def test_callers_cannot_make_series_without_bound(
    own_proxy: OwnProxy, request_metadata: dict[str, Any], callers: Callers
) -> None:
    proxy = own_proxy.start()
    caller = callers(proxy)
    sealed = caller.seal("demo-key", HELLO)
    for number in range(30):
        request_metadata["kmsOperation"] = f"New{number}"
        request_metadata["awsPrincipalArn"] = f"arn:aws:sts::1:assumed-role/Role/session{number}"
        caller.decrypt("demo-key", sealed)
        caller.encrypt(f"no-such-key-{number}", HELLO)

    text = ask_admin(proxy, "/metrics").content.decode()
    assert 'kms_operation="other"' in text
    assert "New" not in text
    assert "/session" not in text
    assert 'principal="arn:aws:sts::1:assumed-role/Role"' in text
    assert "no-such-key" not in text


def test_a_worker_that_must_refuse_what_it_cannot_record_is_not_ready(own_proxy: OwnProxy, callers: Callers) -> None:
    proxy = own_proxy.start(
        server="workers = 1", edit=lambda text: chained(text, Path("/dev/full"), 'when_full = "refuse"')
    )
    caller = callers(proxy)
    assert eventually(lambda: caller.encrypt("demo-key", HELLO).status == 500)

    assert eventually(lambda: ask_admin(proxy, "/readyz").status == 503)
    assert eventually(
        lambda: json.loads(ask_admin(proxy, "/status").content)["problems"] == ["the audit log cannot be written"]
    )


@pytest.mark.parametrize(("path", "status"), [("/livez", 200), ("/readyz", 200), ("/ping", 404), ("/status/", 404)])
def test_the_admin_listener_has_the_probes_and_nothing_else(proxy: Proxy, path: str, status: int) -> None:
    assert ask_admin(proxy, path).status == status


def test_the_status_page_escapes_what_callers_send(proxy: Proxy, caller: Caller, session: HsmSession) -> None:
    caller.client.call(Operation.ENCRYPT, caller.encryption(HELLO), "<script>alert(1)</script>")

    page = ask_admin(proxy, "/")

    assert page.status == 200
    assert b"<script" not in page.content
    assert (page.header("content-security-policy") or "").startswith("default-src 'none'")


def test_the_status_page_asks_for_nothing_from_elsewhere(proxy: Proxy) -> None:
    page = ask_admin(proxy, "/").content.decode()

    assert re.findall(r"(?:src|href|url\()", page) == []


def test_the_status_shows_refusals_grouped_by_reason(own_proxy: OwnProxy, callers: Callers) -> None:
    proxy = own_proxy.start()
    caller = callers(proxy)
    for _ in range(12):
        caller.encrypt("no-such-key", HELLO)

    def grouped() -> list[tuple[str, int]]:
        return [(row["error"], row["count"]) for row in json.loads(ask_admin(proxy, "/status").content)["refusals"]]

    assert eventually(lambda: grouped() == [("KeyNotFoundException", 12)])


def test_no_secret_stands_in_metrics_status_or_page(proxy: Proxy) -> None:
    pin = (proxy.environment.directory / "pin").read_text().strip()
    for path in ("/metrics", "/status", "/"):
        content = ask_admin(proxy, path).content.decode()
        assert proxy.credential.secret_access_key not in content
        assert pin not in content


def test_a_scrape_under_load_holds_up_no_request(own_proxy: OwnProxy, callers: Callers) -> None:
    proxy = own_proxy.start()
    caller = callers(proxy)
    done = threading.Event()

    def scrape() -> None:
        while not done.is_set():
            ask_admin(proxy, "/metrics")
            ask_admin(proxy, "/")

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        assert {caller.encrypt("demo-key", HELLO).status for _ in range(100)} == {200}
    finally:
        done.set()
        thread.join()
