"""``xksproxy conformance``: whether a proxy keeps to the API."""

import json
import os
import ssl
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NoReturn

import click
from rich.console import Console

from xksproxy.cli.subject_options import subject_options
from xksproxy.cli.words import COULD_NOT_RUN, FOUND_SOMETHING_WRONG, complain, print_table
from xksproxy.prove.conformance.catalogue import CATALOGUE
from xksproxy.prove.conformance.check import Chapter
from xksproxy.prove.conformance.checks import CHAPTERS
from xksproxy.prove.conformance.html import html
from xksproxy.prove.conformance.junit import junit
from xksproxy.prove.conformance.live import watched
from xksproxy.prove.conformance.messages import bare
from xksproxy.prove.conformance.report import Report
from xksproxy.prove.conformance.runner import run_checks
from xksproxy.prove.conformance.selection import select
from xksproxy.prove.conformance.subject import Subject
from xksproxy.prove.conformance.text import print_report
from xksproxy.prove.conformance.wire import NotHttp
from xksproxy.spec.uri import BASE_PATH, Operation

Rows = list[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Output:
    """Where a document goes. What stands there is replaced once the document is whole."""

    path: Path
    standard: bool
    """Whether it is standard output, which then has nothing else."""

    def write(self, document: str) -> None:
        """Put the document in place."""
        if self.standard:
            click.echo(document, nl=False)
        else:
            self.path.write_text(document, "utf-8")


class _Output(click.Path):
    """Looked at before the run, so that a wrong name does not cost one."""

    name = "file"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        path = Path(os.fsdecode(super().convert(value, parameter, context)))
        standard = value == "-"
        if not standard and not path.exists() and not os.access(path.parent, os.W_OK):
            self.fail(f"no file can be made at {path}", parameter, context)
        return Output(path, standard)


_OUTPUT: Final = _Output(dir_okay=False, writable=True, allow_dash=True)


def _list(context: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - as click calls it
    if not wanted or context.resilient_parsing:
        return
    checks = [check for chapter in CHAPTERS for check in chapter.checks]
    rows: Rows = [(one.id, one.level.value, ", ".join(one.requirements), one.title) for one in checks]
    print_table(("CHECK", "LEVEL", "REQUIREMENTS", "WHAT IS RIGHT"), rows)
    click.echo()
    unchecked: Rows = [(one.id, one.level, one.unchecked, one.text) for one in CATALOGUE if one.unchecked]
    print_table(("NOT CHECKED", "LEVEL", "WHY NOT", "REQUIREMENT"), unchecked)
    context.exit()


@click.command()
@subject_options
@click.option("--only", multiple=True, metavar="PATTERN", help="Ids of checks, of requirements, or chapters, with *.")
@click.option("--json", "json_file", type=_OUTPUT, metavar="FILE", help="Write the report as JSON; - for stdout.")
@click.option("--junit", "junit_file", type=_OUTPUT, metavar="FILE", help="Write it as JUnit XML.")
@click.option("--html", "html_file", type=_OUTPUT, metavar="FILE", help="Write it as a web page.")
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="Name the checks.")
def conformance(
    *,
    subject: Subject,
    only: tuple[str, ...],
    json_file: Output | None,
    junit_file: Output | None,
    html_file: Output | None,
) -> None:
    """Check any proxy, requirement by requirement, from outside.

    A check whose means are not given (a key, a credential, a certificate) does not apply. Where --client-certificate is
    given, the proxy must refuse other clients. Exit code 1 if a MUST is broken; a SHOULD is told, and costs nothing.

    \b
    Example:
      source .xksproxy-dev/client.env
      xksproxy conformance --html report.html
      xksproxy conformance --endpoint https://xks.example.com --path /eu/kms/xks/v1 --key k1 --credential-file c.json
      xksproxy conformance --only 'auth-*' --only R-ENC-1 --junit report.xml
    """
    for pattern in only:
        if not select(CHAPTERS, [pattern]):
            raise click.UsageError(f"no check is named by {pattern or 'nothing at all'}; --list names them all")
    chapters = select(CHAPTERS, only)
    with subject:
        _look(subject)
        report = _examine(subject, chapters)
    documents = ((json_file, _as_json), (junit_file, junit), (html_file, html))
    wanted = [(output, document) for output, document in documents if output is not None]
    for output, document in wanted:
        output.write(document(report))
    if not any(output.standard for output, _ in wanted):
        print_report(report)
    sys.exit(0 if report.conforms else FOUND_SOMETHING_WRONG)


def _as_json(report: Report) -> str:
    return json.dumps(report.facts(), indent=2) + "\n"


def _look(subject: Subject) -> None:
    """End the command where a run would say nothing about the proxy: no connection, wrong path, credential or key."""
    url = f"https://{subject.target.authority}"
    try:
        response = subject.call(Operation.GET_KEY_METADATA, bare(Operation.GET_KEY_METADATA))
        name = response.json().get("errorName")
    except ssl.SSLCertVerificationError as error:
        _give_up(f"{url}: {error.verify_message}", "name the CA with --ca FILE; KMS itself trusts public CAs only")
    except NotHttp:
        return  # which the checks will say better
    except OSError as error:
        _give_up(f"{url}: {error}")
    match name:
        case "AuthenticationFailedException":
            _give_up(f"{url}: it refuses the credential", "check --path, --credential-file, and both clocks")
        case "InvalidUriPathException":
            _give_up(f"{url}: it serves no key store at {subject.target.path_prefix}{BASE_PATH}", "check --path")
        case "KeyNotFoundException":
            _give_up(f"{url}: it has no key {subject.keys.usable}", "check --key")


def _examine(subject: Subject, chapters: tuple[Chapter, ...]) -> Report:
    started, clock = datetime.now(UTC), time.perf_counter()
    total = sum(len(chapter.checks) for chapter in chapters)
    results = tuple(watched(run_checks(chapters, subject), total, Console(stderr=True)))
    proxy = f"https://{subject.target.authority}{subject.target.path_prefix}{BASE_PATH}"
    return Report(proxy, started, time.perf_counter() - clock, results)


def _give_up(what: str, *more: str) -> NoReturn:
    complain(what, *more)
    sys.exit(COULD_NOT_RUN)
