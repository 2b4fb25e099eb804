"""``xksproxy kms-emulator diagnose``: what AWS KMS would say of a proxy."""

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from xksproxy.cli.output import COULD_NOT_RUN, FOUND_SOMETHING_WRONG, print_error, print_json, print_line, print_table
from xksproxy.cli.target_options import target_options
from xksproxy.client.target import Target, TargetError
from xksproxy.spec.limits import KMS_TIMEOUT_MS
from xksproxy.spec.uri import is_key_id
from xksproxy_tools.cli.resolve_option import resolve_option
from xksproxy_tools.kms_emulator.diagnose.findings import Diagnosis, Result
from xksproxy_tools.kms_emulator.diagnose.run import diagnose as run_diagnosis
from xksproxy_tools.kms_emulator.proxy.connection import Peer


def _checked_key(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not is_key_id(value):
        raise click.BadParameter("an external key id has 1 to 128 characters of A-Z a-z 0-9 . _ -")
    return value


@click.command()
@target_options
@resolve_option
@click.option("--key", "key_id", callback=_checked_key, help="Look at this external key too; it encrypts once.")
@click.option(
    "--time-limit-ms",
    type=click.IntRange(min=1, max=60_000),
    default=KMS_TIMEOUT_MS,
    show_default=True,
    help="How long one call may take; the default is what KMS waits.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diagnose(
    *, target: Target, rules: Mapping[Peer, Peer], key_id: str | None, time_limit_ms: int, as_json: bool
) -> None:
    """Say what AWS KMS would make of a proxy, and what to do about it: any proxy that implements the XKS API.

    It goes the way that KMS goes, from the form of the endpoint over name, TCP and TLS to a signed GetHealthStatus, and
    names the exception of CreateCustomKeyStore and the ConnectionErrorCode where one of the steps fails. Exit code 1 if
    one does; warnings leave it at 0. KMS trusts a list of public CAs, which are not known here: the system's are
    trusted, or those of --ca.

    Run it from where KMS comes from, or close to it: latency and firewalls are those of this machine.

    The first example takes all it needs from client.env.

    \b
    Example:
      xksproxy kms-emulator diagnose --json
      xksproxy kms-emulator diagnose --endpoint https://xks.example.com --path /kms/xks/v1 --credential-file kms.json
      xksproxy kms-emulator diagnose --endpoint https://xks.example.com --resolve xks.example.com:443=127.0.0.1:8443
    """
    try:
        diagnosis = asyncio.run(run_diagnosis(target, rules, key_id=key_id, time_limit=time_limit_ms / 1000))
    except TargetError as error:
        print_error(str(error))
        sys.exit(COULD_NOT_RUN)
    if as_json:
        print_json(_facts(diagnosis))
    else:
        _tell(diagnosis)
    if not diagnosis.good:
        sys.exit(FOUND_SOMETHING_WRONG)


def _facts(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "ok": diagnosis.good,
        "connection_error_code": diagnosis.connection_error_code,
        "refusals": [asdict(refusal) for refusal in diagnosis.refusals],
        "steps": [
            {"name": step.name, "result": step.result.value.lower(), "seen": step.seen, "advice": step.advice}
            for step in diagnosis.steps
        ],
    }


def _tell(diagnosis: Diagnosis) -> None:
    rows: list[tuple[str, ...]] = [(step.name, step.result.value, _printable(step.seen)) for step in diagnosis.steps]
    print_table(("STEP", "RESULT", "SEEN"), rows)
    print_line()
    if diagnosis.good:
        print_line("AWS KMS would create this key store, and connect it")
    for refusal in diagnosis.refusals:
        message = f": {_printable(refusal.message)}" if refusal.message else ""
        print_line(f"{refusal.operation}: {refusal.answer}{message}")
    for step in diagnosis.steps:
        if step.advice:
            word = "fix" if step.result is Result.WRONG else "advice"
            print_line(f"{word} ({step.name}): {step.advice}")


def _printable(text: str) -> str:
    """Without what moves a terminal's cursor: part of the text is the proxy's."""
    return "".join(character if character.isprintable() else "?" for character in text)
