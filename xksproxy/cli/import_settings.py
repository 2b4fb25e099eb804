"""``xksproxy import-settings``: makes a configuration from the settings of AWS's sample proxy."""

import os
import shlex
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from xksproxy.cli.config_check import problems_of
from xksproxy.cli.output import COULD_NOT_RUN, FOUND_SOMETHING_WRONG, print_document, print_error, print_json
from xksproxy.config.errors import ConfigError
from xksproxy.config.load import load_config
from xksproxy.importing.findings import Finding, Severity, to_do
from xksproxy.importing.plan import Plan, make_plan
from xksproxy.importing.settings import SettingsError, read_settings
from xksproxy.importing.write import CONFIG_FILE, write_plan

_HEADINGS: Final = {
    Severity.TO_DO: "To do before it serves",
    Severity.DIFFERENT: "Different here",
    Severity.NO_COUNTERPART: "No counterpart",
}
_WIDTH: Final = 110


@dataclass(frozen=True, slots=True)
class _ImportResult:
    """The files that were written, and the findings."""

    directory: Path
    base: Path
    files: tuple[str, ...]
    keystores: tuple[str, ...]
    findings: tuple[Finding, ...]


def _text(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse text that a configuration file cannot contain."""
    if value is None:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("it is not UTF-8 text") from None
    if not value or "\0" in value:
        raise click.BadParameter("it is empty or contains a NUL character")
    return value


@click.command("import-settings")
@click.argument("settings_file", metavar="SETTINGS.toml", callback=_text)
@click.option(
    "--out", metavar="DIRECTORY", required=True, callback=_text, help="The output directory. It must be new or empty."
)
@click.option("--token", metavar="LABEL", callback=_text, help="The label of the token that the sample proxy used.")
@click.option(
    "--base",
    metavar="DIR",
    callback=_text,
    help="The directory in which the sample proxy was started. Relative paths are relative to it.  [default: the"
    " directory of SETTINGS.toml, or its parent if its name is configuration]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def import_settings(settings_file: str, out: str, token: str | None, base: str | None, *, as_json: bool) -> None:
    """Convert the settings of AWS's sample proxy (aws-kms-xks-proxy) to a configuration directory of this proxy.

    The command writes xksproxy.toml, the PIN and the credentials, readable by their owner only. It writes all files or
    none. It reports what you must do, what is different and what has no counterpart. Certificates and their keys are
    not moved. The HSM is not used. Exit code 1 if you must do something before the proxy can serve.

    \b
    Example:
      xksproxy import-settings configuration/settings.toml --token production --out /etc/xksproxy
    """
    directory = _absolute(out)
    started_in = _absolute(base) if base else _default_base(_absolute(settings_file))
    try:
        plan = make_plan(read_settings(Path(settings_file)), started_in, token)
    except SettingsError as error:
        print_error("the settings cannot be imported:", *error.problems)
        sys.exit(COULD_NOT_RUN)
    files = write_plan(plan, directory)
    findings = (*plan.findings, *_check_findings(plan, directory))
    keystores = tuple(store.name for store in plan.config.keystore)
    result = _ImportResult(directory, started_in, files, keystores, findings)
    if as_json:
        print_json(_document(result))
    else:
        print_document("".join(f"{line}\n" for line in _summary(result)))
    if any(finding.severity is Severity.TO_DO for finding in findings):
        sys.exit(FOUND_SOMETHING_WRONG)


def _absolute(path: str) -> Path:
    """The absolute path without ``.`` and ``..``. Symbolic links are not resolved."""
    return Path(os.path.normpath(Path(path).absolute()))


def _default_base(settings_file: Path) -> Path:
    """The sample proxy is started in the parent of its directory ``configuration``."""
    directory = settings_file.parent
    return directory.parent if directory.name == "configuration" else directory


def _check_findings(plan: Plan, directory: Path) -> Iterator[Finding]:
    """The problems that ``check-config`` reports, without those that the plan already has."""
    path = directory / CONFIG_FILE
    try:
        problems = problems_of(path, load_config(path), "readable here")
    except ConfigError as error:
        problems = list(error.problems)
    reported = [finding.place for finding in plan.findings if finding.severity is Severity.TO_DO]
    for problem in problems:
        place, _, text = problem.removeprefix(f"{path}: ").partition(": ")
        # Whether the state directory is writable depends on the user of the proxy, who may not be this user.
        if not place.startswith("state.") and not any(f"{place}.".startswith(f"{other}.") for other in reported):
            yield to_do("check-config", f"{text} ({place})", place)


def _document(result: _ImportResult) -> dict[str, Any]:
    return {
        "directory": str(result.directory),
        "base": str(result.base),
        "files": result.files,
        "keystores": result.keystores,
        "findings": [
            {
                "severity": finding.severity.value,
                "setting": finding.setting,
                "place": finding.place or None,
                "text": finding.text,
            }
            for finding in result.findings
        ],
        "next": _next_commands(result),
    }


def _summary(result: _ImportResult) -> Iterator[str]:
    yield f"wrote {result.directory}"
    yield from (f"  {file}" for file in result.files)
    yield f"relative paths of the settings were taken from {result.base} (--base)"
    for severity, heading in _HEADINGS.items():
        chosen = [finding for finding in result.findings if finding.severity is severity]
        if chosen:
            yield f"\n{heading}:"
            yield from (_bullet(finding) for finding in chosen)
    yield "\nNext, as the user of the proxy, who needs read access to this directory and write access to [state]:"
    yield from (f"  {command}" for command in _next_commands(result))
    yield "\nThe settings file still contains the PIN and the secret access keys."


def _bullet(finding: Finding) -> str:
    text = f"{finding.setting}: {finding.text}"
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent="  - ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _next_commands(result: _ImportResult) -> list[str]:
    config = shlex.quote(str(result.directory / CONFIG_FILE))
    lists = [f"xksproxy keys list --config {config} --keystore {name}" for name in result.keystores]
    return [f"xksproxy check-config --config {config}", *lists, f"xksproxy serve --config {config}"]
