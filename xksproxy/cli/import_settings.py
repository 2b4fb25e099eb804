"""``xksproxy import-settings``."""

import os
import shlex
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from xksproxy.cli.config_option import load_checked
from xksproxy.cli.output import COULD_NOT_RUN, FOUND_SOMETHING_WRONG, print_error, print_json
from xksproxy.config.errors import ConfigError
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
class _Done:
    """What was written, and what there is to know about it."""

    directory: Path
    base: Path
    files: tuple[str, ...]
    keystores: tuple[str, ...]
    findings: tuple[Finding, ...]


def _text(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse what no configuration file could hold."""
    if value is None:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        raise click.BadParameter("it is not UTF-8 text") from None
    if not value or "\0" in value:
        raise click.BadParameter("it is empty, or holds a NUL")
    return value


@click.command("import-settings")
@click.argument("settings_file", metavar="SETTINGS.toml", callback=_text)
@click.option("--out", metavar="DIRECTORY", required=True, callback=_text, help="Where to write; new, or empty.")
@click.option("--token", metavar="LABEL", callback=_text, help="The label of the token that the sample proxy used.")
@click.option(
    "--base",
    metavar="DIR",
    callback=_text,
    help="Where the sample proxy was started, which its relative paths count from.  [default: the directory of"
    " SETTINGS.toml, or the one above if that is called configuration]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def import_settings(settings_file: str, out: str, token: str | None, base: str | None, *, as_json: bool) -> None:
    """Turn the settings of AWS's sample proxy (aws-kms-xks-proxy) into a directory for this one.

    Writes xksproxy.toml, the PIN and the credentials, all private, whole or not at all; and says what is to be done,
    what is different here and what has no counterpart. Certificates and their keys stay where they are. The HSM is not
    asked. Exit code 1 if something must be done before it serves.

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
    findings = (*plan.findings, *_what_the_check_finds(plan, directory))
    done = _Done(directory, started_in, files, tuple(store.name for store in plan.config.keystore), findings)
    if as_json:
        print_json(_facts(done))
    else:
        click.echo("\n".join(_summary(done)))
    if any(finding.severity is Severity.TO_DO for finding in findings):
        sys.exit(FOUND_SOMETHING_WRONG)


def _absolute(path: str) -> Path:
    """Without its dots, and with its symbolic links."""
    return Path(os.path.normpath(Path(path).absolute()))


def _default_base(settings_file: Path) -> Path:
    """The sample is started beside its directory ``configuration``."""
    directory = settings_file.parent
    return directory.parent if directory.name == "configuration" else directory


def _what_the_check_finds(plan: Plan, directory: Path) -> Iterator[Finding]:
    """What ``check-config`` says, save for what the plan says already."""
    path = directory / CONFIG_FILE
    try:
        load_checked(path)
    except ConfigError as error:
        known = [finding.place for finding in plan.findings if finding.severity is Severity.TO_DO]
        for problem in error.problems:
            place, _, text = problem.removeprefix(f"{path}: ").partition(": ")
            # Where state can be written depends on who will run the proxy, not on who imports.
            if not place.startswith("state.") and not any(f"{place}.".startswith(f"{other}.") for other in known):
                yield to_do("check-config", f"{text} ({place})", place)


def _facts(done: _Done) -> dict[str, Any]:
    return {
        "directory": str(done.directory),
        "base": str(done.base),
        "files": done.files,
        "keystores": done.keystores,
        "findings": [
            {
                "severity": finding.severity.value,
                "setting": finding.setting,
                "place": finding.place or None,
                "text": finding.text,
            }
            for finding in done.findings
        ],
        "next": _next_commands(done),
    }


def _summary(done: _Done) -> Iterator[str]:
    yield f"wrote {done.directory}"
    yield from (f"  {file}" for file in done.files)
    yield f"relative paths of the settings were taken from {done.base} (--base)"
    for severity, heading in _HEADINGS.items():
        chosen = [finding for finding in done.findings if finding.severity is severity]
        if chosen:
            yield f"\n{heading}:"
            yield from (_bullet(finding) for finding in chosen)
    yield "\nNext, as the user that will serve, who must be able to read that directory and to write [state]:"
    yield from (f"  {command}" for command in _next_commands(done))
    yield "\nThe settings file still holds the PIN and the secret access keys."


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


def _next_commands(done: _Done) -> list[str]:
    config = shlex.quote(str(done.directory / CONFIG_FILE))
    lists = [f"xksproxy keys list --config {config} --keystore {name}" for name in done.keystores]
    return [f"xksproxy check-config --config {config}", *lists, f"xksproxy serve --config {config}"]
