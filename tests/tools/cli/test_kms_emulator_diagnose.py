"""`xksproxy kms-emulator diagnose`: its result for good and bad proxies."""

import asyncio
import json
import re
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from server_support import wait_for_every_worker
from support import Proxy, free_port
from tls_server_support import (
    CREDENTIAL,
    HEALTHY,
    HOST,
    PATIENT_SECONDS,
    Certificates,
    answering,
    byte_server,
    client_of,
    http_server,
    never,
)
from xksproxy_tools.development.certificates import create_authority
from xksproxy_tools.kms_emulator.diagnose.calls import Calls
from xksproxy_tools.kms_emulator.proxy.address import ProxyAddress

from xksproxy.cli.main import cli
from xksproxy.config.credentials import save_credential
from xksproxy.sigv4.keyring import generate_credential

Diagnose = Callable[..., Any]


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


def write_credential(path: Path, access_key_id: str, secret_access_key: str) -> Path:
    """A file as the KMS console takes it."""
    path.touch(0o600)
    path.write_text(json.dumps({"AccessKeyId": access_key_id, "RawSecretAccessKey": secret_access_key}))
    return path


@pytest.fixture
def credential_file(tmp_path: Path) -> Path:
    return write_credential(tmp_path / "kms-console.json", CREDENTIAL.access_key_id, CREDENTIAL.secret_access_key)


@pytest.fixture
def run_diagnose(certificates: Certificates, credential_file: Path) -> Diagnose:
    """Run the command for a proxy on a port of this machine; options can be replaced, or left out by None."""

    async def run(port: int, *more: str, **changes: str | None) -> Result:
        options = {
            "endpoint": f"https://{HOST}",
            "path": "/payments/kms/xks/v1",
            "credential-file": str(credential_file),
            "ca": str(certificates.ca),
            "resolve": f"{HOST}:443=127.0.0.1:{port}",
            "time-limit-ms": str(int(1000 * PATIENT_SECONDS)),
            **{name.replace("_", "-"): value for name, value in changes.items()},
        }
        arguments = [text for name, value in options.items() if value is not None for text in (f"--{name}", value)]
        return await asyncio.to_thread(CliRunner().invoke, cli, ["kms-emulator", "diagnose", *arguments, *more])

    return run


