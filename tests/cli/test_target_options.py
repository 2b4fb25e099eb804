"""The options that name a key store, and the variables of client.env that replace them."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from xksproxy_tools.development.certificates import write_private
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.cli.target_options import target_options
from xksproxy.client.target import Target
from xksproxy.keystore.kms_config import console_json
from xksproxy.sigv4.keyring import generate_credential

CREDENTIAL = generate_credential()
VARIABLES = {
    "XKS_PROXY_HOST": "localhost:8443",
    "URI_PREFIX": "dev",
    "SIGV4_ACCESS_KEY_ID": CREDENTIAL.access_key_id,
    "SIGV4_SECRET_ACCESS_KEY": CREDENTIAL.secret_access_key,
}


@click.command()
@target_options
@click.option("--more", default="")
def told(target: Target, more: str) -> None:
    """Print its arguments."""
    facts = {
        "host": target.host,
        "port": target.port,
        "prefix": target.path_prefix,
        "region": target.region,
        "access_key_id": target.credential.access_key_id,
        "secret": target.credential.secret_access_key,
        "ca": str(target.ca),
        "client": [str(target.client_certificate), str(target.client_key)],
        "more": more,
    }
    click.echo(json.dumps(facts))


@pytest.fixture
def ask() -> Callable[..., Result]:
    """Run the command with variables and arguments."""

    def run(*arguments: str | Path, **variables: str) -> Result:
        return CliRunner().invoke(told, [str(argument) for argument in arguments], env=variables)

    return run


def facts(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.output)
    return found


def test_options_alone_name_a_key_store(ask: Callable[..., Result], tmp_path: Path) -> None:
    file = tmp_path / "kms-console.json"
    write_private(file, console_json("/eu", CREDENTIAL).encode())

    found = facts(
        ask(
            *("--endpoint", "https://xks.example.com", "--path", "/eu/kms/xks/v1", "--credential-file", file),
            *("--region", "eu-west-1", "--ca", "ca.pem", "--client-certificate", "c.pem", "--client-key", "k.pem"),
            *("--more", "of its own"),
        )
    )

    assert found == {
        "host": "xks.example.com",
        "port": 443,
        "prefix": "/eu",
        "region": "eu-west-1",
        "access_key_id": CREDENTIAL.access_key_id,
        "secret": CREDENTIAL.secret_access_key,
        "ca": "ca.pem",
        "client": ["c.pem", "k.pem"],
        "more": "of its own",
    }


def test_the_variables_of_client_env_serve_where_no_option_is_given(
    ask: Callable[..., Result], environment: DevEnvironment
) -> None:
    lines = environment.client_env.read_text().splitlines()
    variables = dict(shlex.split(line)[1].split("=", 1) for line in lines)

    found = facts(ask(**variables))

    assert (found["host"], found["port"], found["prefix"]) == ("localhost", environment.port, "/dev")
    assert (found["region"], found["ca"]) == ("us-east-1", str(environment.authority))
    assert found["access_key_id"] == variables["SIGV4_ACCESS_KEY_ID"]


def test_an_option_wins_over_a_variable(ask: Callable[..., Result]) -> None:
    variables = VARIABLES | {"REGION": "eu-west-1", "SECURE": "--cacert other.pem"}
    options = ("--endpoint", "https://a.example", "--path", "/kms/xks/v1", "--region", "us-west-2", "--ca", "ca.pem")

    found = facts(ask(*options, **variables))

    assert (found["host"], found["prefix"], found["region"]) == ("a.example", "", "us-west-2")
    assert found["ca"] == "ca.pem"


def test_an_empty_prefix_is_the_base_itself(ask: Callable[..., Result]) -> None:
    assert facts(ask(**VARIABLES | {"URI_PREFIX": ""}))["prefix"] == ""
    assert facts(ask(**VARIABLES | {"URI_PREFIX": "/a/b/"}))["prefix"] == "/a/b"


@pytest.mark.parametrize(
    ("missing", "complaint"),
    [
        ("XKS_PROXY_HOST", "the proxy is not known: give --endpoint, or source client.env"),
        ("URI_PREFIX", "the path is not known: give --path, or source client.env"),
        ("SIGV4_ACCESS_KEY_ID", "the credential is not known: give --credential-file, or source client.env"),
        ("SIGV4_SECRET_ACCESS_KEY", "the credential is not known: give --credential-file, or source client.env"),
    ],
)
def test_what_is_missing_is_named(ask: Callable[..., Result], missing: str, complaint: str) -> None:
    result = ask(**{name: value for name, value in VARIABLES.items() if name != missing})

    assert result.exit_code == 2
    assert complaint in result.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--endpoint", "localhost"), "'localhost' is not an endpoint"),
        (("--path", "/kms"), "'/kms' is not the path of a key store"),
        (("--region", "EU West"), "'EU West': it is not a Region; expected the form of eu-west-1"),
        (("--region", "EU-WEST-1"), "--region 'EU-WEST-1': it has capital letters; write \"eu-west-1\""),
        (
            ("--endpoint", "http://localhost/dev"),
            'expected https://host or https://host:port; write "https://localhost"',
        ),
        (("--path", "https://xks.example.com/dev"), 'write "/dev/kms/xks/v1"'),
        (("--credential-file", "absent.json"), "absent.json"),
    ],
)
def test_what_is_wrong_is_named(ask: Callable[..., Result], arguments: tuple[str, ...], complaint: str) -> None:
    result = ask(*arguments, **VARIABLES)

    assert result.exit_code == 2
    assert complaint in result.output
    assert CREDENTIAL.secret_access_key not in result.output
