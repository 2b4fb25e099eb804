"""The statements and examples of AWS's page "Connecting and disconnecting an external key store"
(xks-connect-disconnect)."""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import pytest
from aiohttp import web
from emulator_guide_support import (
    VPC_SERVICE,
    Account,
    Accounts,
    LoopThread,
    all_refused,
    all_work,
    calls_of,
    decrypt,
    for_kms,
    is_refused,
    logged,
    request_id,
    was_never_asked,
)
from support import Proxy
from tls_server_support import HEALTHY, Certificates, http_server
from xksproxy_tools.kms_emulator.durations import AWS_DURATIONS

from xksproxy.sigv4.keyring import generate_credential

pytestmark = pytest.mark.slow

EXAMPLE_CONNECTED = json.loads("""
{
  "CustomKeyStoreId": "cks-9876543210fedcba9",
  "CustomKeyStoreName": "ExampleXksVpc",
  "ConnectionState": "CONNECTED",
  "CreationDate": "2022-12-13T18:34:10.675000+00:00",
  "CustomKeyStoreType": "EXTERNAL_KEY_STORE",
  "XksProxyConfiguration": {
    "AccessKeyId": "ABCDE98765432EXAMPLE",
    "Connectivity": "VPC_ENDPOINT_SERVICE",
    "UriEndpoint": "https://example-proxy-uri-endpoint-vpc",
    "UriPath": "/example/prefix/kms/xks/v1",
    "VpcEndpointServiceName": "com.amazonaws.vpce.us-east-1.vpce-svc-example"
  }
}
""")
EXAMPLE_FAILED = {
    **EXAMPLE_CONNECTED,
    "ConnectionState": "FAILED",
    "ConnectionErrorCode": "XKS_VPC_ENDPOINT_SERVICE_NOT_FOUND",
}
EXAMPLE_DISCONNECTED = {**EXAMPLE_CONNECTED, "ConnectionState": "DISCONNECTED"}


def assert_like(entry: Mapping[str, Any], example: Mapping[str, Any]) -> None:
    """The fields of an example of the guide, which leaves out the owner of the service, and its states."""
    proxy = {name: value for name, value in entry["XksProxyConfiguration"].items() if name != "VpcEndpointServiceOwner"}
    assert entry.keys() == example.keys()
    assert proxy.keys() == example["XksProxyConfiguration"].keys()
    for name in ("CustomKeyStoreName", "ConnectionState", "ConnectionErrorCode", "CustomKeyStoreType"):
        assert entry.get(name) == example.get(name)
    assert proxy["Connectivity"] == example["XksProxyConfiguration"]["Connectivity"]
    assert re.fullmatch(r"cks-[0-9a-f]{17}", entry["CustomKeyStoreId"])
    assert isinstance(entry["CreationDate"], datetime)


# --- The examples


def test_a_connected_store_is_described_as_in_the_example(account: Account, proxy: Proxy) -> None:
    """xks-connect-disconnect: describe-custom-key-stores --custom-key-store-name ExampleXksVpc."""
    store_id = account.connected_store(**account.vpc_settings())

    (entry,) = account.kms.describe_custom_key_stores(CustomKeyStoreName="ExampleXksVpc")["CustomKeyStores"]

    assert_like(entry, EXAMPLE_CONNECTED)
    assert entry["CustomKeyStoreId"] == store_id
    assert entry["XksProxyConfiguration"] == {
        "AccessKeyId": proxy.credential.access_key_id,
        "Connectivity": "VPC_ENDPOINT_SERVICE",
        "UriEndpoint": "https://localhost",
        "UriPath": "/dev/kms/xks/v1",
        "VpcEndpointServiceName": VPC_SERVICE,
        "VpcEndpointServiceOwner": account.id,
    }


def test_a_failed_store_is_described_as_in_the_example(
    start_emulator: Callable[..., Any], proxy: Proxy, tmp_path: Any
) -> None:
    """xks-connect-disconnect: KMS can't find the VPC endpoint service, which here goes away in between."""
    with start_emulator(state=tmp_path / "state") as url:
        account = Accounts.of(url, proxy).new()
        store_id = account.create_store(**account.vpc_settings())
    others = frozenset({VPC_SERVICE[:-1]})
    with start_emulator(state=tmp_path / "state", vpc_services=others) as url:
        account = Accounts.of(url, proxy).new()

        assert_like(account.connect(store_id, "FAILED"), EXAMPLE_FAILED)


