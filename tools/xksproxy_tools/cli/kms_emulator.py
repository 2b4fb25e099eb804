"""``xksproxy kms-emulator``: AWS KMS on this machine, for tests and for learning."""

import asyncio
import ipaddress
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import click

from xksproxy.cli.output import COULD_NOT_RUN, print_document, print_error
from xksproxy.client.target import TargetError
from xksproxy.spec.limits import KMS_TIMEOUT_MS
from xksproxy.telemetry.logs import ConsoleFormatter
from xksproxy_tools.cli.kms_emulator_diagnose import diagnose
from xksproxy_tools.cli.resolve_option import resolve_option
from xksproxy_tools.kms_emulator import serve as emulator
from xksproxy_tools.kms_emulator.cloudhsm import parse_cluster
from xksproxy_tools.kms_emulator.durations import AWS_DURATIONS, NO_DURATIONS
from xksproxy_tools.kms_emulator.protocol.caller import parse_caller
from xksproxy_tools.kms_emulator.proxy.connection import Peer
from xksproxy_tools.kms_emulator.state.database import StateFileUnusable

_LISTEN: Final = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:]+)\]|(?P<host>[^:\[\]]+)):(?P<port>[0-9]{1,5})")
_REGION: Final = re.compile(r"[a-z]{2}(?:-[a-z]+)+-[0-9]{1,2}")
_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_MAXIMUM_PORT: Final = 65535

Parsed = TypeVar("Parsed")

_EMULATOR_OPTIONS: Final[tuple[Callable[..., Any], ...]] = (
    click.option(
        "--listen", default="127.0.0.1:4599", show_default=True, help="Address and port; port 0 means any free port."
    ),
    click.option(
        "--allow-remote",
        is_flag=True,
        help="Allow an address that other machines can reach. Callers are not authenticated.",
    ),
    click.option(
        "--state",
        type=click.Path(path_type=Path, dir_okay=False),
        default=".xksproxy-kms-emulator.sqlite3",
        show_default=True,
        help="SQLite file for key stores, keys and key material; created if missing.",
    ),
    click.option("--region", default="eu-west-1", show_default=True, help="The Region."),
    click.option("--account", default="111122223333", show_default=True, help="The account of all access key ids."),
    click.option(
        "--caller",
        "callers",
        multiple=True,
        metavar="ACCESS_KEY_ID=ARN[,…]",
        help="The principal of an access key id; ,viaService= ,sourceVpc= ,sourceVpce= set the origin of its requests. "
        "Can be repeated.",
    ),
    resolve_option,
    click.option(
        "--ca",
        type=click.Path(path_type=Path, dir_okay=False),
        help="PEM file of the CAs of proxies' certificates.  [default: the CAs of the system]",
    ),
    click.option(
        "--client-certificate",
        type=click.Path(path_type=Path, dir_okay=False),
        help="PEM file of the client certificate for mutual TLS.",
    ),
    click.option(
        "--client-key",
        type=click.Path(path_type=Path, dir_okay=False),
        help="PEM file of its private key, if that is not in the same file.",
    ),
    click.option("--fast", is_flag=True, help="Connect and disconnect without the delay of five minutes."),
    click.option(
        "--cluster",
        "clusters",
        multiple=True,
        metavar="ID=MODULE:TOKEN",
        help="A PKCS#11 token that represents an AWS CloudHSM cluster. Can be repeated.",
    ),
    click.option(
        "--vpc-endpoint-service",
        "vpc_services",
        multiple=True,
        metavar="NAME",
        help="A VPC endpoint service that exists. Can be repeated.  [default: every well-formed name]",
    ),
    click.option(
        "--requests-per-second",
        type=click.IntRange(min=1),
        default=1800,
        show_default=True,
        help="The quota of a key store.",
    ),
    click.option(
        "--time-limit-ms",
        type=click.IntRange(min=1, max=60_000),
        default=KMS_TIMEOUT_MS,
        show_default=True,
        help="Time limit of a call to a proxy; the default is that of KMS.",
    ),
)


