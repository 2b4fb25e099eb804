"""What an operator sees and does: blocks, quotas, the audit log, metrics and status, over all workers."""

import json
import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from commands import run_command
from prometheus_client.parser import text_string_to_metric_families
from server_support import (
    AUDIT_KEY,
    HEALTH,
    HEALTH_BODY,
    HEALTH_MESSAGE,
    Caller,
    OwnProxy,
    Wire,
    ask_admin,
    assert_error,
    assert_refused,
    audit_lines,
    chained,
    request,
    roaming_caller,
    signed,
    stop,
    wait_for_every_worker,
    workers,
)
from support import Proxy, eventually, lines_with, remains, serve, wait_for_port
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.client.xks import XksClient
from xksproxy.config.secret import Secret
from xksproxy.server import worker
from xksproxy.spec.uri import Operation
from xksproxy.telemetry.chain import CHECKPOINT, verify_lines

HELLO = b"Hello World!"

Callers = Callable[[Proxy], Caller]


def run(proxy: Proxy, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments, "--config", proxy.environment.config)


@pytest.fixture
def callers(request_metadata: dict[str, Any]) -> Iterator[Callable[[Proxy], Caller]]:
    """Callers over connections enough to find every worker."""
    with ExitStack() as stack:

        def connect(proxy: Proxy) -> Caller:
            return stack.enter_context(roaming_caller(proxy, request_metadata))

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


def status(proxy: Proxy) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ask_admin(proxy, "/status").content)
    return found


# --- The kill switch


def wait_until_audited(proxy: Proxy, event: str) -> None:
    """Until each worker has said that a block took or lost effect in it."""
    eventually(lambda: all(lines_with(proxy.log, f" {event} ", f" pid={pid} ") for pid in workers(proxy)))


def test_a_block_takes_effect_in_every_worker_within_a_second_and_survives_a_restart(
    own_proxy: OwnProxy, request_metadata: dict[str, Any], callers: Callers
) -> None:
    assert worker.FOLLOW_SECONDS < 1
    proxy = own_proxy.start()
    caller = callers(proxy)
    sealed = caller.seal("demo-key", HELLO)

    done = run(proxy, "block", "--keystore", "dev", "--key", "demo-key", "--reason", "incident 4711")
    wait_until_audited(proxy, "blocked")

    assert done.returncode == 0
    assert "data keys that they have in memory" in done.stdout
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
    proxy = replace(proxy, process=again)
    wait_for_every_worker(proxy)
    caller = callers(proxy)
    assert statuses(caller) == {400}

    assert run(proxy, "unblock", "--keystore", "dev", "--key", "demo-key").returncode == 0
    wait_until_audited(proxy, "unblocked")
    assert statuses(caller) == {200}
    assert run(proxy, "unblock", "--keystore", "dev", "--key", "demo-key").returncode == 1


def test_a_blocked_key_store_is_refused_and_audited_by_every_worker_and_leaves_others_alone(
    own_proxy: OwnProxy, tmp_path: Path, callers: Callers
) -> None:
    log = tmp_path / "audit.log"
    proxy = own_proxy.start(edit=lambda text: chained(text, log))

    def blocked(store: str) -> list[dict[str, Any]]:
        return [line for line in audit_lines(log, '"message":"blocked"') if line["keystore"] == store]

    run(proxy, "block", "--keystore", "other")
    eventually(lambda: {line["pid"] for line in blocked("other")}, workers(proxy))
    assert statuses(callers(proxy)) == {200}
    assert status(proxy)["keystores"][1]["blocked"] is not None

    run(proxy, "block", "--keystore", "dev", "--reason", "incident 4711")
    eventually(lambda: {line["pid"] for line in blocked("dev")}, workers(proxy))
    assert statuses(callers(proxy)) == {400}
    assert [line["block_reason"] for line in blocked("dev")] == ["incident 4711"] * 2


def test_a_key_that_is_not_exposed_is_not_blocked(proxy: Proxy) -> None:
    done = run(proxy, "block", "--keystore", "dev", "--key", "no-such-key")

    assert (done.returncode, done.stdout) == (1, "")
    assert "exposes no external key no-such-key; nothing was blocked" in done.stderr