def test_a_disconnected_store_is_described_as_in_the_example(account: Account) -> None:
    store_id = account.connected_store(**account.vpc_settings())

    assert_like(account.disconnect(store_id), EXAMPLE_DISCONNECTED)


def test_a_public_store_has_no_vpc_endpoint_service(account: Account, store_id: str) -> None:
    configuration = account.describe_store(store_id)["XksProxyConfiguration"]

    assert configuration.keys() == {"AccessKeyId", "Connectivity", "UriEndpoint", "UriPath"}
    assert configuration["Connectivity"] == "PUBLIC_ENDPOINT"


def test_stores_are_described_all_or_by_id_or_by_name(account: Account, accounts: Accounts, store_id: str) -> None:
    """xks-connect-disconnect: all of the account and Region by default; either parameter, but not both."""
    describe_stores = account.kms.describe_custom_key_stores
    other_id = account.create_store(**account.vpc_settings(XksProxyUriEndpoint="https://nobody.example.com"))
    accounts.new().create_store()

    def ids(**parameters: str) -> set[str]:
        return {entry["CustomKeyStoreId"] for entry in describe_stores(**parameters)["CustomKeyStores"]}

    assert ids() == {store_id, other_id}
    assert ids(CustomKeyStoreId=other_id) == {other_id}
    assert ids(CustomKeyStoreName="ExampleXks") == {store_id}
    is_refused("ValidationException", describe_stores, CustomKeyStoreId=store_id, CustomKeyStoreName="ExampleXks")
    is_refused("CustomKeyStoreNotFoundException", describe_stores, CustomKeyStoreName="NoExample")


# --- Connecting


def test_a_new_store_is_not_connected_and_need_not_be(account: Account) -> None:
    """xks-connect-disconnect: DISCONNECTED, when it has never been connected; it can be viewed and managed."""
    for settings in (account.settings(), account.vpc_settings(XksProxyUriEndpoint="https://nobody.example.com")):
        store_id = account.create_store(**settings)
        assert account.describe_store(store_id)["ConnectionState"] == "DISCONNECTED"
        account.kms.update_custom_key_store(
            CustomKeyStoreId=store_id, NewCustomKeyStoreName=f"{settings['CustomKeyStoreName']}2"
        )
        is_refused("CustomKeyStoreInvalidStateException", account.create_key, store_id)
        account.kms.delete_custom_key_store(CustomKeyStoreId=store_id)


def test_connecting_answers_an_object_without_properties_and_takes_minutes(
    start_emulator: Callable[..., Any], proxy: Proxy
) -> None:
    """xks-connect-disconnect: HTTP 200; success does not mean that the store is connected. So with disconnecting."""
    with start_emulator(durations=AWS_DURATIONS) as url:
        account = Accounts.of(url, proxy).new()
        kms, store_id = account.kms, account.create_store()

        answer = kms.connect_custom_key_store(CustomKeyStoreId=store_id)
        assert answer.pop("ResponseMetadata")["HTTPStatusCode"] == 200
        assert answer == {}
        assert account.describe_store(store_id)["ConnectionState"] == "CONNECTING"
        is_refused("CustomKeyStoreInvalidStateException", account.create_key, store_id)

        answer = kms.disconnect_custom_key_store(CustomKeyStoreId=store_id)
        assert answer.pop("ResponseMetadata")["HTTPStatusCode"] == 200
        assert answer == {}
        assert account.describe_store(store_id)["ConnectionState"] == "DISCONNECTING"
        is_refused("CustomKeyStoreInvalidStateException", kms.connect_custom_key_store, CustomKeyStoreId=store_id)


