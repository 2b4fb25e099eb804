"""Policies over a real socket: who is refused, with what, when it is asked, and what the log says (R-AUTHZ-*)."""

import json
import re
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from server_support import (
    HEALTH_MESSAGE,
    Caller,
    OwnProxy,
    SealedMessage,
    assert_refused,
)
from support import Proxy, eventually, lines_with

from xksproxy.client.xks import Answer, XksClient
from xksproxy.spec.uri import Operation

pytestmark = pytest.mark.slow

_ALICE = "arn:aws:iam::123456789012:user/Alice"
_BOB = "arn:aws:iam::123456789012:user/Bob"
_POLICIES = f"""
@id("alice-may-all")
permit (principal == Xks::Principal::"{_ALICE}", action, resource);

@id("bob-reads")
permit (principal == Xks::Principal::"{_BOB}", action == Xks::Action::"Decrypt", resource);

@id("secret-name-of-a-policy")
forbid (principal, action, resource) when {{ context has kmsViaService && context.kmsViaService == "ebs" }};
"""
Start = Callable[..., Proxy]


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "a.cedar").write_text(_POLICIES)
    return tmp_path / "policies"


@pytest.fixture
def start(own_proxy: OwnProxy, policies: Path) -> Start:
    def start_with_policies(mode: str = "enforce") -> Proxy:
        lines = f'uri_path_prefix = "/dev"\npolicies = ["{policies}"]\npolicy_mode = "{mode}"'
        return own_proxy.start(edit=lambda text: text.replace('uri_path_prefix = "/dev"', lines))

    return start_with_policies


def as_(client: XksClient, metadata: dict[str, Any], principal: str, **more: str) -> Caller:
    return Caller(client, {**metadata, "awsPrincipalArn": principal, "kmsRequestId": str(uuid.uuid4()), **more})


def describe(caller: Caller, key_id: str = "demo-key") -> Answer:
    return caller.client.call(Operation.GET_KEY_METADATA, {"requestMetadata": caller.metadata}, key_id)


def logged(proxy: Proxy, caller: Caller) -> dict[str, Any]:
    """The last line about a caller's request: its authorization and its reason."""
    request_id = caller.metadata["kmsRequestId"]
    line = eventually(lambda: lines_with(proxy.log, request_id))[-1]
    found = {name: line.find(f" {name}=") for name in ("authorization", "reason", "error")}
    decode = json.JSONDecoder().raw_decode
    return {name: decode(line, at + len(name) + 2)[0] for name, at in found.items() if at >= 0}


def test_each_operation_is_decided_by_the_policies(start: Start, request_metadata: dict[str, str]) -> None:
    proxy = start()
    with XksClient(proxy.endpoint(), proxy.context()) as client:
        alice = as_(client, request_metadata, _ALICE)
        bob = as_(client, request_metadata, _BOB)
        eve = as_(client, request_metadata, "arn:aws:iam::111111111111:user/Eve")
        sealed = alice.seal("demo-key", b"text")

        assert (alice.open("demo-key", sealed), bob.open("demo-key", sealed)) == (b"text", b"text")
        assert describe(alice).status == 200
        refused = [
            bob.encrypt("demo-key", b"text"),
            describe(bob),
            eve.encrypt("demo-key", b"text", cdiv=True),
            eve.decrypt("demo-key", sealed),
            describe(eve),
        ]

    for answer in refused:
        assert_refused(answer, 403, "AccessDeniedException")
        assert not re.search("alice|bob|secret|cedar", str(answer.body), re.IGNORECASE)
    assert logged(proxy, alice)["authorization"] == {
        "decision": "allow",
        "mode": "enforce",
        "policies": ["alice-may-all"],
    }
    assert logged(proxy, eve) == {
        "authorization": {"decision": "deny", "mode": "enforce", "policies": []},
        "error": "AccessDeniedException",
        "reason": "no policy permits the request",
    }


def test_the_policy_that_refuses_is_in_the_log_and_not_in_the_answer(
    start: Start, request_metadata: dict[str, str]
) -> None:
    """R-AUTHZ-4, R-AUTHZ-5."""
    proxy = start()
    with XksClient(proxy.endpoint(), proxy.context()) as client:
        caller = as_(client, request_metadata, _ALICE, kmsViaService="ebs")
        answer = caller.encrypt("demo-key", b"text")

    assert_refused(answer, 403, "AccessDeniedException")
    assert "secret-name" not in str(answer.body)
    facts = logged(proxy, caller)
    assert facts["authorization"]["policies"] == ["secret-name-of-a-policy"]
    assert facts["reason"] == "refused by policy secret-name-of-a-policy"


