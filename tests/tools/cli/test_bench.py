"""``xksproxy bench`` against a proxy in this process that does wrong what it is told."""

import asyncio
import base64
import itertools
import json
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from echo_proxy import EchoConnection, Respond, echo, http_response, make_certificate, serving
from support import free_port

from xksproxy.config.credentials import save_credential
from xksproxy.sigv4.keyring import generate_credential

Bench = Callable[..., Any]
_QUICK = ("--rate", "200", "--duration", "0.5", "--warm-up", "0", "--connections", "4", "--give-up-after", "50")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="module")
def context(directory: Path) -> ssl.SSLContext:
    return make_certificate(directory)


@pytest.fixture(scope="module")
def credential(directory: Path) -> Path:
    return save_credential(directory, generate_credential())


@pytest.fixture
def bench(run: Bench, directory: Path, context: ssl.SSLContext, credential: Path) -> Iterator[Bench]:
    """Run the command against a server of the given connections."""
    with ExitStack() as stack:

        def run_against(connection: Callable[[], asyncio.Protocol], *arguments: str) -> Any:
            port = stack.enter_context(serving(context, connection))
            target = ("--endpoint", f"https://localhost:{port}", "--path", "/kms/xks/v1")
            target += ("--ca", str(directory / "ca.pem"))
            return run("bench", *target, "--credential-file", credential, "--key", "key-1", *_QUICK, *arguments)

        yield run_against


def _answering(respond: Respond) -> Callable[[], asyncio.Protocol]:
    return lambda: EchoConnection(respond)


def _facts(finished: Any) -> Any:
    return json.loads(finished.text)


def test_every_request_is_counted(bench: Bench) -> None:
    finished = bench(_answering(echo), "--json")
    facts = _facts(finished)

    assert finished.code == 0
    assert facts["figures"]["requests"] == facts["figures"]["ok"] == 100
    assert facts["figures"]["latency_ms"]["count"] == 100
    assert sum(item["count"] for item in facts["figures"]["operations_ms"].values()) == 100
    assert set(facts["figures"]["operations_ms"]) == {"encrypt", "decrypt", "metadata", "health"}
    assert facts["round_trips"] == facts["figures"]["operations_ms"]["encrypt"]["count"]
    assert facts["generator"]["cpu_seconds"] > 0
    assert facts["wrong"] == {}