@pytest.mark.parametrize("connectivity", ["PUBLIC_ENDPOINT", "VPC_ENDPOINT_SERVICE"])
def test_connecting_asks_the_proxy_for_its_health(account: Account, proxy: Proxy, connectivity: str) -> None:
    """xks-connect-disconnect: one GetHealthStatus validates endpoint, path and credential."""
    public = connectivity == "PUBLIC_ENDPOINT"
    created = account.kms.create_custom_key_store(**(account.settings() if public else account.vpc_settings()))

    answer = account.kms.connect_custom_key_store(CustomKeyStoreId=created["CustomKeyStoreId"])

    (line,) = calls_of(proxy, request_id(answer))
    assert (logged(line, "operation"), logged(line, "kmsOperation")) == ("GetHealthStatus", "ConnectCustomKeyStore")
    assert logged(line, "access_key_id") == proxy.credential.access_key_id
    calls_of(proxy, request_id(created), 1 if public else 0)


def test_connected_does_not_mean_that_the_proxy_works(
    start_emulator: Callable[..., Any], loop_thread: LoopThread, certificates: Certificates, proxy: Proxy
) -> None:
    """xks-connect-disconnect: only that a connection succeeded, and that nobody has disconnected since."""

    async def answer(request: web.BaseRequest) -> web.Response:
        fit = {"keySpec": "AES_256", "keyUsage": ["ENCRYPT", "DECRYPT"], "keyStatus": "ENABLED"}
        response = web.json_response(fit if request.path.endswith("/metadata") else HEALTHY)
        response.force_close()  # a server that is to end must hold no connection
        return response

    with ExitStack() as stack:
        server = ExitStack()
        stack.enter_context(server)
        context = certificates.context("passing.example.com")
        port = server.enter_context(loop_thread.entered(http_server(answer, context)))
        url = stack.enter_context(start_emulator({"passing.example.com": port}))
        account = Accounts.of(url, proxy).new()
        store_id = account.connected_store(**account.settings(XksProxyUriEndpoint="https://passing.example.com"))
        key_id = account.create_key(store_id)["KeyId"]

        server.close()

        is_refused("KMSInvalidStateException", account.kms.encrypt, KeyId=key_id, Plaintext=b"x")
        is_refused("CustomKeyStoreInvalidStateException", account.create_key, store_id, "another-key")
        assert account.describe_store(store_id)["ConnectionState"] == "CONNECTED"
        assert account.key_state(key_id) == "Enabled"


# --- Disconnecting


def test_a_disconnected_store_gets_no_requests_and_can_be_managed(
    account: Account, proxy: Proxy, store_id: str, key: dict[str, Any], blob: bytes
) -> None:
    """xks-connect-disconnect: keys are Unavailable, no key can be created or used; store and keys are managed."""
    kms, key_id = account.kms, key["KeyId"]
    answers = [kms.disconnect_custom_key_store(CustomKeyStoreId=store_id)]
    assert account.key_state(key_id) == "Unavailable"
    assert account.describe_store(store_id)["ConnectionState"] in ("DISCONNECTING", "DISCONNECTED")
    all_refused("KMSInvalidStateException", kms, key_id, blob)
    refusal = is_refused("CustomKeyStoreInvalidStateException", account.create_key, store_id, "demo-key")
    answers += [
        refusal.response,
        is_refused("KMSInvalidStateException", decrypt, kms, key_id, blob, {}).response,
        kms.describe_key(KeyId=key_id),
        kms.create_alias(AliasName="alias/example", TargetKeyId=key_id),
        kms.tag_resource(KeyId=key_id, Tags=[{"TagKey": "a", "TagValue": "b"}]),
        kms.disable_key(KeyId=key_id),
        kms.update_custom_key_store(CustomKeyStoreId=store_id, NewCustomKeyStoreName="ExampleXks2"),
    ]
    assert account.key_state(key_id) == "Unavailable"
    account.kms.enable_key(KeyId=key_id)

    account.connect(store_id)

    all_work(kms, key_id, blob)
    was_never_asked(proxy, [request_id(answer) for answer in answers])


