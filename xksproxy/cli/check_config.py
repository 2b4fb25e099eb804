"""``xksproxy check-config``."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import click

from xksproxy.cli.config_option import config_option, policy_warnings, problems_of
from xksproxy.cli.live_check import HsmResult, KeyResult, check_live
from xksproxy.cli.output import COULD_NOT_RUN, FOUND_SOMETHING_WRONG, print_error, print_json, print_table
from xksproxy.config.errors import ConfigError, ConfigUnreadable
from xksproxy.config.inspection import inspect_config
from xksproxy.config.load import load_config
from xksproxy.config.model import Config

_COLUMNS = ("KEY STORE", "EXTERNAL KEY ID", "VERSION", "ROLE", "LABEL", "SPEC", "USAGE", "RESULT")


@click.command("check-config")
@config_option
@click.option("--live", is_flag=True, help="Log in to each HSM and look at its keys too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_config(config_file: Path, *, live: bool, as_json: bool) -> None:
    """Check a configuration, and look for what will fail later: all that is wrong at once.

    Run it as the user that the proxy runs as, since it looks at what that user can read. What `serve` would refuse is a
    problem, and so are, for instance, certificates that have expired or that KMS cannot use. Warnings leave the exit
    code at 0.

    --live makes one log-in to each HSM, never one with a PIN that was refused before; the HSM encrypts and decrypts
    under a session key, and every version of every key is looked at.

    Policies that can never match are warnings: they do not change the exit code.

    \b
    Example:
      xksproxy check-config --config /etc/xksproxy/xksproxy.toml
      xksproxy check-config --live
    """
    try:
        config = load_config(config_file)
    except ConfigError as error:
        code = COULD_NOT_RUN if isinstance(error, ConfigUnreadable) else FOUND_SOMETHING_WRONG
        _refuse(list(error.problems), [], code, as_json=as_json)
    findings = inspect_config(config)
    problems = [*problems_of(config), *(finding.text for finding in findings if finding.serious)]
    problems = [f"{config_file}: {problem}" for problem in problems]
    warnings = [f"{config_file}: {finding.text}" for finding in findings if not finding.serious]
    if problems:
        _refuse(problems, warnings, FOUND_SOMETHING_WRONG, as_json=as_json)
    warnings += [f"{config_file}: {warning}" for warning in policy_warnings(config)]
    results = check_live(config) if live else None
    good = results is None or all(result.good for result in results)
    if as_json:
        print_json(_facts(config, warnings, results, good=good))
    else:
        _warn(warnings)
        _tell(config_file, config, results, good=good)
    if not good:
        sys.exit(FOUND_SOMETHING_WRONG)


def _refuse(problems: list[str], warnings: list[str], code: int, *, as_json: bool) -> NoReturn:
    if as_json:
        print_json({"ok": False, "problems": problems, "warnings": warnings})
    else:
        print_error("the configuration cannot be used:", *problems)
        _warn(warnings)
    sys.exit(code)


def _warn(warnings: list[str]) -> None:
    for warning in warnings:
        print_error(f"warning: {warning}")


def _facts(config: Config, warnings: list[str], results: list[HsmResult] | None, *, good: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "ok": good,
        "listen": config.server.listen,
        "keystores": [store.name for store in config.keystore],
        "hsms": [hsm.id for hsm in config.hsm],
        "warnings": warnings,
    }
    return facts if results is None else {**facts, "live": [asdict(result) for result in results]}


def _tell(config_file: Path, config: Config, results: list[HsmResult] | None, *, good: bool) -> None:
    stores = ", ".join(store.name for store in config.keystore)
    hsms = ", ".join(hsm.id for hsm in config.hsm)
    asked = "the HSM was not asked, --live does that" if results is None else "and so is what the HSMs say"
    if good:
        click.echo(f"{config_file}: ok; {asked}")
        click.echo(f"  listens on {config.server.listen}; key stores: {stores}; HSMs: {hsms}")
    for result in results or ():
        click.echo()
        _tell_of_hsm(result)
    if not good:
        print_error("something is wrong with the HSMs or their keys")


def _tell_of_hsm(result: HsmResult) -> None:
    if result.failure:
        click.echo(f"{result.id}, token {result.token}: WRONG: {result.failure}")
        return
    click.echo(f"{result.id}, token {result.token}: {result.device}")
    click.echo("logged in; its self-test passed, and its settings are proven")
    print_table(_COLUMNS, [_cells(key) for key in result.keys])


def _cells(key: KeyResult) -> tuple[str, ...]:
    said = [*key.problems, *(f"warning: {warning}" for warning in key.warnings)]
    words = ("WRONG: " if key.problems else "") + "; ".join(said)
    usages = ", ".join(key.usages) or "none"
    return (key.keystore, key.id, str(key.version), key.role, key.label, key.spec or "-", usages, words or "ok")