def test_get_health_status_is_exempt_and_other_key_stores_are_not_concerned(
    start: Start, policies: Path, request_metadata: dict[str, str], proxy: Proxy
) -> None:
    """R-AUTHZ-3, R-URI-9."""
    (policies / "a.cedar").write_text("forbid (principal, action, resource);")
    own = start()
    with XksClient(own.endpoint(), own.context()) as client:
        assert client.call(Operation.GET_HEALTH_STATUS, HEALTH_MESSAGE).status == 200
        assert_refused(describe(as_(client, request_metadata, _ALICE)), 403, "AccessDeniedException")
    with XksClient(own.endpoint("", proxy.other_credential), own.context()) as client:
        caller = as_(client, request_metadata, _BOB)
        assert caller.encrypt("demo-key", b"text").status == 200
    assert "authorization" not in logged(own, caller)


def test_the_policies_are_asked_after_the_key_is_found_and_before_its_state(
    start: Start, request_metadata: dict[str, str]
) -> None:
    proxy = start()
    sealed = SealedMessage(bytes(12), b"x", bytes(16))
    with XksClient(proxy.endpoint(), proxy.context()) as client:
        eve = as_(client, request_metadata, "AWS Internal")
        assert_refused(eve.encrypt("demo-key", bytes(8193)), 501, "UnsupportedOperationException")
        assert_refused(eve.encrypt("no-such-key", b"x"), 404, "KeyNotFoundException")
        assert_refused(describe(eve, "no-such-key"), 404, "KeyNotFoundException")
        for answer in (
            eve.encrypt("disabled-key", b"x"),
            eve.decrypt("disabled-key", sealed),
            describe(eve, "disabled-key"),
            eve.encrypt("impotent-key", b"x"),
            eve.decrypt("demo-key", sealed),
        ):
            assert_refused(answer, 403, "AccessDeniedException")
        alice = as_(client, request_metadata, _ALICE)
        assert_refused(alice.encrypt("disabled-key", b"x"), 400, "InvalidStateException")


def test_in_audit_mode_a_refusal_is_logged_and_the_request_served(
    start: Start, request_metadata: dict[str, str]
) -> None:
    proxy = start("audit")
    with XksClient(proxy.endpoint(), proxy.context()) as client:
        bob = as_(client, request_metadata, _BOB, kmsViaService="ebs")
        assert bob.encrypt("demo-key", b"text").status == 200

    assert logged(proxy, bob) == {
        "authorization": {"decision": "deny", "mode": "audit", "policies": ["secret-name-of-a-policy"]}
    }


def test_a_hostile_principal_is_refused_as_any_other(start: Start, request_metadata: dict[str, str]) -> None:
    proxy = start()
    hostile = ["", '"', '\\"', f'{_ALICE}"', f'"{_ALICE}', '"} || true', f"{_ALICE}\n", "\0", "x" * 3000, "é" * 500]
    with XksClient(proxy.endpoint(), proxy.context()) as client:
        for principal in hostile:
            caller = as_(client, request_metadata, principal, kmsViaService='"', awsSourceVpce="{}")
            assert_refused(caller.encrypt("demo-key", b"x"), 403, "AccessDeniedException")
        assert as_(client, request_metadata, _ALICE).encrypt("demo-key", b"x").status == 200


def test_new_policies_are_taken_over_whole_and_broken_ones_not_at_all(
    start: Start, policies: Path, request_metadata: dict[str, str]
) -> None:
    proxy = start()
    log = proxy.log

    def statuses() -> set[int]:
        found = set()
        for _ in range(8):  # connections enough to find every worker
            with XksClient(proxy.endpoint(), proxy.context()) as client:
                found.add(describe(as_(client, request_metadata, _ALICE)).status)
        return found

    def reload() -> None:
        proxy.process.send_signal(signal.SIGHUP)

    assert statuses() == {200}
    for broken in ('permit (principal, action == Xks::Action::"Sign", resource);', "forbid (", ""):
        (policies / "b.cedar").write_text(broken)
        before = log.read_text().count("configuration refused")
        reload()
        eventually(lambda before=before: log.read_text().count("configuration refused") > before)
        assert statuses() == {200}
    eventually(lambda: lines_with(log, f"{policies / 'b.cedar'}:1: "))

    (policies / "b.cedar").write_text('@id("now-nobody")\nforbid (principal, action, resource);')
    reload()
    eventually(lambda: statuses() == {403})
    (policies / "b.cedar").unlink()
    reload()
    eventually(lambda: statuses() == {200})