def test_disconnecting_switches_all_keys_of_the_store_off(
    account: Account, store_id: str, key: dict[str, Any], external_key: str
) -> None:
    """xks-connect-disconnect: Unavailable, unless they are pending deletion."""
    other, standard = account.create_key(store_id, external_key), account.kms.create_key()["KeyMetadata"]
    account.kms.schedule_key_deletion(KeyId=other["KeyId"])

    account.disconnect(store_id)

    assert account.key_state(key["KeyId"]) == "Unavailable"
    assert account.kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"]["Enabled"] is False
    assert account.key_state(other["KeyId"]) == "PendingDeletion"
    assert account.key_state(standard["KeyId"]) == "Enabled"


def test_a_store_is_reconnected_at_any_time_as_it_is(
    account: Account, store_id: str, key: dict[str, Any], blob: bytes
) -> None:
    """xks-connect-disconnect: typically no reconfiguration is necessary."""
    before = account.describe_store(store_id)
    for _ in range(2):
        account.disconnect(store_id)
        assert account.connect(store_id) == before
        all_work(account.kms, key["KeyId"], blob)


def test_only_a_store_that_is_connected_in_some_way_is_disconnected(account: Account) -> None:
    store_id = account.create_store()

    is_refused(
        "CustomKeyStoreInvalidStateException", account.kms.disconnect_custom_key_store, CustomKeyStoreId=store_id
    )


# --- Editing


def test_name_path_and_credential_are_edited_while_connected(
    account: Account, proxy: Proxy, store_id: str, key: dict[str, Any], blob: bytes
) -> None:
    """xks-connect-disconnect: here to another key store of the proxy, which has the same external key."""
    account.kms.update_custom_key_store(
        CustomKeyStoreId=store_id,
        NewCustomKeyStoreName="ExampleXks2",
        XksProxyUriPath="/kms/xks/v1",
        XksProxyAuthenticationCredential=for_kms(proxy.other_credential),
    )

    entry = account.describe_store(store_id)
    assert (entry["CustomKeyStoreName"], entry["ConnectionState"]) == ("ExampleXks2", "CONNECTED")
    assert entry["XksProxyConfiguration"]["UriPath"] == "/kms/xks/v1"
    (line,) = calls_of(proxy, request_id(decrypt(account.kms, key["KeyId"], blob, {})))
    assert logged(line, "access_key_id") == proxy.other_credential.access_key_id
    assert logged(line, "keystore") == "other"


@pytest.mark.parametrize(
    "changes",
    [
        {"XksProxyUriEndpoint": "https://nobody.example.com"},
        {"XksProxyVpcEndpointServiceName": VPC_SERVICE[:-1]},
        {"XksProxyConnectivity": "PUBLIC_ENDPOINT", "XksProxyUriEndpoint": "https://localhost"},
    ],
    ids=["endpoint", "service", "connectivity"],
)
def test_connectivity_endpoint_and_service_are_edited_while_disconnected(
    account: Account, changes: dict[str, str]
) -> None:
    """xks-connect-disconnect: to edit these, you must first disconnect the external key store."""
    store_id = account.connected_store(**account.vpc_settings())
    update = account.kms.update_custom_key_store
    before = account.describe_store(store_id)
    is_refused("CustomKeyStoreInvalidStateException", update, CustomKeyStoreId=store_id, **changes)
    assert account.describe_store(store_id) == before

    account.disconnect(store_id)
    update(CustomKeyStoreId=store_id, **changes)

    configuration = account.describe_store(store_id)["XksProxyConfiguration"]
    assert {f"XksProxy{name}": value for name, value in configuration.items()}.items() >= changes.items()


def test_a_credential_that_changed_meanwhile_is_edited_before_reconnecting(account: Account, proxy: Proxy) -> None:
    """xks-connect-disconnect: the example of a property that changed while the store was disconnected."""
    former = for_kms(generate_credential())
    store_id = account.create_store(**account.vpc_settings(XksProxyAuthenticationCredential=former))
    assert account.connect(store_id, "FAILED")["ConnectionErrorCode"] == "INVALID_CREDENTIALS"
    account.disconnect(store_id)

    account.kms.update_custom_key_store(
        CustomKeyStoreId=store_id, XksProxyAuthenticationCredential=for_kms(proxy.second_credential)
    )

    assert account.connect(store_id)["XksProxyConfiguration"]["AccessKeyId"] == proxy.second_credential.access_key_id
