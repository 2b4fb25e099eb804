"""``xksproxy check-config``."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import click

from xksproxy.cli.config_check import policy_warnings, problems_of, state_warnings, witness_warnings
from xksproxy.cli.config_option import config_option, load_as_owner
from xksproxy.cli.live_check import HsmResult, KeyResult, check_live
from xksproxy.cli.output import (
    COULD_NOT_RUN,
    FOUND_SOMETHING_WRONG,
    print_error,
    print_json,
    print_line,
    print_progress,
)
from xksproxy.cli.privilege import denied_hint
from xksproxy.cli.table import print_table
from xksproxy.config.check import listeners_of, secrets_of_service
from xksproxy.config.errors import ConfigError, ConfigUnreadable
from xksproxy.config.inspection import inspect_config
from xksproxy.config.listener_checks import trial_findings
from xksproxy.config.model import Config
from xksproxy.server.followers import proxies_of
from xksproxy.server.tls import verification_findings
from xksproxy.state.state_file import StateUnusable

_COLUMNS = ("KEY STORE", "EXTERNAL KEY ID", "VERSION", "ROLE", "LABEL", "SPEC", "USAGE", "RESULT")


@click.command("check-config")
@config_option
@click.option("--live", is_flag=True, help="Also log in to each HSM and check its keys.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check_config(config_file: Path, *, live: bool, as_json: bool) -> None:
    """Check a configuration and report all problems at once.

    It runs as the owner of the state directory, because it checks what this user can read. A problem is everything
    that `serve` would refuse, and also, for example, a certificate that has expired or that KMS cannot use. Warnings,
    for example of policies that can never match, do not change the exit code 0. A systemd credential can be read only
    by the service, so elsewhere a warning says that it was not checked.

    --live logs in to each HSM once, but not with a PIN that was refused before. Each HSM encrypts and decrypts with a
    session key, and every version of every key is checked. An HSM that hangs is given up after connect_timeout_s.

    \b
    Example:
      xksproxy check-config --config /etc/xksproxy/xksproxy.toml
      xksproxy check-config --live
    """
    try:
        config = load_as_owner(config_file)
    except ConfigError as error:
        code = COULD_NOT_RUN if isinstance(error, ConfigUnreadable) else FOUND_SOMETHING_WRONG
        _refuse(list(error.problems), [], code, as_json=as_json)
    refusals = problems_of(config_file, config, "readable here")
    findings = inspect_config(config)
    if not any(refusal.startswith("server.tls") for refusal in refusals):
        findings += verification_findings(config.server.tls)
    if not any(".listen: " in refusal for refusal in refusals):
        findings += trial_findings(listeners_of(config), starting=False, running=_is_running(config))
    problems = [*refusals, *(finding.text for finding in findings if finding.serious)]
    problems = [f"{config_file}: {problem}" for problem in problems]
    warnings = [f"{config_file}: {finding.text}" for finding in findings if not finding.serious]
    warnings += [f"{config_file}: {secret}" for secret in secrets_of_service(config)]
    if problems:
        _refuse(problems, warnings, FOUND_SOMETHING_WRONG, as_json=as_json)
    more = (*policy_warnings(config), *witness_warnings(config), *state_warnings(config))
    warnings += [f"{config_file}: {warning}" for warning in more]
    results = check_live(config, print_progress) if live else None
    ok = results is None or all(result.ok for result in results)
    if as_json:
        print_json(_document(config, warnings, results, ok=ok))
    else:
        _print_warnings(warnings)
        _print_results(config_file, config, results, ok=ok)
    if not ok:
        sys.exit(FOUND_SOMETHING_WRONG)


def _is_running(config: Config) -> bool:
    """Whether a proxy runs with the state directory; also if that cannot be known."""
    try:
        return bool(proxies_of(Path(config.state.directory)))
    except StateUnusable:
        return True


def _refuse(problems: list[str], warnings: list[str], code: int, *, as_json: bool) -> NoReturn:
    if as_json:
        print_json({"ok": False, "problems": problems, "warnings": warnings})
    else:
        print_error("the configuration cannot be used:", *problems, *denied_hint(problems))
        _print_warnings(warnings)
    sys.exit(code)


def _print_warnings(warnings: list[str]) -> None:
    for warning in warnings:
        print_error(f"warning: {warning}")


def _document(config: Config, warnings: list[str], results: list[HsmResult] | None, *, ok: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "ok": ok,
        "listen": config.server.listen,
        "keystores": [store.name for store in config.keystore],
        "hsms": [hsm.id for hsm in config.hsm],
        "warnings": warnings,
    }
    return document if results is None else {**document, "live": [asdict(result) for result in results]}


def _print_results(config_file: Path, config: Config, results: list[HsmResult] | None, *, ok: bool) -> None:
    stores = ", ".join(store.name for store in config.keystore)
    hsms = ", ".join(hsm.id for hsm in config.hsm)
    live = "the HSMs were not checked, use --live for that" if results is None else "the HSMs and their keys are ok"
    if ok:
        print_line(f"{config_file}: ok; {live}")
        print_line(f"  listens on {config.server.listen}; key stores: {stores}; HSMs: {hsms}")
    for result in results or ():
        print_line()
        _print_hsm(result)
    if not ok:
        print_error("there are problems with the HSMs or their keys; see WRONG above")


def _print_hsm(result: HsmResult) -> None:
    if result.failure:
        print_line(f"{result.id}, token {result.token}: WRONG: {result.failure}")
        return
    print_line(f"{result.id}, token {result.token}: {result.device}")
    print_line("log-in, self-test and settings are ok")
    for warning in result.warnings:
        print_line(f"warning: {warning}")
    print_table(_COLUMNS, [_cells(key) for key in result.keys])


def _cells(key: KeyResult) -> tuple[str, ...]:
    findings = [*key.problems, *(f"warning: {warning}" for warning in key.warnings)]
    result = ("WRONG: " if key.problems else "") + "; ".join(findings)
    usages = ", ".join(key.usages) or "none"
    return (key.keystore, key.id, str(key.version), key.role, key.label, key.spec or "-", usages, result or "ok")
