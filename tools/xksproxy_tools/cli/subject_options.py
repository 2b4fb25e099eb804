"""Options of the conformance suite: keys, credentials and commands that checks may use."""

import shlex
from collections.abc import Callable
from dataclasses import fields, replace
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click

from xksproxy.cli.target_options import target_options
from xksproxy.client.target import Target, TargetError, parse_uri_path, read_credential
from xksproxy.spec.uri import BASE_PATH
from xksproxy_tools.conformance.subject import ABSENT_KEY_ID, Keys, Outage, Subject

_FILE: Final = click.Path(path_type=Path, dir_okay=False, exists=True)
_OPTIONS: Final = (
    click.option(
        "--key", "usable", envvar="KEY_ID", show_envvar=True, required=True, help="A key that encrypts and decrypts."
    ),
    click.option("--encrypt-only-key", "encrypt_only", envvar="ENCRYPT_ONLY_KEY_ID", show_envvar=True),
    click.option("--decrypt-only-key", "decrypt_only", envvar="DECRYPT_ONLY_KEY_ID", show_envvar=True),
    click.option(
        "--impotent-key",
        "impotent",
        envvar="IMPOTENT_KEY_ID",
        show_envvar=True,
        help="A key that neither encrypts nor decrypts.",
    ),
    click.option("--disabled-key", "disabled"),
    click.option("--absent-key", "absent", default=ABSENT_KEY_ID, show_default=True, help="An id without a key."),
    click.option("--second-credential-file", type=_FILE, help="Another credential of the same key store."),
    click.option("--other-path", help=f"[/<prefix>]{BASE_PATH} of another key store of the proxy."),
    click.option("--other-credential-file", type=_FILE, help="A credential of that key store."),
    click.option(
        "--wrong-client-certificate", type=_FILE, help="A client certificate with a name that the proxy must refuse."
    ),
    click.option("--wrong-client-key", type=_FILE, help="Its private key, if that is not in the same file."),
    click.option("--outage-command", help="A command that makes an HSM unavailable to the proxy."),
    click.option("--recovery-command", help="A command that makes it available again."),
)


def subject_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options for a proxy and its keys to a command, which gets them as ``subject``."""

    @wraps(function)
    def command(
        *,
        target: Target,
        second_credential_file: Path | None,
        other_path: str | None,
        other_credential_file: Path | None,
        wrong_client_certificate: Path | None,
        wrong_client_key: Path | None,
        outage_command: str | None,
        recovery_command: str | None,
        **others: Any,
    ) -> Any:
        keys = Keys(**{field.name: others.pop(field.name) for field in fields(Keys)})
        try:
            subject = Subject(
                target,
                keys,
                second_credential=read_credential(second_credential_file) if second_credential_file else None,
                other_store=_other_store(target, other_path, other_credential_file),
                wrong_client=(wrong_client_certificate, wrong_client_key) if wrong_client_certificate else None,
                outage=_outage(outage_command, recovery_command),
            )
        except TargetError as error:
            raise click.UsageError(str(error)) from None
        return function(subject=subject, **others)

    decorated: Callable[..., Any] = command
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return target_options(decorated)


def _other_store(target: Target, path: str | None, credential_file: Path | None) -> Target | None:
    if path is None and credential_file is None:
        return None
    if path is None or credential_file is None:
        raise click.UsageError("--other-path and --other-credential-file must be used together")
    return replace(target, path_prefix=parse_uri_path(path), credential=read_credential(credential_file))


def _outage(begin: str | None, end: str | None) -> Outage | None:
    if begin is None and end is None:
        return None
    try:
        commands = tuple(shlex.split(begin or "")), tuple(shlex.split(end or ""))
    except ValueError as error:
        raise click.UsageError(f"a command cannot be read: {error}") from None
    if not all(commands):
        raise click.UsageError("--outage-command and --recovery-command must be used together")
    return Outage(*commands)
