"""This proxy keeps to the API, as its own examination sees it."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from fault_support import FaultyHsm
from server_support import OwnProxy, on
from support import Proxy, eventually
from xksproxy_tools.development.certificates import certificate_pem, create_authority, issue, write_private

from xksproxy.keystore.kms_config import console_json

KMS_NAME = "cks.kms.us-east-1.amazonaws.com"


@pytest.mark.slow
def test_this_proxy_passes_every_check(
    own_proxy: OwnProxy, proxy: Proxy, make_faulty: Callable[..., FaultyHsm]
) -> None:
    """With mutual TLS, two credentials, two key stores, keys of every kind, and an HSM that goes away and returns."""
    clients = create_authority("clients")
    files = {name: own_proxy.directory / f"{name}.pem" for name in ("clients", "right", "wrong")}
    files["clients"].write_bytes(certificate_pem(clients.certificate))
    write_private(files["right"], b"".join(issue(clients, KMS_NAME, client=True)))
    write_private(files["wrong"], b"".join(issue(clients, "cks.kms.us-east-1.example", client=True)))
    credentials = {"first": proxy.credential, "second": proxy.second_credential, "other": proxy.other_credential}
    for name, credential in credentials.items():
        files[name] = own_proxy.directory / f"{name}.json"
        write_private(files[name], console_json("/dev", credential).encode())
    faulty = make_faulty()
    served = own_proxy.start(
        server="workers = 1",
        tls=f'client_ca = "{files["clients"]}"\nclient_names = ["{KMS_NAME}"]',
        edit=lambda text: on(faulty, text, "check_interval_s = 1"),
    )
    command = [
        *(sys.executable, "-m", "xksproxy", "conformance", "--json", "-"),
        *("--endpoint", f"https://{served.host}", "--path", "/dev/kms/xks/v1", "--credential-file", files["first"]),
        *("--ca", served.environment.authority, "--client-certificate", files["right"]),
        *("--key", "demo-key", "--encrypt-only-key", "encrypt-only-key", "--decrypt-only-key", "decrypt-only-key"),
        *("--impotent-key", "impotent-key", "--disabled-key", "disabled-key"),
        *("--second-credential-file", files["second"], "--wrong-client-certificate", files["wrong"]),
        *("--other-path", "/kms/xks/v1", "--other-credential-file", files["other"]),
        *("--outage-command", _tell(faulty, "absent"), "--recovery-command", _tell(faulty, "")),
    ]

    def health_is_known() -> bool:
        return _run([*command, "--only", "tls-keep-alive"]).returncode == 0

    eventually(health_is_known)
    done = _run(command)

    facts = json.loads(done.stdout)
    # How fast it is beside the other tests of this run is no property of the proxy.
    wrong = [one for one in facts["checks"] if one["outcome"] != "passed" and one["requirements"] != ["R-TIME-1"]]
    assert wrong == []
    assert done.returncode == 0, done.stderr


def _tell(faulty: FaultyHsm, rule: str) -> str:
    """A command that has the fault module follow a rule."""
    return f"sh -c 'echo {rule} > {faulty.control}.next && mv {faulty.control}.next {faulty.control}'"


def _run(command: list[object]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([str(part) for part in command], capture_output=True, check=False)
