"""What people paste into the options of commands is recognised before anything is done."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from xksproxy_tools.development.environment import DevEnvironment

_ARN = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd"
_EXPLAIN = ("policy", "explain", "--operation", "Encrypt", "--kms-key-arn", _ARN)
_AS_CLI = ("kms-config", "--as", "aws-cli", "--out", "{out}", "--name", "x", "--keystore", "dev")
_CALL = ("call", "health", "--host", "localhost:1", "--access-key-id", "A" * 20)


@pytest.fixture
def variables(environment: DevEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration of a development environment, and a secret."""
    monkeypatch.setenv("XKSPROXY_CONFIG", str(environment.config))
    monkeypatch.setenv("SIGV4_SECRET_ACCESS_KEY", "s" * 43)


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("block", "--key", "demo-key\u00a0"), 'a blank at its beginning or end; write "demo-key"'),
        (("keys", "show", "\udcff"), "expected 1 to 128 characters"),
        (("block", "--key", "demo key"), "expected 1 to 128 characters"),
        (("block", "--keystore", "dev "), 'a blank at its beginning or end; write "dev"'),
        (("credentials", "list", "--keystore", "dev "), 'write "dev"'),
        (("unblock", "--key", "alias/demo"), "it is a name of AWS KMS"),
        (("keys", "show", "https://x/dev/kms/xks/v1/keys/demo-key"), 'it is a URL; write "demo-key"'),
        (("keys", "rotate", _ARN), "it is an ARN"),
        (("keys", "create", '"demo-key"'), 'it is in quotation marks; write "demo-key"'),
        (("keys", "accept", "demo-key\n"), 'write "demo-key"'),
        (("credentials", "retire", "'AKIA'"), 'it is in quotation marks; write "AKIA"'),
        (("status", "--keystore", "'dev'"), 'it is in quotation marks; write "dev"'),
        ((*_CALL, "--prefix", "https://localhost/dev/kms/xks/v1"), 'it is a URL; write "/dev"'),
        ((*_CALL, "--prefix", "/dev/kms/xks/v1"), 'write "/dev"'),
        ((*_CALL, "--prefix", "/d v"), "expected segments of"),
        ((*_CALL, "--region", "EU-WEST-1"), 'it has capital letters; write "eu-west-1"'),
        ((*_CALL, "--region", "Europe (Ireland)"), "it is not a Region"),
        ((*_CALL, "--host", "https://localhost:1/dev"), 'it is a URL; write "localhost:1"'),
        ((*_CALL, "--host", "::1"), "expected a host or host:port"),
        ((*_CALL, "--host", "localhost:99999"), "expected a host or host:port"),
        ((*_EXPLAIN, "--principal", "123456789012", "--key", "demo-key"), "expected an ARN such as arn:aws:iam"),
        ((*_EXPLAIN, "--principal", "arn:aws:iam::1:root ", "--key", "demo-key"), "a blank at its beginning or end"),
        (("policy", "explain", "--kms-key-arn", "alias/x"), "expected the ARN of a KMS key"),
        ((*_AS_CLI, "--endpoint", "http://xks.example.com/dev"), 'write "https://xks.example.com"'),
        ((*_AS_CLI, "--endpoint", "xks.example.com:443"), 'write "https://xks.example.com"'),
        ((*_AS_CLI, "--endpoint", "https://xks.example.com:8443"), "KMS always uses port 443"),
        ((*_AS_CLI, "--update", "mystore"), "expected the id of a custom key store, such as cks-"),
        ((*_AS_CLI, "--update", "cks-1234567890abcdef0 "), 'write "cks-1234567890abcdef0"'),
        (
            (
                *_AS_CLI,
                "--vpc-endpoint-service-name",
                "arn:aws:ec2:eu-west-1:1:vpc-endpoint-service/vpce-svc-0123456789",
            ),
            'write "com.amazonaws.vpce.eu-west-1.vpce-svc-0123456789"',
        ),
        (("kms-config", "--credential", "'AKIA'"), 'it is in quotation marks; write "AKIA"'),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_was_pasted_is_named_and_nothing_is_done(
    run: Callable[..., Any], tmp_path: Path, variables: None, arguments: tuple[str, ...], answer: str
) -> None:
    done = run(*(argument.replace("{out}", str(tmp_path / "out.json")) for argument in arguments))

    assert done.code == 2
    assert answer in " ".join(done.err.split())
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("secret", ['"secret"', "secret ", "\u200bsecret"])
def test_a_wrapped_secret_is_named_and_not_shown(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("SIGV4_SECRET_ACCESS_KEY", secret)

    done = run(*_CALL)

    assert (done.code, "the secret access key: it" in done.err) == (2, True)
    assert "secret " not in done.err.replace("secret access", "")