async def facts(run: Diagnose, port: int, **changes: str | None) -> Mapping[str, Any]:
    result = await run(port, "--json", **changes)
    printed: Mapping[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (0 if printed["ok"] else 1)
    return printed


def step_of(printed: Mapping[str, Any], name: str) -> Mapping[str, str]:
    (step,) = [step for step in printed["steps"] if step["name"] == name]
    return step


def wrong_steps(printed: Mapping[str, Any]) -> list[str]:
    return [step["name"] for step in printed["steps"] if step["result"] == "wrong"]


# --- A proxy of ours


@pytest.fixture
def options(proxy: Proxy, tmp_path: Path) -> dict[str, str]:
    """The options for the proxy of the tests, when every worker serves."""
    wait_for_every_worker(proxy)
    (tmp_path / "credentials").mkdir(0o700)
    return {
        "endpoint": "https://localhost",
        "resolve": f"localhost:443=127.0.0.1:{proxy.port}",
        "path": "/dev/kms/xks/v1",
        "credential_file": str(save_credential(tmp_path / "credentials", proxy.credential)),
        "ca": str(proxy.environment.authority),
    }


async def test_a_proxy_of_ours_passes(run_diagnose: Diagnose, proxy: Proxy, options: dict[str, str]) -> None:
    own = {**options, "endpoint": f"https://localhost:{proxy.port}", "resolve": None}
    printed = await facts(run_diagnose, proxy.port, **own, key="demo-key")

    assert wrong_steps(printed) == ["endpoint"], "KMS accepts no port, and localhost is not a domain name"
    assert printed["connection_error_code"] is None
    assert [step["name"] for step in printed["steps"]] == [
        *("endpoint", "credential", "name", "tcp", "certificate", "suites"),
        *("signature", "health", "latency", "instances", "key", "cryptography"),
    ]
    assert re.match(r"xksproxy \S+ of xksproxy, fleet size 1; key manager of ", step_of(printed, "health")["seen"])
    assert "--resolve" not in step_of(printed, "name")["seen"]
    assert "TLSv1.3 TLS_AES_256_GCM_SHA384; TLSv1.2 ECDHE-ECDSA-AES256-GCM-SHA384" in step_of(printed, "suites")["seen"]
    assert "demo-key: AES_256, ENABLED" in step_of(printed, "key")["seen"]


@pytest.mark.parametrize(
    ("key", "answer"),
    [("no-such-key", "XksKeyNotFoundException"), ("encrypt-only-key", "XksKeyInvalidConfigurationException")],
)
async def test_a_key_that_create_key_would_refuse_is_wrong(
    run_diagnose: Diagnose, proxy: Proxy, options: dict[str, str], key: str, answer: str
) -> None:
    printed = await facts(run_diagnose, proxy.port, **options, key=key)

    assert step_of(printed, "key")["result"] == "wrong"
    assert [refusal["answer"] for refusal in printed["refusals"] if refusal["operation"] == "CreateKey"] == [answer]


async def test_a_wrong_credential_and_a_wrong_path_are_found(
    run_diagnose: Diagnose, proxy: Proxy, options: dict[str, str], tmp_path: Path
) -> None:
    wrong = str(save_credential(tmp_path / "credentials", generate_credential()))

    printed = await facts(run_diagnose, proxy.port, **{**options, "credential_file": wrong})
    assert printed["connection_error_code"] == "INVALID_CREDENTIALS"
    assert "clocks" in step_of(printed, "signature")["advice"]

    printed = await facts(run_diagnose, proxy.port, **{**options, "path": "/elsewhere/kms/xks/v1"})
    assert printed["connection_error_code"] == "XKS_PROXY_INVALID_CONFIGURATION"
    assert "prefix" in step_of(printed, "health")["advice"]


# --- What it prints


async def test_a_good_proxy_passes_with_exit_code_0(run_diagnose: Diagnose, certificates: Certificates) -> None:
    details = [{"id": "hsm-1", "model": "\x1b[2JLuna\r\n7", "healthStatus": "ACTIVE"}]
    async with http_server(answering({**HEALTHY, "ekmFleetDetails": details}), certificates.context()) as port:
        result = await run_diagnose(port)

    assert result.exit_code == 0
    assert "AWS KMS would create and connect this key store\n" in result.stdout
    for seen in (rf"name +ok +{HOST} is at 127.0.0.1:{port}, by --resolve", r"signature +ok +accepted"):
        assert re.search(seen, result.stdout)
    assert "hsm-1 (?[2JLuna??7) ACTIVE" in result.stdout
    assert CREDENTIAL.secret_access_key not in result.output


async def test_a_bad_proxy_is_reported_with_exception_error_code_and_fix(
    run_diagnose: Diagnose, certificates: Certificates
) -> None:
    async with http_server(answering(HEALTHY), certificates.context(days=0)) as port:
        result = await run_diagnose(port)

    assert result.exit_code == 1
    assert re.search(r"certificate +WRONG +the certificate is refused: certificate has expired; it is a", result.stdout)
    assert f"a certificate for {HOST}, by xksproxy test CA, valid from " in result.stdout
    assert (
        "CreateCustomKeyStore: XksProxyUriUnreachableException: AWS KMS cannot make a TLS connection" in result.stdout
    )
    assert "ConnectCustomKeyStore: XKS_PROXY_INVALID_TLS_CONFIGURATION\n" in result.stdout
    assert "fix (certificate): renew the certificate\n" in result.stdout
    assert "would create" not in result.stdout


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("endpoint", "http://xks.example.com", "expected https://host"),
        ("path", "/kms", "expected [/<prefix>]/kms/xks/v1"),
        ("resolve", "xks.example.com", "expected HOST:443=ADDRESS:PORT"),
        ("key", "no/key", "external key id"),
        ("time-limit-ms", "0", "1<=x<=60000"),
        ("credential-file", "/no/such/file.json", "No such file"),
        ("ca", __file__, "expected CA certificates in PEM"),
    ],
)
async def test_an_unusable_option_is_refused_with_exit_code_2(
    run_diagnose: Diagnose, option: str, value: str, told: str
) -> None:
    result = await run_diagnose(1, **{option: value})

    assert result.exit_code == 2
    assert told in result.stderr