def _emulator_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_EMULATOR_OPTIONS):
        function = option(function)
    return function


@click.group(invoke_without_command=True, subcommand_metavar="[COMMAND]")
@_emulator_options
@click.pass_context
def kms_emulator(context: click.Context, /, **options: Any) -> None:
    """Emulate AWS KMS on this machine, for tests and for learning. Do not use it for valuable data.

    It serves any AWS SDK and the AWS CLI, and calls XKS proxies as KMS does. The endpoint of a key store must have the
    form that KMS demands, https:// and a name; --resolve sets its address. Signatures of callers are not verified;
    policies and grants are not evaluated.

    \b
    Example:
      xksproxy kms-emulator --fast --ca .xksproxy-dev/tls/ca.pem --resolve localhost:443=127.0.0.1:8443
    """
    if context.invoked_subcommand is None:
        _run(**options)


def _run(*, listen: str, allow_remote: bool, **options: Any) -> None:
    host, port = _listen_address(listen, allow_remote=allow_remote)
    settings = _settings(emulator.Settings, host=host, port=port, **options)
    handler = logging.StreamHandler()
    handler.setFormatter(ConsoleFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    try:
        asyncio.run(emulator.serve(settings, lambda url: print_document(f"{_introduction(url, **options)}\n")))
    except (StateFileUnusable, TargetError, emulator.CannotListen, emulator.ModelUnusable) as error:
        _exit_with_error(str(error))


def _settings(
    kind: Callable[..., Any],
    *,
    rules: dict[Peer, Peer],
    callers: tuple[str, ...],
    clusters: tuple[str, ...],
    **options: Any,
) -> Any:
    """The settings of an emulator, after a check of the options."""
    if not _REGION.fullmatch(options["region"]):
        raise click.UsageError(f"--region {options['region']}: a Region has the form of eu-west-1")
    if not _ACCOUNT.fullmatch(options["account"]):
        raise click.UsageError(f"--account {options['account']}: an account has twelve digits")
    fast, vpc_services = options.pop("fast"), frozenset(options.pop("vpc_services"))
    return kind(
        **options,
        resolve=rules,
        durations=NO_DURATIONS if fast else AWS_DURATIONS,
        vpc_services=vpc_services,
        callers=dict(_parsed("--caller", text, parse_caller) for text in callers),
        clusters=dict(_parsed("--cluster", text, parse_cluster) for text in clusters),
    )


def _parsed(option: str, text: str, parse: Callable[[str], Parsed]) -> Parsed:
    try:
        return parse(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None


def _listen_address(listen: str, *, allow_remote: bool) -> tuple[str, int]:
    match = _LISTEN.fullmatch(listen)
    if match is None or int(match["port"]) > _MAXIMUM_PORT:
        raise click.UsageError(f"--listen {listen}: expected ADDRESS:PORT, such as 127.0.0.1:4599")
    host = match["ipv6"] or match["host"]
    if not allow_remote and not _is_loopback(host):
        raise click.UsageError(f"--listen {listen}: other machines could use it; add --allow-remote to permit that")
    return host, int(match["port"])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _introduction(url: str, *, region: str, account: str, state: Path, **_: Any) -> str:
    """Commands to paste into another terminal."""
    return f"""\
xksproxy kms-emulator: KMS of {region}, account {account}, for tests and for learning
  state in {state}
  serving on {url} (Ctrl-C ends it)

In another terminal, with AWS CLI 2.13.0 or 1.29.0 or newer (an older one ignores the first line, and calls AWS itself):

  export AWS_ENDPOINT_URL_KMS={url}
  export AWS_DEFAULT_REGION={region} AWS_REGION={region}
  export AWS_ACCESS_KEY_ID=emulator AWS_SECRET_ACCESS_KEY=not-verified
  aws kms describe-custom-key-stores
"""


def _exit_with_error(what: str, *more: str) -> NoReturn:
    print_error(what, *more)
    sys.exit(COULD_NOT_RUN)


kms_emulator.add_command(diagnose)
