"""Options that name the key store of a proxy, for commands that send requests to it."""

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click

from xksproxy.cli.pasted import region_problem
from xksproxy.client.target import Target, TargetError, parse_endpoint, parse_uri_path, read_credential
from xksproxy.sigv4.keyring import Credential
from xksproxy.spec.uri import BASE_PATH

_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_OPTIONS: Final = (
    click.option("--endpoint", help="https://host or https://host:port.  [env var: XKS_PROXY_HOST, as host:port]"),
    click.option("--path", "uri_path", help=f"[/<prefix>]{BASE_PATH}.  [env var: URI_PREFIX, the prefix alone]"),
    click.option(
        "--credential-file",
        type=_FILE,
        help="A credential's *.toml, or the JSON of `kms-config`."
        "  [env vars: SIGV4_ACCESS_KEY_ID, SIGV4_SECRET_ACCESS_KEY]",
    ),
    click.option("--region", envvar="REGION", show_envvar=True, default="us-east-1", show_default=True),
    click.option("--ca", help="PEM file of the CA to trust.  [env var: SECURE, as --cacert FILE]"),
    click.option("--client-certificate", type=_FILE, help="PEM file for mutual TLS."),
    click.option("--client-key", type=_FILE, help="Its private key, if it is in a separate file."),
)


def target_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that name a key store to a command. The command receives them as the argument ``target``.

    Environment variables, those of client.env, replace options that are not given.
    """

    @wraps(function)
    def command(
        *,
        endpoint: str | None,
        uri_path: str | None,
        credential_file: Path | None,
        region: str,
        ca: str | None,
        client_certificate: Path | None,
        client_key: Path | None,
        **others: Any,
    ) -> Any:
        try:
            host, port = parse_endpoint(endpoint or _endpoint_of_environment())
            target = Target(
                host,
                port,
                parse_uri_path(uri_path) if uri_path is not None else _prefix_of_environment(),
                _region(region),
                read_credential(credential_file) if credential_file else _credential_of_environment(),
                _authority(ca or os.environ.get("SECURE", "")),
                client_certificate,
                client_key,
            )
        except TargetError as error:
            raise click.UsageError(str(error)) from None
        return function(target=target, **others)

    decorated: Callable[..., Any] = command
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def _endpoint_of_environment() -> str:
    host = os.environ.get("XKS_PROXY_HOST")
    if not host:
        raise TargetError("the proxy is not known: give --endpoint, or source client.env")
    return f"https://{host}"


def _prefix_of_environment() -> str:
    prefix = os.environ.get("URI_PREFIX")
    if prefix is None:
        raise TargetError("the path is not known: give --path, or source client.env")
    stripped = prefix.strip("/")
    return parse_uri_path(f"/{stripped}{BASE_PATH}" if stripped else BASE_PATH)


def _credential_of_environment() -> Credential:
    access_key_id = os.environ.get("SIGV4_ACCESS_KEY_ID", "")
    secret = os.environ.get("SIGV4_SECRET_ACCESS_KEY", "")
    if not access_key_id or not secret:
        raise TargetError("the credential is not known: give --credential-file, or source client.env")
    return Credential(access_key_id, secret)


def _authority(ca: str) -> Path | None:
    path = ca.removeprefix("--cacert ")
    return Path(path) if path else None


def _region(region: str) -> str:
    if problem := region_problem(region):
        raise TargetError(f"--region {region!r}: {problem}")
    return region
