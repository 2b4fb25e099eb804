"""``xksproxy conformance``: checks a proxy against the specification."""

import json
import ssl
import sys
import time
from datetime import UTC, datetime
from typing import NoReturn

import click
from rich.console import Console

from xksproxy.cli.output import COULD_NOT_RUN, FOUND_SOMETHING_WRONG, print_error, print_line
from xksproxy.cli.output_file import OUTPUT, Output
from xksproxy.cli.table import print_table
from xksproxy.spec.uri import BASE_PATH, Operation
from xksproxy_tools.cli.subject_options import subject_options
from xksproxy_tools.conformance.catalogue import CATALOGUE
from xksproxy_tools.conformance.check import Chapter
from xksproxy_tools.conformance.checks import CHAPTERS
from xksproxy_tools.conformance.html_report import html
from xksproxy_tools.conformance.http_connection import NotHttp
from xksproxy_tools.conformance.junit_report import junit
from xksproxy_tools.conformance.messages import metadata_only
from xksproxy_tools.conformance.progress import show_progress
from xksproxy_tools.conformance.report import Report
from xksproxy_tools.conformance.runner import run_checks
from xksproxy_tools.conformance.selection import select
from xksproxy_tools.conformance.subject import Subject
from xksproxy_tools.conformance.text_report import print_report

Rows = list[tuple[str, ...]]


def _list(context: click.Context, _: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - as click calls it
    if not wanted or context.resilient_parsing:
        return
    checks = [check for chapter in CHAPTERS for check in chapter.checks]
    rows: Rows = [(one.id, one.level.value, ", ".join(one.requirements), one.title) for one in checks]
    print_table(("CHECK", "LEVEL", "REQUIREMENTS", "EXPECTATION"), rows)
    print_line()
    unchecked: Rows = [(one.id, one.level, one.unchecked, one.text) for one in CATALOGUE if one.unchecked]
    print_table(("NOT CHECKED", "LEVEL", "WHY NOT", "REQUIREMENT"), unchecked)
    context.exit()


@click.command()
@subject_options
@click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="Id of a check or requirement, or name of a chapter; may contain *.",
)
@click.option("--json", "json_file", type=OUTPUT, metavar="FILE", help="Write the report as JSON; - for stdout.")
@click.option("--junit", "junit_file", type=OUTPUT, metavar="FILE", help="Write it as JUnit XML.")
@click.option("--html", "html_file", type=OUTPUT, metavar="FILE", help="Write it as a web page.")
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="List all checks.")
def conformance(
    *,
    subject: Subject,
    only: tuple[str, ...],
    json_file: Output | None,
    junit_file: Output | None,
    html_file: Output | None,
) -> None:
    """Check any XKS proxy against every requirement of the specification, from outside.

    A check is not applicable if the key, credential or certificate that it needs is not given. With
    --client-certificate, the proxy must refuse other clients. The exit code is 1 if a MUST is violated. A violated
    SHOULD is reported, and does not change the exit code.

    \b
    Example:
      source .xksproxy-dev/client.env
      xksproxy conformance --html report.html
      xksproxy conformance --endpoint https://xks.example.com --path /eu/kms/xks/v1 --key k1 --credential-file c.json
      xksproxy conformance --only 'auth-*' --only R-ENC-1 --junit report.xml
    """
    for pattern in only:
        if not select(CHAPTERS, [pattern]):
            raise click.UsageError(f"no check matches {pattern or 'an empty pattern'}; --list shows all checks")
    chapters = select(CHAPTERS, only)
    with subject:
        _check_target(subject)
        report = _run_checks(subject, chapters)
    documents = ((json_file, _as_json), (junit_file, junit), (html_file, html))
    wanted = [(output, document) for output, document in documents if output is not None]
    for output, document in wanted:
        output.write(document(report))
    if not any(output.standard for output, _ in wanted):
        print_report(report)
    sys.exit(0 if report.conforms else FOUND_SOMETHING_WRONG)


def _as_json(report: Report) -> str:
    return json.dumps(report.as_dict(), indent=2) + "\n"


def _check_target(subject: Subject) -> None:
    """End the command if the proxy cannot be reached, or the path, the credential or a key is wrong."""
    url = f"https://{subject.target.authority}"
    named = subject.keys.named
    try:
        names = {option: _error_of(subject, key_id) for option, key_id in named.items()}
    except ssl.SSLCertVerificationError as error:
        _exit_with_error(
            f"{url}: {error.verify_message}", "use --ca FILE for a private CA; KMS itself trusts public CAs only"
        )
    except NotHttp:
        return  # the checks report it
    except OSError as error:
        _exit_with_error(f"{url}: {error}")
    for option, name in names.items():
        match name:
            case "AuthenticationFailedException":
                _exit_with_error(
                    f"{url}: the proxy refuses the credential",
                    "check --path, --credential-file and the clocks of both machines",
                )
            case "InvalidUriPathException":
                _exit_with_error(
                    f"{url}: the proxy has no key store at {subject.target.path_prefix}{BASE_PATH}", "check --path"
                )
            case "KeyNotFoundException":
                _exit_with_error(f"{url}: the proxy has no key {named[option]}", f"check {option}")


def _error_of(subject: Subject, key_id: str) -> object:
    operation = Operation.GET_KEY_METADATA
    return subject.call(operation, metadata_only(operation), key_id).json().get("errorName")


def _run_checks(subject: Subject, chapters: tuple[Chapter, ...]) -> Report:
    started, clock = datetime.now(UTC), time.perf_counter()
    total = sum(len(chapter.checks) for chapter in chapters)
    results = tuple(show_progress(run_checks(chapters, subject), total, Console(stderr=True)))
    proxy = f"https://{subject.target.authority}{subject.target.path_prefix}{BASE_PATH}"
    return Report(proxy, started, time.perf_counter() - clock, results)


def _exit_with_error(what: str, *more: str) -> NoReturn:
    print_error(what, *more)
    sys.exit(COULD_NOT_RUN)
