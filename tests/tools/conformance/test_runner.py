"""A run makes every check, whatever a check or a proxy does."""

from collections.abc import Callable

import pytest
from stub_proxy import api
from stub_proxy.behaviour import Behaviour
from stub_proxy.server import StubProxy
from xksproxy_tools.conformance.check import Chapter, Check, Level
from xksproxy_tools.conformance.checks import CHAPTERS
from xksproxy_tools.conformance.http_connection import ConnectionEnded, NotHttp
from xksproxy_tools.conformance.messages import metadata_only
from xksproxy_tools.conformance.outcome import CheckFailed, NotApplicable, Outcome
from xksproxy_tools.conformance.runner import CHECKABLE_ANSWER, run_checks
from xksproxy_tools.conformance.selection import select
from xksproxy_tools.conformance.subject import Limits, Subject

from xksproxy.spec.errors import DependencyTimeoutException, ThrottlingException, XksError
from xksproxy.spec.uri import Operation


def chapter(*runs: Callable[[Subject], str | None]) -> Chapter:
    checks = [Check(f"check-{at}", ("R-URI-1",), Level.MUST, "A title", run) for at, run in enumerate(runs)]
    return Chapter("chapter", "Chapter", tuple(checks))


def raising(error: Exception) -> Callable[[Subject], None]:
    def run(subject: Subject) -> None:
        raise error

    return run


def test_each_way_to_end_has_its_outcome(subject: Subject) -> None:
    runs = (lambda _: None, lambda _: "a note", raising(CheckFailed("this", "that")), raising(NotApplicable("no key")))

    results = list(run_checks([chapter(*runs)], subject))

    assert [(one.outcome, one.note, one.expected, one.got) for one in results] == [
        (Outcome.PASSED, "", "", ""),
        (Outcome.PASSED, "a note", "", ""),
        (Outcome.FAILED, "", "this", "that"),
        (Outcome.NOT_APPLICABLE, "no key", "", ""),
    ]


@pytest.mark.parametrize(
    ("error", "expected", "got"),
    [
        (TimeoutError(), "a response", "none within 20 s"),
        (NotHttp("gibberish"), "a response in HTTP/1.1", "gibberish"),
        (ConnectionEnded("cut"), "a response", "cut"),
        (ConnectionRefusedError("no"), "a response", "ConnectionRefusedError: no"),
        (KeyError("x"), CHECKABLE_ANSWER, "KeyError: 'x'"),
    ],
)
def test_a_check_that_raises_has_failed_and_the_next_is_made(
    subject: Subject, error: Exception, expected: str, got: str
) -> None:
    crashed, after = run_checks([chapter(raising(error), lambda _: None)], subject)

    assert (crashed.outcome, crashed.expected, crashed.got) == (Outcome.FAILED, expected, got)
    assert after.outcome is Outcome.PASSED


def test_checks_are_not_run_after_the_proxy_stops_listening(subject: Subject) -> None:
    made = []
    target = subject.target

    def kill(subject: Subject) -> None:
        # What a crashed proxy looks like from here: nothing listens.
        subject.target = type(target)(target.host, 1, target.path_prefix, target.region, target.credential)
        raise CheckFailed("a response", "none")

    first, second = run_checks([chapter(kill, lambda _: made.append("made"))], subject)

    assert first.outcome is Outcome.FAILED
    assert second.outcome is Outcome.NOT_RUN
    assert second.note.startswith("the proxy accepts no connection since check-0")
    assert not made


def test_a_connection_that_the_proxy_has_closed_is_replaced(stub: StubProxy, subject: Subject) -> None:
    operation = Operation.GET_HEALTH_STATUS
    assert subject.call(operation, metadata_only(operation)).status == 200
    stub._end_connections()

    assert subject.call(operation, metadata_only(operation)).status == 200


@pytest.mark.parametrize("error", [ThrottlingException, DependencyTimeoutException])
@pytest.mark.parametrize(("refusals", "status"), [(2, 200), (3, None)])
def test_a_request_to_a_busy_proxy_is_repeated_twice(
    stub: StubProxy, subject: Subject, error: type[XksError], refusals: int, status: int | None
) -> None:
    busy = iter([api.failure(error("busy"))] * refusals)
    stub.behave(Behaviour(intercept=lambda _: next(busy, None)))
    subject.limits = Limits(pauses_when_busy=(0.0, 0.0))
    operation = Operation.GET_HEALTH_STATUS

    assert subject.call(operation, metadata_only(operation)).status == (status or error.http_status)


def test_checks_are_selected_by_id_chapter_and_requirement() -> None:
    everything = select(CHAPTERS, ())
    assert everything == tuple(chapter for chapter in CHAPTERS if chapter.checks)

    assert [check.id for chapter in select(CHAPTERS, ["uri-get"]) for check in chapter.checks] == ["uri-get"]
    assert [check.id for chapter in select(CHAPTERS, ["R-TLS-2"]) for check in chapter.checks] == ["tls-suites"]
    assert [chapter.name for chapter in select(CHAPTERS, ["auth-*", "uris"])] == ["uris", "authentication"]
    assert select(CHAPTERS, ["nothing"]) == ()
