"""``xksproxy kms-emulator diagnose``: checks a proxy as AWS KMS does."""

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from xksproxy.cli.output import COULD_NOT_RUN, FOUND_SOMETHING_WRONG, print_error, print_json, print_line
from xksproxy.cli.table import print_table
from xksproxy.cli.target_options import target_options
from xksproxy.client.target import Target, TargetError
from xksproxy.spec.limits import KMS_TIMEOUT_MS
from xksproxy.spec.uri import is_key_id
from xksproxy_tools.cli.resolve_option import resolve_option
from xksproxy_tools.kms_emulator.diagnose.diagnosis import Diagnosis, Result
from xksproxy_tools.kms_emulator.diagnose.run import diagnose as run_diagnosis
from xksproxy_tools.kms_emulator.proxy.connection import Peer


def _checked_key(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not is_key_id(value):
        raise click.BadParameter("an external key id has 1 to 128 characters of A-Z a-z 0-9 . _ -")
    return value


@click.command()
@target_options
@resolve_option
@click.option("--key", "key_id", callback=_checked_key, help="Check this external key too; it encrypts once.")
@click.option(
    "--time-limit-ms",
    type=click.IntRange(min=1, max=60_000),
    default=KMS_TIMEOUT_MS,
    show_default=True,
    help="Time limit of a call; the default is that of KMS.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def diagnose(
    *, target: Target, rules: Mapping[Peer, Peer], key_id: str | None, time_limit_ms: int, as_json: bool
) -> None:
    """Report what AWS KMS would answer for a proxy, and what to do. It works with any XKS proxy.

    It makes the steps that KMS makes: the form of the endpoint, name, TCP, TLS, and a signed GetHealthStatus. If a step
    fails, it reports the exception of CreateCustomKeyStore and the ConnectionErrorCode, and the exit code is 1.
    Warnings do not change the exit code. The list of public CAs that KMS trusts is not known here: the CAs of the
    system are trusted, or those of --ca.

    Run it on a machine in or near the Region of KMS: it measures latency and firewalls of this machine.

    The first example takes all values from client.env.

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
        print_json(_as_dict(diagnosis))
    else:
        _print_diagnosis(diagnosis)
    if not diagnosis.good:
        sys.exit(FOUND_SOMETHING_WRONG)


def _as_dict(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "ok": diagnosis.good,
        "connection_error_code": diagnosis.connection_error_code,
        "refusals": [asdict(refusal) for refusal in diagnosis.refusals],
        "steps": [
            {"name": step.name, "result": step.result.value.lower(), "seen": step.seen, "advice": step.advice}
            for step in diagnosis.steps
        ],
    }


def _print_diagnosis(diagnosis: Diagnosis) -> None:
    rows: list[tuple[str, ...]] = [(step.name, step.result.value, _printable(step.seen)) for step in diagnosis.steps]
    print_table(("STEP", "RESULT", "SEEN"), rows)
    print_line()
    if diagnosis.good:
        print_line("AWS KMS would create and connect this key store")
    for refusal in diagnosis.refusals:
        message = f": {_printable(refusal.message)}" if refusal.message else ""
        print_line(f"{refusal.operation}: {refusal.answer}{message}")
    for step in diagnosis.steps:
        if step.advice:
            word = "fix" if step.result is Result.WRONG else "advice"
            print_line(f"{word} ({step.name}): {step.advice}")


def _printable(text: str) -> str:
    """The text without control characters: parts of it come from the proxy."""
    return "".join(character if character.isprintable() else "?" for character in text)
