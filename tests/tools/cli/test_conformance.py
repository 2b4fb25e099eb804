"""`xksproxy conformance` against proxies that are right, wrong, and none at all."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from stub_proxy.behaviour import Behaviour
from stub_proxy.defects import DEFECTS
from stub_proxy.server import StubProxy
from xksproxy_tools.conformance.checks import CHAPTERS

from xksproxy.config.credentials import save_credential
from xksproxy.sigv4.keyring import generate_credential

Run = Callable[..., Any]
QUICK = ("--only", "uris")
NEEDS_AN_OPTION = (
    *("tls-client-without-certificate", "tls-client-foreign-ca", "tls-client-wrong-name"),
    *("auth-two-credentials", "auth-crossed-pair", "auth-other-store", "uri-keys-apart"),
    *("meta-usage-encrypt-only", "meta-usage-decrypt-only", "meta-usage-impotent", "meta-disabled"),
    *("enc-decrypt-only-key", "enc-impotent-key", "dec-encrypt-only-key", "dec-impotent-key"),
    *("cdiv-encrypt-only-key", "error-disabled-key", "time-health-freshness"),
)


@pytest.fixture(scope="module")
def running_stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StubProxy]:
    with StubProxy(tmp_path_factory.mktemp("stub")) as made:
        yield made


@pytest.fixture
def stub(running_stub: StubProxy) -> Iterator[StubProxy]:
    yield running_stub
    running_stub.behave(Behaviour())


@pytest.fixture
def options(stub: StubProxy, tmp_path: Path) -> list[str]:
    """What names the stub's key store and its key."""
    store = stub.world.stores[0]
    file = save_credential(tmp_path, store.credentials[0])
    return [
        *("--endpoint", f"https://localhost:{stub.port}", "--path", f"{store.prefix}/kms/xks/v1"),
        *("--credential-file", str(file), "--ca", str(stub.certificates.authority), "--key", "usable"),
        *("--client-certificate", str(stub.certificates.of("client"))),
    ]


def behave(stub: StubProxy, name: str) -> None:
    stub.behave(next(defect for defect in DEFECTS if defect.name == name).behaviour())


def row(text: str, check: str) -> list[str]:
    """The words of the table's row for a check."""
    return next(words for line in text.splitlines() if check in (words := line.split()))


def test_a_proxy_that_conforms_passes_and_reports_are_written_beside_the_table(
    run: Run, options: list[str], tmp_path: Path
) -> None:
    files = {name: tmp_path / f"report.{name}" for name in ("json", "junit", "html")}
    arguments = [part for name, file in files.items() for part in (f"--{name}", str(file))]

    done = run("conformance", *options, *QUICK, *arguments)

    assert (done.code, done.err) == (0, "")
    assert row(done.text, "uri-get")[:2] == ["ok", "MUST"]
    assert row(done.text, "uri-keys-apart")[:2] == ["n/a", "MUST"]
    assert "--decrypt-only-key was not given" in done.text
    assert done.text.splitlines()[-1].startswith("conforms: ")
    assert json.loads(files["json"].read_text())["conforms"] is True
    assert ET.fromstring(files["junit"].read_text()).tag == "testsuites"
    assert files["html"].read_text().startswith("<!doctype html>")


def test_a_violated_must_has_exit_code_1_and_is_shown_with_the_expectation(
    run: Run, stub: StubProxy, options: list[str]
) -> None:
    behave(stub, "get-is-not-found")

    done = run("conformance", *options, "--only", "uri-get")

    assert done.code == 1
    assert row(done.text, "uri-get")[:2] == ["FAILED", "MUST"]
    assert "  expected  405 to a GET of health\n  got       status 404 InvalidUriPathException" in done.text


def test_a_violated_should_is_shown_and_has_exit_code_0(run: Run, stub: StubProxy, options: list[str]) -> None:
    behave(stub, "no-keep-alive")

    done = run("conformance", *options, "--only", "tls-keep-alive")

    assert done.code == 0
    assert row(done.text, "tls-keep-alive")[:2] == ["FAILED", "SHOULD"]
    assert "1 SHOULD failed" in done.text


def test_an_existing_report_is_kept_if_there_is_no_new_one(run: Run, options: list[str], tmp_path: Path) -> None:
    before = tmp_path / "report.html"
    before.write_text("precious")

    done = run("conformance", *options, "--endpoint", "https://localhost:1", "--html", str(before))

    assert done.code == 2
    assert before.read_text() == "precious"


