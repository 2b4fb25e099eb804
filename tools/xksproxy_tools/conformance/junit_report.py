"""The report as JUnit XML."""

import re
from itertools import groupby
from typing import Final
from xml.etree import ElementTree as ET

from xksproxy_tools.conformance.check import Level
from xksproxy_tools.conformance.outcome import Outcome
from xksproxy_tools.conformance.report import Report
from xksproxy_tools.conformance.runner import Result

_NOT_OF_XML: Final = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(report: Report) -> str:
    """A document with a suite for each chapter.

    A failed MUST is a failure, as for the exit code. A failed SHOULD is a skipped test with the result as message.
    """
    suites = ET.Element("testsuites", name="xksproxy conformance", time=f"{report.seconds:.3f}")
    for title, results in groupby(report.results, key=lambda result: result.chapter.title):
        suite = ET.SubElement(suites, "testsuite", name=title)
        cases = [_case(suite, result) for result in results]
        suite.set("timestamp", report.started.isoformat(timespec="seconds"))
        suite.set("tests", str(len(cases)))
        for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            suite.set(attribute, str(len(suite.findall(f"testcase/{tag}"))))
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(suites, encoding="unicode")}\n'


def _case(suite: ET.Element, result: Result) -> ET.Element:
    check = result.check
    name = f"{check.id}: {check.title} ({', '.join(check.requirements)})"
    case = ET.SubElement(
        suite, "testcase", classname=f"conformance.{result.chapter.name}", name=name, time=f"{result.seconds:.3f}"
    )
    found = _legal(f"expected {result.expected}, got {result.got}")
    match result.outcome:
        case Outcome.FAILED if check.level is Level.MUST:
            ET.SubElement(case, "failure", message=found, type=check.level.value)
        case Outcome.FAILED:
            ET.SubElement(case, "skipped", message=f"{check.level.value} failed: {found}")
        case Outcome.NOT_RUN:
            ET.SubElement(case, "error", message=_legal(result.note), type=result.outcome.value)
        case Outcome.NOT_APPLICABLE:
            ET.SubElement(case, "skipped", message=_legal(result.note))
        case Outcome.PASSED if result.note:
            ET.SubElement(case, "system-out").text = _legal(result.note)
    return case


def _legal(text: str) -> str:
    """The text without characters that XML does not allow; a proxy may have sent them."""
    return _NOT_OF_XML.sub("\ufffd", text)