# --- The form


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"endpoint": "https://xks"}, "xks is not a fully qualified domain name"),
        ({"endpoint": "https://192.0.2.1"}, "192.0.2.1 is not a fully qualified domain name"),
        ({"endpoint": f"https://{'a' * 63}.{'b' * 60}"}, "132 characters; KMS accepts at most 128"),
        ({"endpoint": f"https://{HOST}:8443"}, "port 8443; XksProxyUriEndpoint has no port"),
        ({"path": f"/{'p' * 116}/kms/xks/v1", "key": "k" * 120}, "characters for the key"),
    ],
)
async def test_an_endpoint_that_kms_does_not_accept_is_wrong(
    run_diagnose: Diagnose, changes: dict[str, str], seen: str
) -> None:
    port = free_port()
    host = changes.get("endpoint", f"https://{HOST}").removeprefix("https://").partition(":")[0]
    printed = await facts(run_diagnose, port, resolve=f"{host}:443=127.0.0.1:{port}", **changes)

    assert wrong_steps(printed) == ["endpoint", "tcp"]
    assert seen in step_of(printed, "endpoint")["seen"]
    assert printed["refusals"][0]["answer"] == "ValidationException"


async def test_a_credential_that_kms_does_not_accept_is_wrong(run_diagnose: Diagnose, tmp_path: Path) -> None:
    path = write_credential(tmp_path / "short.json", "short", "short")

    printed = await facts(run_diagnose, free_port(), credential_file=str(path))

    assert wrong_steps(printed) == ["credential", "tcp"]


# --- The connection


async def test_a_closed_port_is_unreachable(run_diagnose: Diagnose) -> None:
    printed = await facts(run_diagnose, free_port())

    assert printed["connection_error_code"] == "XKS_PROXY_NOT_REACHABLE"
    assert wrong_steps(printed) == ["tcp"]
    assert "firewall" in step_of(printed, "tcp")["advice"]


@pytest.mark.parametrize(
    ("certificate", "options", "told"),
    [
        ({"host": "other.example.com"}, {}, ("a certificate for other.example.com", "endpoint's name")),
        ({"authority": create_authority("other CA")}, {}, ("by other CA", "--ca")),
        ({"authority": create_authority("other CA")}, {"ca": None}, ("by other CA", "--ca")),
    ],
    ids=["other-host", "other-ca", "private-ca"],
)
async def test_a_refused_certificate_is_described(
    run_diagnose: Diagnose,
    certificates: Certificates,
    certificate: dict[str, Any],
    options: dict[str, None],
    told: tuple[str, str],
) -> None:
    async with http_server(answering(HEALTHY), certificates.context(**certificate)) as port:
        printed = await facts(run_diagnose, port, **options)

    assert printed["connection_error_code"] == "XKS_PROXY_INVALID_TLS_CONFIGURATION"
    assert told[0] in step_of(printed, "certificate")["seen"]
    assert told[1] in step_of(printed, "certificate")["advice"]


async def test_a_server_without_tls_is_told_apart(run_diagnose: Diagnose) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await reader.read(1)

    async with byte_server(plain) as port:
        printed = await facts(run_diagnose, port)

    assert printed["connection_error_code"] == "XKS_PROXY_INVALID_TLS_CONFIGURATION"
    assert "does not use TLS" in step_of(printed, "certificate")["advice"]


async def test_a_certificate_that_expires_soon_is_a_warning(run_diagnose: Diagnose, certificates: Certificates) -> None:
    async with http_server(answering(HEALTHY), certificates.context(days=9)) as port:
        printed = await facts(run_diagnose, port)

    assert printed["ok"]
    assert step_of(printed, "certificate")["result"] == "warning"