@pytest.mark.parametrize(
    ("operation", "falsified", "mix", "finding"),
    [
        ("decrypt", (200, {"plaintext": base64.b64encode(b"another").decode()}), "encrypt=45,decrypt=55", "PLAINTEXT"),
        (
            "decrypt",
            (400, {"errorName": "InvalidCiphertextException", "errorMessage": ""}),
            "encrypt",
            "A CIPHERTEXT OF ENCRYPT IS REFUSED",
        ),
        (
            "encrypt",
            (200, {"ciphertextDataIntegrityValue": base64.b64encode(bytes(32)).decode()}),
            "encrypt",
            "100 x encrypt: WRONG INTEGRITY VALUE",
        ),
    ],
    ids=["plaintext", "refused-afterwards", "integrity-value"],
)
def test_a_false_answer_is_reported_first_with_exit_code_1(
    bench: Bench, operation: str, falsified: tuple[int, dict[str, str]], mix: str, finding: str
) -> None:
    def respond(called: str, message: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        status, answer = echo(called, message)
        return (falsified[0], {**answer, **falsified[1]}) if called == operation else (status, answer)

    finished = bench(_answering(respond), "--mix", mix)

    assert finished.code == 1
    assert finished.err.startswith("xksproxy: FALSE ANSWERS: ")
    assert finding in finished.err


def test_errors_are_counted_by_name(bench: Bench) -> None:
    def respond(operation: str, message: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if operation == "metadata":
            return 429, {"errorName": "ThrottlingException", "errorMessage": ""}
        return echo(operation, message)

    finished = bench(_answering(respond), "--mix", "metadata=30,health=70", "--json")

    assert finished.code == 0
    outcomes = _facts(finished)["figures"]["outcomes"]
    assert [(item["name"], item["wrong"]) for item in outcomes] == [("429 ThrottlingException", False)]
    assert 28 <= outcomes[0]["count"] <= 32


def test_every_request_that_is_due_in_a_stall_is_late(bench: Bench) -> None:
    calls = itertools.count()

    def respond(operation: str, message: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if next(calls) == 10:
            time.sleep(0.5)
        return echo(operation, message)

    facts = _facts(bench(_answering(respond), "--mix", "health", "--duration", "1", "--json"))

    # 200 a second: those of the first 250 ms of the stall at least. A closed loop would count one for each connection.
    assert facts["figures"]["late"] >= 49
    assert facts["figures"]["requests"] == facts["figures"]["ok"] == 200


def test_latency_includes_the_wait_for_a_connection_which_is_also_shown_separately(bench: Bench) -> None:
    calls = itertools.count()

    def respond(operation: str, message: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if next(calls) == 10:
            time.sleep(2)
        return echo(operation, message)

    facts = _facts(bench(_answering(respond), "--mix", "health", "--connections", "1", "--json"))["figures"]

    assert facts["waited_ms"]["maximum"] >= 400  # of what was due within half a second, however late the generator is
    assert facts["latency_ms"]["maximum"] >= facts["on_the_wire_ms"]["maximum"] >= 2000


def test_a_request_without_a_response_ends_at_the_time_limit_and_its_connection_is_replaced(bench: Bench) -> None:
    calls = itertools.count()

    def respond(operation: str, message: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        return None if next(calls) == 20 else echo(operation, message)

    facts = _facts(bench(_answering(respond), "--mix", "health", "--give-up-after", "1.5", "--json"))

    names = [item["name"] for item in facts["figures"]["outcomes"]]
    assert "no answer within 1.5 s" in names
    assert facts["figures"]["late"] >= 1
    assert facts["figures"]["latency_ms"]["maximum"] >= 1500
    assert facts["connection_errors"]["no answer within 1.5 s"] >= 1


class _Closing(EchoConnection):
    """Takes leave after each answer, properly or not."""

    def __init__(self, farewell: Callable[[Any], None]) -> None:
        super().__init__(lambda *_: None)
        self._farewell = farewell

    def data_received(self, data: bytes) -> None:
        self._farewell(self._transport)


def test_a_connection_that_the_proxy_closes_after_an_answer_is_replaced(bench: Bench) -> None:
    def farewell(transport: Any) -> None:
        _, health = echo("health", {})
        transport.write(http_response(200, health, "Connection: close"))
        transport.close()

    facts = _facts(bench(lambda: _Closing(farewell), "--mix", "health", "--json"))

    assert facts["figures"]["ok"] == 100
    assert facts["connection_errors"] == {"connection closed after an answer": 100}
    assert facts["connections_made"] >= 96


def test_requests_on_a_connection_that_breaks_are_counted(bench: Bench) -> None:
    facts = _facts(bench(lambda: _Closing(lambda transport: transport.abort()), "--mix", "health", "--json"))

    assert facts["figures"]["ok"] == 0
    assert sum(item["count"] for item in facts["figures"]["outcomes"]) == 100
    assert all(item["name"].startswith("connection ") for item in facts["figures"]["outcomes"])
    assert sum(facts["connection_errors"].values()) >= 100


def test_a_closed_loop_waits_for_each_answer(bench: Bench) -> None:
    under_way = itertools.count(1)

    facts = _facts(bench(_answering(lambda *request: (next(under_way), echo(*request))[1]), "--closed", "--json"))

    assert facts["plan"]["closed"] is True
    assert facts["figures"]["requests"] == facts["figures"]["ok"] > 0
    assert facts["figures"]["lag_ms"]["maximum"] == 0


def test_text_and_report_of_a_run_whose_p99_is_above_the_bound(bench: Bench, tmp_path: Path) -> None:
    finished = bench(_answering(echo), "--p99", "0.001", "--html", str(tmp_path / "report.html"))

    assert finished.code == 1
    assert "above the 0.001 ms of --p99" in finished.err
    assert "100, 100 of them successful" in finished.text
    assert "generator's lag" in finished.text
    assert "p99.99" in finished.text
    report = (tmp_path / "report.html").read_text()
    assert report.count("<svg") == 4
    assert "Latency by percentile" in report
    assert "http://" not in report.replace("http://www.w3.org/2000/svg", "")


def test_standard_output_contains_only_the_report(bench: Bench) -> None:
    finished = bench(_answering(echo), "--mix", "health", "--p99", "60000", "--html", "-")

    assert finished.code == 0
    assert finished.text.lower().startswith("<!doctype html")


def test_the_search_ends_at_a_rate_that_passes(bench: Bench) -> None:
    served = itertools.count()

    def respond(operation: str, message: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        # The trials at 200, 400 and 800 a second have 50, 100 and 200 requests.
        if next(served) > 200:
            return 429, {"errorName": "ThrottlingException", "errorMessage": ""}
        return echo(operation, message)

    finished = bench(
        _answering(respond), "--mix", "health", "--find-max", "--p99", "60000", "--duration", "0.25", "--json"
    )
    facts = _facts(finished)

    assert finished.code == 0
    assert facts["rate"] == 400
    assert [trial["rate"] for trial in facts["trials"][:4]] == [200, 400, 800, 600]
    assert "requests failed" in facts["trials"][2]["refusal"]
    assert len(facts["trials"]) <= 16


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--mix", "encrypts"), "OPERATION=WEIGHT"),
        (("--plaintext-bytes", "9000"), "0 to 8192"),
        (("--rate", "1e9"), "at most 50000"),
        (("--find-max",), "needs --p99"),
        *((("--p99", value), "expected milliseconds above 0") for value in ("nan", "0", "-1", "inf")),
        (("--find-max", "--p99", "10", "--html", "report.html"), "--html cannot be used with --find-max"),
        (("--key", "a/b"), "not an external key id"),
        (("--html", "/absent/report.html"), "cannot create /absent/report.html"),
    ],
)
def test_an_invalid_plan_is_refused(bench: Bench, arguments: tuple[str, ...], said: str) -> None:
    finished = bench(_answering(echo), *arguments)

    assert finished.code == 2
    assert said in finished.err


def test_a_proxy_that_encrypts_nothing_cannot_be_measured(bench: Bench) -> None:
    finished = bench(_answering(lambda *_: (404, {"errorName": "KeyNotFoundException", "errorMessage": ""})))

    assert finished.code == 2
    assert "Encrypt failed with 404 KeyNotFoundException" in finished.err


@pytest.mark.parametrize(("listens", "reason"), [(False, "not connected"), (True, "certificate refused")])
def test_a_proxy_that_cannot_be_connected_is_reported(
    run: Bench, context: ssl.SSLContext, credential: Path, listens: bool, reason: str
) -> None:
    with serving(context, _answering(echo)) as port:
        target = ("--endpoint", f"https://localhost:{port if listens else free_port()}", "--path", "/kms/xks/v1")
        finished = run("bench", *target, "--credential-file", credential, "--key", "k", *_QUICK)

    assert finished.code == 2
    assert reason in finished.err