def test_standard_output_contains_only_json(run: Run, stub: StubProxy, options: list[str]) -> None:
    behave(stub, "get-is-not-found")

    done = run("conformance", *options, *QUICK, "--json", "-")

    assert done.code == 1
    facts = json.loads(done.text)
    assert {one["id"]: one["outcome"] for one in facts["checks"]}["uri-get"] == "failed"
    assert stub.world.stores[0].credentials[0].secret_access_key not in done.text


def test_the_list_has_every_check_and_needs_no_proxy(run: Run) -> None:
    done = run("conformance", "--list")

    assert done.code == 0
    for chapter in CHAPTERS:
        for check in chapter.checks:
            assert f"\n{check.id} " in done.text
    assert "\nR-LOG-1 " in done.text


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--only", "nothing"), "no check matches nothing; --list shows all checks"),
        (("--only", "uri-*", "--only", "uro-*"), "no check matches uro-*; --list shows all checks"),
        (("--other-path", "/stub/other/kms/xks/v1"), "--other-path and --other-credential-file must be used together"),
        (("--outage-command", "true"), "--outage-command and --recovery-command must be used together"),
        (("--outage-command", "'", "--recovery-command", "true"), "a command cannot be read"),
        (("--second-credential-file", "absent.toml"), "'absent.toml' does not exist"),
        (("--wrong-client-certificate", "absent.pem"), "'absent.pem' does not exist"),
        (("--ca", "absent.pem"), "absent.pem: No such file or directory; expected CA certificates in PEM"),
        (("--html", "/absent/report.html"), "/absent/report.html"),
    ],
)
def test_an_unusable_option_is_named(run: Run, options: list[str], arguments: tuple[str, ...], complaint: str) -> None:
    done = run("conformance", *options, *arguments)

    assert done.code == 2
    assert complaint in " ".join(done.err.split())


def test_a_key_must_be_named(run: Run, options: list[str]) -> None:
    assert "--key" in run("conformance", *options[:8]).err


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"--path": "/stub/absent/kms/xks/v1"}, "the proxy has no key store at /stub/absent/kms/xks/v1"),
        ({"--key": "absent"}, "the proxy has no key absent"),
        ({"--decrypt-only-key": "mistyped"}, "the proxy has no key mistyped"),
        ({"--endpoint": "https://localhost:1"}, "Connection refused"),
        ({"--credential-file": "{unknown}"}, "the proxy refuses the credential\n  check --path, --credential-file and"),
        ({"--ca": "{client_ca}"}, "use --ca FILE for a private CA"),
    ],
)
def test_a_proxy_that_cannot_be_tested_is_reported_and_no_check_is_made(
    run: Run, stub: StubProxy, options: list[str], changes: dict[str, str], complaint: str
) -> None:
    directory = stub.certificates.directory
    unknown = save_credential(directory, generate_credential())
    given = {
        name: value.format(unknown=unknown, client_ca=stub.certificates.client_authority)
        for name, value in changes.items()
    }

    done = run("conformance", *options, *(part for option in given.items() for part in option))

    assert (done.code, done.text) == (2, "")
    assert complaint in done.err


def test_each_option_enables_its_checks(run: Run, stub: StubProxy, options: list[str], tmp_path: Path) -> None:
    """The options that give a check what it needs; every one of these checks is not applicable without its option."""
    first, other = stub.world.stores
    second = save_credential(tmp_path, first.credentials[1])
    theirs = save_credential(tmp_path, other.credentials[0])

    done = run(
        "conformance",
        *options,
        *("--encrypt-only-key", "encrypt-only", "--decrypt-only-key", "decrypt-only", "--impotent-key", "impotent"),
        *("--disabled-key", "disabled", "--second-credential-file", second),
        *("--other-path", f"{other.prefix}/kms/xks/v1", "--other-credential-file", theirs),
        *("--wrong-client-certificate", stub.certificates.of("wrong-client")),
        *("--outage-command", f"touch {first.outage}", "--recovery-command", f"rm -f {first.outage}"),
        *(part for check in NEEDS_AN_OPTION for part in ("--only", check)),
        *("--json", "-"),
    )

    facts = json.loads(done.text)
    assert {one["id"]: one["outcome"] for one in facts["checks"]} == dict.fromkeys(NEEDS_AN_OPTION, "passed")


def test_a_failing_outage_command_has_exit_code_1(run: Run, options: list[str]) -> None:
    done = run("conformance", *options, "--outage-command", "false", "--recovery-command", "true", "--only", "*fresh*")

    assert done.code == 1
    assert "the command false ended with 1" in " ".join(done.text.split())
