"""What AWS's page "Connecting and disconnecting an external key store" (xks-connect-disconnect) says of connections
that fail."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from emulator_guide_support import Account, Accounts, LoopThread, for_kms, is_refused
from support import Proxy
from tls_server_support import HEALTHY, Certificates, answering, byte_server, http_server
from xksproxy_tools.development.certificates import create_authority
from xksproxy_tools.kms_emulator.durations import AWS_DURATIONS

from xksproxy.sigv4.keyring import generate_credential

pytestmark = pytest.mark.slow

UNAVAILABLE = {**HEALTHY, "ekmFleetDetails": [{"id": "hsm-1", "model": "Luna 7", "healthStatus": "UNAVAILABLE"}]}


@pytest.fixture(scope="module")
def bad_proxies(
    start_emulator: Callable[..., Any], loop_thread: LoopThread, certificates: Certificates, proxy: Proxy
) -> Iterator[Accounts]:
    """An emulator for which the hosts of DISORDERS are proxies that are out of order in their ways."""

    def error(name: str) -> dict[str, str]:
        return {"errorName": name, "errorMessage": "in a test"}

    strangers = create_authority("a CA that nobody trusts")
    servers = {
        "denying": (answering(error("AccessDeniedException"), 403), {}),
        "unintelligible": (answering({"status": "fine"}), {}),
        "without-hsm": (answering(UNAVAILABLE), {}),
        "late": (answering(error("DependencyTimeoutException"), 503), {}),
        "expired": (answering(HEALTHY), {"days": 0}),
        "untrusted": (answering(HEALTHY), {"authority": strangers}),
    }
    with ExitStack() as stack:
        hosts = {"misnamed.example.com": proxy.port}
        for name, (answer, certificate) in servers.items():
            host = f"{name}.example.com"
            server = http_server(answer, certificates.context(host, **certificate))
            hosts[host] = stack.enter_context(loop_thread.entered(server))
        hosts["rude.example.com"] = stack.enter_context(
            loop_thread.entered(byte_server(hang_up, certificates.context("rude.example.com")))
        )
        yield Accounts.of(stack.enter_context(start_emulator(hosts)), proxy)


async def hang_up(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Read of a request, and end the connection."""
    await reader.read(1)


DISORDERS = {
    "denying": "XKS_PROXY_ACCESS_DENIED",
    "unintelligible": "XKS_PROXY_INVALID_RESPONSE",
    "without-hsm": "XKS_PROXY_NOT_REACHABLE",
    "late": "XKS_PROXY_TIMED_OUT",
    "expired": "XKS_PROXY_INVALID_TLS_CONFIGURATION",
    "untrusted": "XKS_PROXY_INVALID_TLS_CONFIGURATION",
    "misnamed": "XKS_PROXY_INVALID_TLS_CONFIGURATION",
    "rude": "NETWORK_ERRORS",
}


@pytest.mark.parametrize(("name", "code"), DISORDERS.items())
def test_the_error_code_says_what_is_wrong_with_the_proxy(bad_proxies: Accounts, name: str, code: str) -> None:
    """xks-connect-disconnect: the connection error codes for external key stores, as far as a proxy causes them."""
    account = bad_proxies.new()
    store_id = account.create_store(**account.vpc_settings(XksProxyUriEndpoint=f"https://{name}.example.com"))

    assert account.connect(store_id, "FAILED")["ConnectionErrorCode"] == code


def test_the_error_code_says_what_is_wrong_with_the_settings(account: Account) -> None:
    """xks-connect-disconnect: INVALID_CREDENTIALS, XKS_PROXY_INVALID_CONFIGURATION, XKS_PROXY_NOT_REACHABLE."""
    stranger = for_kms(generate_credential())
    for changes, code in (
        ({"XksProxyAuthenticationCredential": stranger}, "INVALID_CREDENTIALS"),
        ({"XksProxyUriPath": "/no/kms/xks/v1"}, "XKS_PROXY_INVALID_CONFIGURATION"),
        ({"XksProxyUriEndpoint": "https://nobody.example.com"}, "XKS_PROXY_NOT_REACHABLE"),
    ):
        store_id = account.create_store(**account.vpc_settings(**changes))
        assert account.connect(store_id, "FAILED")["ConnectionErrorCode"] == code
        account.disconnect(store_id)
        account.kms.delete_custom_key_store(CustomKeyStoreId=store_id)


def test_a_failed_store_must_be_disconnected_first_and_only_then_has_no_error_code(
    account: Account, proxy: Proxy
) -> None:
    """xks-connect-disconnect: resolve the problem, disconnect, connect; the element appears only while FAILED."""
    kms = account.kms
    wrong = account.vpc_settings(XksProxyAuthenticationCredential=for_kms(generate_credential()))
    store_id = account.create_store(**wrong)
    assert "ConnectionErrorCode" not in account.describe_store(store_id)

    account.connect(store_id, "FAILED")
    is_refused("CustomKeyStoreInvalidStateException", kms.connect_custom_key_store, CustomKeyStoreId=store_id)

    assert "ConnectionErrorCode" not in account.disconnect(store_id)
    kms.update_custom_key_store(CustomKeyStoreId=store_id, XksProxyAuthenticationCredential=for_kms(proxy.credential))
    assert "ConnectionErrorCode" not in account.connect(store_id)


def test_what_fails_to_connect_may_fail_quickly(start_emulator: Callable[..., Any], proxy: Proxy) -> None:
    """xks-connect-disconnect: here at once, though connecting would take minutes."""
    wrong = for_kms(generate_credential())
    with start_emulator(durations=AWS_DURATIONS) as url:
        account = Accounts.of(url, proxy).new()
        store_id = account.create_store(**account.vpc_settings(XksProxyAuthenticationCredential=wrong))

        assert account.connect(store_id, "FAILED")["ConnectionErrorCode"] == "INVALID_CREDENTIALS"


def test_a_store_is_not_created_if_its_proxy_does_not_answer(account: Account, proxy: Proxy) -> None:
    """create-xks-keystore: a public proxy is tested with the settings first."""
    account.create_store()
    create, stranger = account.kms.create_custom_key_store, for_kms(generate_credential())
    for name, changes in (
        ("XksProxyUriInUseException", {}),
        ("XksProxyInvalidConfigurationException", {"XksProxyUriPath": "/no/kms/xks/v1"}),
        (
            "XksProxyIncorrectAuthenticationCredentialException",
            {"XksProxyUriPath": "/kms/xks/v1", "XksProxyAuthenticationCredential": stranger},
        ),
        ("XksProxyUriUnreachableException", {"XksProxyUriEndpoint": "https://nobody.example.com"}),
        ("ValidationException", {"XksProxyUriEndpoint": "https://localhost:8443"}),
    ):
        is_refused(name, create, **account.settings(CustomKeyStoreName="Another", **changes))