def test_blocks_that_cannot_be_read_at_the_start_count_as_blocks(own_proxy: OwnProxy, callers: Callers) -> None:
    def break_state(text: str) -> str:
        (own_proxy.directory / "own" / "state" / "blocks-dev.json").write_text("{")
        return text

    proxy = own_proxy.start(edit=break_state, serving=False)

    assert_refused(callers(proxy).encrypt("demo-key", HELLO), 500, "InternalException")
    paths = ("/readyz/dev", "/readyz/other", "/readyz/none")
    eventually(lambda: [ask_admin(proxy, path).status for path in paths], [503, 200, 404])
    eventually(lambda: any("blocks-dev.json" in item["text"] for item in status(proxy)["conditions"]))


# --- Quotas


def test_a_quota_holds_over_all_workers_for_its_key_store_and_fills_up_again(
    own_proxy: OwnProxy, request_metadata: dict[str, Any], callers: Callers
) -> None:
    def with_quotas(text: str) -> str:
        text = text.replace('name = "dev"\n', 'name = "dev"\nrequests_per_second = 0.001\nburst = 30\n')
        return text.replace('name = "other"\n', 'name = "other"\nrequests_per_second = 0.5\nburst = 1\n')

    proxy = own_proxy.start(edit=with_quotas)
    caller = callers(proxy)

    answers = [caller.encrypt("demo-key", HELLO) for _ in range(60)]

    assert sum(answer.status == 200 for answer in answers) <= 30
    assert_refused(answers[-1], 429, "ThrottlingException")
    with XksClient(proxy.endpoint("", other_credential(proxy)), proxy.context()) as client:
        other = Caller(client, request_metadata)
        assert other.encrypt("demo-key", HELLO).status == 200
        eventually(lambda: other.encrypt("demo-key", HELLO).status, 429)
        eventually(lambda: other.encrypt("demo-key", HELLO).status, 200)


def other_credential(proxy: Proxy) -> Any:
    from xksproxy.config.credentials import load_credentials  # noqa: PLC0415 - for one test

    return load_credentials(proxy.environment.directory / "other-credentials")[0]


# --- The audit log


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
    eventually(lambda: lines_with(log, f'"message":"{CHECKPOINT}"'))
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
    verification = verify_lines(lines, Secret(AUDIT_KEY))
    assert verification.problems == []
    assert all(chain.lines_after_checkpoint == 0 for chain in verification.chains.values()), lines[-12:]
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
    eventually(log.exists)
    log.rename(old)
    for _ in range(20):
        caller.encrypt("demo-key", HELLO)
    stop(proxy)

    assert run(proxy, "audit", "verify", str(old), str(log)).returncode == 0
    alone = run(proxy, "audit", "verify", str(log))
    assert alone.returncode == 1
    assert "earlier lines were removed or are in another file" in alone.stderr


def test_what_cannot_be_recorded_is_refused_where_the_settings_ask_for_it(
    own_proxy: OwnProxy, tmp_path: Path, callers: Callers
) -> None:
    log = tmp_path / "directory" / "audit.log"
    log.parent.mkdir()
    proxy = own_proxy.start(edit=lambda text: chained(text, log, 'when_full = "refuse"'))
    caller = callers(proxy)
    assert caller.encrypt("demo-key", HELLO).status == 200

    eventually(log.exists)
    log.unlink()
    log.mkdir()

    eventually(lambda: caller.encrypt("demo-key", HELLO).status, 500)
    log.rmdir()
    eventually(lambda: statuses(caller), {200})


# --- Metrics and status