async def test_the_suite_of_each_supported_tls_version_is_shown(
    run_diagnose: Diagnose, certificates: Certificates
) -> None:
    context = certificates.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with http_server(answering(HEALTHY), context) as port:
        printed = await facts(run_diagnose, port)

    assert step_of(printed, "suites")["seen"] == "TLSv1.2 ECDHE-ECDSA-AES256-GCM-SHA384"


# --- The answers


@pytest.mark.parametrize(
    ("answer", "status", "code"),
    [
        ({"errorName": "AccessDeniedException"}, 403, "XKS_PROXY_ACCESS_DENIED"),
        ({"errorName": "InternalException"}, 500, "XKS_PROXY_INVALID_RESPONSE"),
        ({"errorName": "DependencyTimeoutException"}, 503, "XKS_PROXY_TIMED_OUT"),
        ({"message": "Forbidden"}, 403, "XKS_PROXY_INVALID_RESPONSE"),
        ({**HEALTHY, "ekmFleetDetails": []}, 200, "XKS_PROXY_INVALID_RESPONSE"),
    ],
)
async def test_a_health_answer_that_prevents_connecting_is_wrong(
    run_diagnose: Diagnose, certificates: Certificates, answer: dict[str, Any], status: int, code: str
) -> None:
    async with http_server(answering(answer, status), certificates.context()) as port:
        printed = await facts(run_diagnose, port, key="demo-key")

    assert printed["connection_error_code"] == code
    assert wrong_steps(printed) == ["health"]
    assert printed["steps"][-1]["name"] == "health"


@pytest.mark.parametrize(
    ("states", "ok"), [(["UNAVAILABLE", "UNAVAILABLE"], False), (["ACTIVE", "DEGRADED"], True), (["ACTIVE"], True)]
)
async def test_unavailable_and_degraded_instances_are_reported(
    run_diagnose: Diagnose, certificates: Certificates, states: list[str], ok: bool
) -> None:
    """R-HLTH-8."""
    details = [{"id": f"hsm-{n}", "model": "Luna", "healthStatus": state} for n, state in enumerate(states)]
    async with http_server(answering({**HEALTHY, "ekmFleetDetails": details}), certificates.context()) as port:
        printed = await facts(run_diagnose, port)

    assert printed["ok"] == ok
    assert printed["connection_error_code"] == (None if ok else "XKS_PROXY_NOT_REACHABLE")
    wanted = "wrong" if not ok else "ok" if states == ["ACTIVE"] else "warning"
    assert step_of(printed, "instances")["result"] == wanted


async def test_an_encryption_that_violates_the_api_is_wrong(run_diagnose: Diagnose, certificates: Certificates) -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path.endswith("health"):
            return web.json_response(HEALTHY)
        if request.path.endswith("metadata"):
            key = {"keySpec": "AES_256", "keyUsage": ["ENCRYPT", "DECRYPT"], "keyStatus": "ENABLED"}
            return web.json_response(key)
        return web.json_response({"ciphertext": "", "initializationVector": "", "authenticationTag": ""})

    async with http_server(answer, certificates.context()) as port:
        printed = await facts(run_diagnose, port, key="demo-key")

    assert wrong_steps(printed) == ["cryptography"]
    assert printed["connection_error_code"] is None
    assert printed["refusals"][0]["answer"] == "KMSInvalidStateException"


async def test_the_time_of_a_late_answer_is_measured(certificates: Certificates) -> None:
    """Two servers, so that it is certain which of the two clients is answered."""
    address = ProxyAddress(f"https://{HOST}", "/kms/xks/v1", CREDENTIAL)
    context = certificates.context()
    async with (
        http_server(never, context) as silent,
        http_server(answering(HEALTHY), context) as late,
        client_of(silent, certificates, 0.25) as client,
        client_of(late, certificates) as patient,
    ):
        steps = [step async for step in Calls(address, "eu-west-1", client, patient, 0.25).check()]

    assert [step.name for step in steps] == ["health", "latency"]
    assert steps[0].refusals[1].answer == "XKS_PROXY_TIMED_OUT"
    assert "with a longer time limit" in steps[1].seen
