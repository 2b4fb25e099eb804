"""`xksproxy policy explain`, and what `check-config` says about policies."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from xksproxy_tools.development.environment import DevEnvironment

_ALICE = "arn:aws:iam::123456789012:user/Alice"
_KEY_ARN = "arn:aws:kms:eu-west-1:123456789012:key/1"
_POLICIES = f"""
@id("alice")
permit (principal == Xks::Principal::"{_ALICE}", action, resource);

@id("region")
forbid (principal, action, resource) unless {{ context.region == "eu-west-1" }};

@id("sum")
forbid (principal, action, resource) when {{
  context.kmsOperation == "Overflow" && 9223372036854775807 + 1 > 0
}};
"""
Run = Callable[..., Any]


@pytest.fixture
def directory(environment: DevEnvironment, tmp_path: Path) -> Path:
    """The environment of the tests with policies."""
    shutil.copytree(
        environment.directory, tmp_path / "dev", ignore=shutil.ignore_patterns("tokens", "log", "audit", "*.partial")
    )
    (tmp_path / "dev" / "policies").mkdir()
    (tmp_path / "dev" / "policies" / "p.cedar").write_text(_POLICIES)
    set_policies(tmp_path / "dev", '["policies"]')
    return tmp_path / "dev"


def set_policies(directory: Path, policies: str, mode: str = "enforce") -> None:
    config = directory / "xksproxy.toml"
    text = config.read_text()
    lines = [line for line in text.splitlines() if not line.startswith(("policies = ", "policy_mode = "))]
    at = lines.index('uri_path_prefix = "/dev"')
    lines[at + 1 : at + 1] = [f"policies = {policies}", f'policy_mode = "{mode}"']
    config.write_text("\n".join(lines) + "\n")


@pytest.fixture
def explain(run: Run, directory: Path) -> Run:
    def explain_request(*arguments: str | Path, stdin: bytes = b"", keystore: bool = True) -> Any:
        store = ("--keystore", "dev") if keystore else ()
        return run("policy", "explain", "--config", directory / "xksproxy.toml", *store, *arguments, stdin=stdin)

    return explain_request


def request(**changes: str | None) -> list[str]:
    options: dict[str, str | None] = {
        "operation": "Encrypt",
        "key": "demo-key",
        "principal": _ALICE,
        "kms-key-arn": _KEY_ARN,
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    return [part for name, value in options.items() if value is not None for part in (f"--{name}", value)]


def test_a_request_that_is_allowed_exits_with_0_and_names_the_policy(explain: Run, directory: Path) -> None:
    done = explain(*request())

    assert (done.code, done.err) == (0, "")
    assert done.text.startswith("allow: permitted by policy alice\n")
    assert f"permit  alice  {directory / 'policies' / 'p.cedar'}:2\n" in done.text
    assert "kmsKeyAccount = '123456789012'" in done.text


def test_a_request_that_is_refused_exits_with_1(explain: Run) -> None:
    nobody = explain(*request(principal="ec2.amazonaws.com"))
    forbidden = explain(*request(region="us-east-1"))

    assert (nobody.code, nobody.text.splitlines()[0]) == (1, "deny: no policy permits the request")
    assert (forbidden.code, forbidden.text.splitlines()[0]) == (1, "deny: refused by policy region")
    assert "forbid  region" in forbidden.text


def test_an_evaluation_error_is_reported_and_refuses(explain: Run) -> None:
    done = explain(*request(kms_operation="Overflow"), "--json")

    facts = json.loads(done.text)
    assert (done.code, facts["decision"]) == (1, "deny")
    assert "`sum`" in facts["errors"][0]


def test_json_has_all_of_it(explain: Run, directory: Path) -> None:
    done = explain(
        *request(via_service="ebs", vpc="vpc-1", vpce="vpce-1", access_key_id="AKI", request_id="r"), "--json"
    )

    assert json.loads(done.text) == {
        "decision": "allow",
        "mode": "enforce",
        "keystore": "dev",
        "reason": "permitted by policy alice",
        "policies": [
            {"id": "alice", "effect": "permit", "file": str(directory / "policies" / "p.cedar"), "line": 2},
        ],
        "errors": [],
        "request": {
            "operation": "encrypt",
            "key_id": "demo-key",
            "principal": {"arn": _ALICE, "kind": "iam", "account": "123456789012"},
            "context": {
                "awsPrincipalArn": _ALICE,
                "kmsKeyArn": _KEY_ARN,
                "kmsOperation": "Encrypt",
                "kmsRequestId": "r",
                "kmsViaService": "ebs",
                "awsSourceVpc": "vpc-1",
                "awsSourceVpce": "vpce-1",
                "region": "eu-west-1",
                "accessKeyId": "AKI",
                "kmsKeyAccount": "123456789012",
                "kmsKeyRegion": "eu-west-1",
            },
        },
        "key_exposed": True,
    }


_LOG_LINE = {
    "time": "2026-01-01T00:00:00.000+00:00",
    "message": "request",
    "pid": 1,
    "peer": "127.0.0.1",
    "keystore": "dev",
    "operation": "Encrypt",
    "key_id": "demo-key",
    "access_key_id": "AKI",
    "region": "eu-west-1",
    "request_metadata": {
        "awsPrincipalArn": _ALICE,
        "kmsKeyArn": _KEY_ARN,
        "kmsOperation": "GenerateDataKey",
        "kmsRequestId": "r",
        "unknownMember": "a b=c",
        "vpcEndpointId": "vpce-of-the-caller-s-choice",
        "region": "us-east-2",
    },
    "vpc_endpoint_id": "vpce-1",
    "hsms": ["softhsm"],
    "status": 200,
    "ms": 1.5,
}


def test_a_line_of_the_log_can_be_explained_and_options_change_it(explain: Run, tmp_path: Path) -> None:
    (tmp_path / "line").write_text(json.dumps(_LOG_LINE) + "\n")

    from_file = explain("--from", tmp_path / "line", keystore=False)
    changed = explain("--from", "-", "--region", "us-east-1", stdin=json.dumps(_LOG_LINE).encode(), keystore=False)

    assert (from_file.code, "kmsOperation = 'GenerateDataKey'" in from_file.text) == (0, True)
    assert (changed.code, changed.text.splitlines()[0]) == (1, "deny: refused by policy region")


def test_a_line_for_people_can_be_explained_too(explain: Run) -> None:
    fields = " ".join(f"{name}={json.dumps(value)}" for name, value in _LOG_LINE.items())

    assert explain("--from", "-", stdin=f"2026 info request  {fields}\n".encode(), keystore=False).code == 0


@pytest.mark.parametrize(
    ("fields", "operation"),
    [
        ({"plaintext": "QQ=="}, "encrypt"),
        ({"ciphertext": "QQ==", "initializationVector": ""}, "decrypt"),
        ({}, "metadata"),
    ],
)
def test_a_body_of_kms_can_be_explained(explain: Run, fields: dict[str, str], operation: str) -> None:
    metadata = {
        "awsPrincipalArn": _ALICE,
        "kmsKeyArn": _KEY_ARN,
        "kmsOperation": "X",
        "kmsRequestId": "r",
        "unknownMember": {"a": 1},
    }
    body = json.dumps({"requestMetadata": metadata, **fields}, indent=1).encode()

    done = explain("--from", "-", "--key", "demo-key", "--json", stdin=body)

    assert done.code == 0
    assert json.loads(done.text)["request"]["operation"] == operation


@pytest.mark.parametrize(
    "stdin",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"a\nb",
        b"[" * 50_000,
        b'{"a": ' * 50_000,
        b'{"requestMetadata": 1}',
        b'{"requestMetadata": "ab"}',
        b'{"key_id": 1}',
        b'{"requestMetadata": {}}',
        b"{}",
        b'{"key_id": null}',
    ],
)
def test_garbage_cannot_be_explained(explain: Run, stdin: bytes) -> None:
    done = explain("--from", "-", stdin=stdin)

    assert (done.code, done.out) == (2, b"")


@pytest.mark.parametrize("value", ["\ud800", "\x1b[31m", '"', "\0"])
def test_hostile_values_are_refused_and_shown_escaped(explain: Run, value: str) -> None:
    metadata = {"awsPrincipalArn": value, "kmsKeyArn": _KEY_ARN}
    done = explain("--from", "-", stdin=json.dumps({**_LOG_LINE, "request_metadata": metadata}).encode())

    assert done.code == 1
    assert value == '"' or value.encode("utf-8", "surrogatepass") not in done.out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"operation": None}, "give the --operation"),
        ({"operation": "Sign"}, "give the --operation"),
        ({"operation": "GetHealthStatus"}, "exempt"),
        ({"key": None}, "--key"),
        ({"principal": None}, "--principal"),
        ({"kms_key_arn": None}, "--kms-key-arn"),
        ({"keystore": "none"}, "no key store has the name none"),
    ],
)
def test_what_is_missing_is_named(explain: Run, changes: dict[str, str | None], words: str) -> None:
    done = explain(*request(**changes))

    assert (done.code, done.out) == (2, b"")
    assert words in done.err


def test_get_key_metadata_needs_no_kms_key(explain: Run) -> None:
    assert explain(*request(operation="getkeymetadata", kms_key_arn=None, region="eu-west-1")).code == 0


def test_a_key_that_is_not_exposed_is_reported(explain: Run) -> None:
    done = explain(*request(key="none"))

    assert done.code == 0
    assert "exposes no key none: the proxy would answer KeyNotFoundException" in done.err


def test_audit_mode_is_reported(explain: Run, directory: Path) -> None:
    set_policies(directory, '["policies"]', "audit")

    done = explain(*request(region="us-east-1"))

    assert done.code == 1
    assert "policy_mode is audit" in done.text


def test_a_key_store_without_policies_allows(run: Run, environment: DevEnvironment) -> None:
    done = run("policy", "explain", "--config", environment.config, "--keystore", "dev", *request())

    assert (done.code, done.text.splitlines()[0]) == (0, "allow: the key store has no policies")


def test_broken_policies_cannot_be_explained(explain: Run, directory: Path) -> None:
    (directory / "policies" / "p.cedar").write_text("permit")

    done = explain(*request())

    assert (done.code, done.out) == (2, b"")
    assert f"{directory / 'policies' / 'p.cedar'}:1: unexpected end of input" in done.err


def test_neither_credentials_nor_certificates_are_needed(explain: Run, directory: Path) -> None:
    for name in ("credentials", "tls", "state"):
        shutil.rmtree(directory / name, ignore_errors=True)
    (directory / "pin").unlink()

    assert explain(*request()).code == 0


# --- check-config


def test_check_config_refuses_an_unknown_mode_and_an_audit_of_nothing(run: Run, directory: Path) -> None:
    config = directory / "xksproxy.toml"
    set_policies(directory, '["policies"]', "log")
    unknown = run("check-config", "--config", config)
    set_policies(directory, '["policies"]', "audit")
    config.write_text(config.read_text().replace('policies = ["policies"]\n', ""))
    nothing = run("check-config", "--config", config)

    assert (unknown.code, nothing.code) == (1, 1)
    assert "expected one of enforce, audit" in unknown.err
    assert "keystore[0].policy_mode: audit needs policies" in nothing.err


def test_check_config_warns_of_policies_that_can_never_match(run: Run, directory: Path) -> None:
    text = '\n@id("gone")\npermit (principal, action, resource == Xks::ExternalKey::"old");'
    (directory / "policies" / "p.cedar").write_text(text)
    config = directory / "xksproxy.toml"

    done = run("check-config", "--config", config)
    machine = run("check-config", "--config", config, "--json")

    place = f"{config}: keystore[0].policies: {directory / 'policies' / 'p.cedar'}:2"
    warning = f"{place}: policy gone: the key store does not expose"
    assert done.code == machine.code == 0
    assert f"xksproxy: warning: {warning}" in done.err
    # Another test may listen on the port of this configuration, which is a warning too.
    assert [text for text in json.loads(machine.text)["warnings"] if text.startswith(warning)]
