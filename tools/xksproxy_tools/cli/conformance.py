"""``xksproxy conformance``: whether a proxy keeps to the API."""

import json
import ssl
import sys
import time
from datetime import UTC, datetime
from typing import NoReturn

import click
from rich.console import Console

from xksproxy.cli.output import COULD_NOT_RUN, FOUND_SOMETHING_WRONG, print_error, print_line, print_table
from xksproxy.cli.output_file import OUTPUT, Output
from xksproxy.spec.uri import BASE_PATH, Operation
from xksproxy_tools.cli.subject_options import subject_options
from xksproxy_tools.conformance.catalogue import CATALOGUE
from xksproxy_tools.conformance.check import Chapter
from xksproxy_tools.conformance.checks import CHAPTERS
from xksproxy_tools.conformance.html import html
from xksproxy_tools.conformance.junit import junit
from xksproxy_tools.conformance.live import watched
from xksproxy_tools.conformance.messages import bare
from xksproxy_tools.conformance.report import Report
from xksproxy_tools.conformance.runner import run_checks
from xksproxy_tools.conformance.selection import select
from xksproxy_tools.conformance.subject import Subject
from xksproxy_tools.conformance.text import print_report
from xksproxy_tools.conformance.wire import NotHttp

Rows = list[tuple[str, ...]]


def _list(context: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - as click calls it
    if not wanted or context.resilient_parsing:
        return
    checks = [check for chapter in CHAPTERS for check in chapter.checks]
    rows: Rows = [(one.id, one.level.value, ", ".join(one.requirements), one.title) for one in checks]
    print_table(("CHECK", "LEVEL", "REQUIREMENTS", "WHAT IS RIGHT"), rows)
    print_line()
    unchecked: Rows = [(one.id, one.level, one.unchecked, one.text) for one in CATALOGUE if one.unchecked]
    print_table(("NOT CHECKED", "LEVEL", "WHY NOT", "REQUIREMENT"), unchecked)
    context.exit()


@click.command()
@subject_options
@click.option("--only", multiple=True, metavar="PATTERN", help="Ids of checks, of requirements, or chapters, with *.")
@click.option("--json", "json_file", type=OUTPUT, metavar="FILE", help="Write the report as JSON; - for stdout.")
@click.option("--junit", "junit_file", type=OUTPUT, metavar="FILE", help="Write it as JUnit XML.")
@click.option("--html", "html_file", type=OUTPUT, metavar="FILE", help="Write it as a web page.")
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
    named = subject.keys.named
    try:
        names = {option: _error_of(subject, key_id) for option, key_id in named.items()}
    except ssl.SSLCertVerificationError as error:
        _give_up(f"{url}: {error.verify_message}", "name the CA with --ca FILE; KMS itself trusts public CAs only")
    except NotHttp:
        return  # which the checks will say better
    except OSError as error:
        _give_up(f"{url}: {error}")
    for option, name in names.items():
        match name:
            case "AuthenticationFailedException":
                _give_up(f"{url}: it refuses the credential", "check --path, --credential-file, and both clocks")
            case "InvalidUriPathException":
                _give_up(f"{url}: it serves no key store at {subject.target.path_prefix}{BASE_PATH}", "check --path")
            case "KeyNotFoundException":
                _give_up(f"{url}: it has no key {named[option]}", f"check {option}")


def _error_of(subject: Subject, key_id: str) -> object:
    operation = Operation.GET_KEY_METADATA
    return subject.call(operation, bare(operation), key_id).json().get("errorName")


def _examine(subject: Subject, chapters: tuple[Chapter, ...]) -> Report:
    started, clock = datetime.now(UTC), time.perf_counter()
    total = sum(len(chapter.checks) for chapter in chapters)
    results = tuple(watched(run_checks(chapters, subject), total, Console(stderr=True)))
    proxy = f"https://{subject.target.authority}{subject.target.path_prefix}{BASE_PATH}"
    return Report(proxy, started, time.perf_counter() - clock, results)


def _give_up(what: str, *more: str) -> NoReturn:
    print_error(what, *more)
    sys.exit(COULD_NOT_RUN)