@pytest.fixture(scope="module")
def observed(environment: DevEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy for tests that count what they did themselves."""
    with OwnProxy(environment, tmp_path_factory.mktemp("observed")) as made:
        yield made.start(edit=lambda text: text.replace("[admin]\n", '[admin]\nhosts = ["proxy-1.example.com"]\n'))


def test_metrics_are_summed_over_the_workers(own_proxy: OwnProxy, callers: Callers) -> None:
    proxy = own_proxy.start()
    caller = callers(proxy)
    sealed = [caller.seal("demo-key", HELLO) for _ in range(30)]
    for item in sealed[:7]:
        caller.decrypt("demo-key", item)
    for _ in range(5):
        caller.encrypt("no-such-key", HELLO)

    def counted(name: str, **labels: str) -> list[float]:
        return samples(proxy, f"xksproxy_{name}", **labels)

    ok = {"keystore": "dev", "xks_operation": "Encrypt", "exception": "None", "error_type": "none"}
    eventually(lambda: counted("requests_total", **ok), [30])
    eventually(lambda: counted("requests_total", exception="KeyNotFoundException"), [5])
    eventually(lambda: counted("request_duration_seconds_count", xks_operation="Decrypt"), [7])
    eventually(lambda: counted("decrypts_total", key_id="demo-key"), [7])
    eventually(lambda: counted("workers"), [2])
    eventually(lambda: counted("hsm_state", state="serving"), [2])
    key = {"key_id": "demo-key", "keystore": "dev"}
    eventually(lambda: [count >= 30 for count in counted("key_encryptions", version="1", **key)], [True])
    eventually(lambda: counted("key_encryptions_limit", **key), [2**32])


def test_what_a_dead_worker_counted_stays_and_what_it_said_of_its_present_goes(
    own_proxy: OwnProxy, callers: Callers
) -> None:
    proxy = own_proxy.start()
    pids = workers(proxy)
    caller = callers(proxy)
    for _ in range(20):
        caller.seal("demo-key", HELLO)
    good = {"xks_operation": "Encrypt", "exception": "None", "keystore": "dev"}
    eventually(lambda: samples(proxy, "xksproxy_requests_total", **good), [20])

    os.kill(min(pids), 9)

    eventually(lambda: len(workers(proxy)) == 2 and min(pids) not in workers(proxy))
    wait_for_every_worker(proxy)
    eventually(lambda: samples(proxy, "xksproxy_workers"), [2])
    assert samples(proxy, "xksproxy_requests_total", **good) == [20]
    assert {view["pid"] for view in status(proxy)["workers"]} == workers(proxy)


def test_callers_cannot_make_series_without_bound(
    observed: Proxy, request_metadata: dict[str, Any], callers: Callers
) -> None:
    caller = callers(observed)
    sealed = caller.seal("demo-key", HELLO)

    def decrypts_by_others() -> float:
        return sum(samples(observed, "xksproxy_requests_total", kms_operation="other", xks_operation="Decrypt"))

    before = decrypts_by_others()
    for number in range(30):
        request_metadata["kmsOperation"] = f"New{number}"
        request_metadata["awsPrincipalArn"] = f"arn:aws:sts::1:assumed-role/Role/session{number}"
        caller.decrypt("demo-key", sealed)
        caller.encrypt(f"no-such-key-{number}", HELLO)

    eventually(decrypts_by_others, before + 30)
    text = ask_admin(observed, "/metrics").content.decode()
    assert 'kms_operation="other"' in text
    assert "New" not in text
    assert "/session" not in text
    assert 'principal="arn:aws:sts::1:assumed-role/Role"' in text
    assert "no-such-key" not in text


def test_a_worker_that_must_refuse_what_it_cannot_record_is_not_ready(own_proxy: OwnProxy, callers: Callers) -> None:
    proxy = own_proxy.start(
        server="workers = 1",
        edit=lambda text: chained(text, Path("/dev/full"), 'when_full = "refuse"'),
        serving=False,  # for it stops to be ready by itself, with its first checkpoint
    )
    caller = callers(proxy)
    eventually(lambda: caller.encrypt("demo-key", HELLO).status, 500)

    eventually(lambda: [hsm["state"] for hsm in status(proxy)["hsms"]], ["serving"])
    assert remains(lambda: ask_admin(proxy, "/readyz").status == 503, seconds=1)
    problem = "the audit log cannot be written: No space left on device"
    eventually(lambda: problem in [item["text"] for item in status(proxy)["conditions"]])


@pytest.mark.parametrize(("path", "status"), [("/livez", 200), ("/readyz", 200), ("/ping", 404), ("/status/", 404)])
def test_the_admin_listener_has_the_probes_and_nothing_else(proxy: Proxy, path: str, status: int) -> None:
    eventually(lambda: ask_admin(proxy, path).status, status)


def test_a_wrong_clock_is_logged_once_with_its_offset_and_shown(own_proxy: OwnProxy) -> None:
    proxy = own_proxy.start(server="workers = 1")
    with Wire(proxy) as wire:
        for _ in range(5):
            headers = signed(proxy, HEALTH, HEALTH_BODY, late_by=10_800)
            assert_error(wire.ask(request("POST", HEALTH, headers, HEALTH_BODY)), 401, "AuthenticationFailedException")

    def problems() -> list[str]:
        found = [item["text"] for item in status(proxy)["conditions"] if item["cause"] == "clock-wrong"]
        return [re.sub(r"1080\d", "10800", text) for text in found]

    wanted = "the clock is 10800 s ahead of that of the requests; most are refused; set the clock with NTP"
    eventually(problems, [wanted])
    eventually(lambda: [round(value, -2) for value in samples(proxy, "xksproxy_clock_offset_seconds")], [10_800.0])
    assert status(proxy)["clock_offset_seconds"] == pytest.approx(10_800, abs=10)
    assert run(proxy, "status").returncode == 1
    (line,) = lines_with(proxy.log, "clock is wrong")
    assert "ahead_seconds=1080" in line


@pytest.mark.parametrize("path", ["/", "/status", "/metrics", "/livez"])
def test_a_web_page_cannot_read_the_admin_listener_by_a_name_of_its_own(proxy: Proxy, path: str) -> None:
    """DNS rebinding: its browser sends the page's host."""
    refused = ask_admin(proxy, path, host="evil.example:9464")

    assert refused.status == 421
    assert b"[admin]" in refused.content
    assert b"evil" not in refused.content
    assert refused.header("content-type") == "text/plain; charset=utf-8"
    assert ask_admin(proxy, path, host="localhost:9464").status == 200


def test_the_admin_listener_can_be_asked_by_the_names_of_its_table(observed: Proxy) -> None:
    assert ask_admin(observed, "/status", host="proxy-1.example.com:9464").status == 200
    assert ask_admin(observed, "/status", host="proxy-2.example.com:9464").status == 421


def test_the_status_page_escapes_what_callers_send(observed: Proxy, callers: Callers) -> None:
    script = "<script>alert(1)</script>"
    callers(observed).encrypt(script.replace("/", ""), HELLO)
    run(observed, "block", "--keystore", "other", "--reason", script)

    def page() -> bytes:
        return ask_admin(observed, "/").content

    eventually(lambda: b"KeyNotFoundException" in page() and b"&lt;script&gt;alert(1)" in page())
    assert b"<script" not in page()
    assert (ask_admin(observed, "/").header("content-security-policy") or "").startswith("default-src 'none'")


def test_the_status_page_asks_for_nothing_from_elsewhere(proxy: Proxy) -> None:
    page = ask_admin(proxy, "/").content.decode()

    assert re.findall(r"(?:src|href|url\()", page) == []


def test_the_status_shows_refusals_grouped_by_reason(observed: Proxy, callers: Callers) -> None:
    caller = callers(observed)
    for _ in range(12):
        caller.encrypt("decrypt-only-key", HELLO)

    def grouped() -> list[tuple[str, int]]:
        return [(row["error"], row["count"]) for row in status(observed)["refusals"]]

    eventually(lambda: ("InvalidKeyUsageException", 12) in grouped())


def test_no_secret_stands_in_metrics_status_or_page(proxy: Proxy) -> None:
    pin = (proxy.environment.directory / "pin").read_text().strip()
    for path in ("/metrics", "/status", "/"):
        content = ask_admin(proxy, path).content.decode()
        assert proxy.credential.secret_access_key not in content
        assert pin not in content


def test_a_scrape_under_load_holds_up_no_request(observed: Proxy, callers: Callers) -> None:
    caller = callers(observed)
    done = threading.Event()

    def scrape() -> None:
        while not done.is_set():
            ask_admin(observed, "/metrics")
            ask_admin(observed, "/")

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        assert {caller.encrypt("demo-key", HELLO).status for _ in range(100)} == {200}
    finally:
        done.set()
        thread.join()
