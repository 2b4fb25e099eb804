"""The six operations on custom key stores."""

from typing import Any

import pytest
from emulator_support import CREDENTIAL, PUBLIC, SERVICE, VPC, Harness, refused
from xksproxy_tools.kms_emulator.protocol.caller import Caller
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome

TAKEN = "https://taken.example.com"
OTHER_PATH = {"XksProxyUriPath": "/other/kms/xks/v1"}
BOB = Caller("444455556666", "arn:aws:iam::444455556666:user/Bob")


async def test_a_new_store_is_disconnected_and_shows_no_secret(kms: Harness) -> None:
    store_id = await kms.create_store("ExampleXksStore")

    entry = await kms.entry(store_id)

    assert entry.pop("CreationDate").timestamp() == kms.clock.now
    assert entry == {
        "CustomKeyStoreId": store_id,
        "CustomKeyStoreName": "ExampleXksStore",
        "ConnectionState": "DISCONNECTED",
        "CustomKeyStoreType": "EXTERNAL_KEY_STORE",
        "XksProxyConfiguration": {
            "AccessKeyId": CREDENTIAL["AccessKeyId"],
            "Connectivity": "PUBLIC_ENDPOINT",
            "UriEndpoint": "https://xks.example.com",
            "UriPath": "/example/kms/xks/v1",
        },
    }
    assert len(store_id) == len("cks-") + 17


async def test_a_store_behind_a_vpc_shows_its_service_and_owner(kms: Harness) -> None:
    entry = await kms.entry(await kms.create_store(**VPC))

    assert entry["XksProxyConfiguration"] == {
        "AccessKeyId": CREDENTIAL["AccessKeyId"],
        "Connectivity": "VPC_ENDPOINT_SERVICE",
        "UriEndpoint": "https://vpc.example.com",
        "UriPath": "/example/kms/xks/v1",
        "VpcEndpointServiceName": SERVICE,
        "VpcEndpointServiceOwner": "111122223333",
    }


async def test_creating_a_store_checks_the_health_of_a_public_proxy_only(kms: Harness) -> None:
    await kms.create_store("public")
    await kms.create_store("vpc", **VPC)

    ((api, address, metadata),) = kms.proxy.calls
    assert (api, metadata.kms_operation) == ("health", "CreateCustomKeyStore")
    assert (address.endpoint, address.uri_path) == ("https://xks.example.com", "/example/kms/xks/v1")
    assert address.credential.secret_access_key == CREDENTIAL["RawSecretAccessKey"]


async def test_a_store_is_not_created_if_its_proxy_is_not_healthy(kms: Harness) -> None:
    kms.proxy.failure = Outcome.INVALID_URI_PATH

    async with refused("XksProxyInvalidConfigurationException"):
        await kms.create_store()

    assert (await kms.call("DescribeCustomKeyStores"))["CustomKeyStores"] == []


def without(settings: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key != name}


@pytest.mark.parametrize(
    "settings",
    [
        *(without(PUBLIC, name) for name in PUBLIC if name != "CustomKeyStoreType"),
        without(PUBLIC, "CustomKeyStoreType"),
        without(VPC, "XksProxyVpcEndpointServiceName"),
        {**PUBLIC, "XksProxyVpcEndpointServiceName": SERVICE},
        {**PUBLIC, "XksProxyVpcEndpointServiceOwner": "111122223333"},
        {**PUBLIC, "KeyStorePassword": "kmspassword"},
        {**PUBLIC, "XksProxyUriEndpoint": "https://192.0.2.10"},
    ],
    ids=lambda settings: " ".join(sorted(settings)),
)
async def test_settings_that_do_not_match_are_refused_before_the_proxy_is_called(
    kms: Harness, settings: dict[str, Any]
) -> None:
    async with refused("ValidationException"):
        await kms.create_store(**settings)

    assert kms.proxy.calls == []


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({**PUBLIC, "CustomKeyStoreName": "first"}, "CustomKeyStoreNameInUseException"),
        (PUBLIC, "XksProxyUriInUseException"),
        ({**PUBLIC, **OTHER_PATH}, ""),
        ({**VPC, **OTHER_PATH, "XksProxyUriEndpoint": "https://xks.example.com"}, "XksProxyUriEndpointInUseException"),
        ({**PUBLIC, **OTHER_PATH, "XksProxyUriEndpoint": TAKEN}, "XksProxyUriEndpointInUseException"),
        ({**VPC, "XksProxyUriEndpoint": "https://new.example.com"}, "XksProxyVpcEndpointServiceInUseException"),
        (
            {**VPC, "XksProxyVpcEndpointServiceName": SERVICE.replace("eu-west-1", "us-east-1")},
            "XksProxyVpcEndpointServiceNotFoundException",
        ),
    ],
)
async def test_settings_that_another_store_uses_are_refused(kms: Harness, settings: dict[str, Any], name: str) -> None:
    await kms.create_store("first")
    await kms.create_store("second", **{**VPC, "XksProxyUriEndpoint": TAKEN})

    async with refused(name):
        await kms.call("CreateCustomKeyStore", **{"CustomKeyStoreName": "third", **settings})


async def test_key_stores_of_other_accounts_are_invisible_and_no_obstacle(kms: Harness) -> None:
    store_id = await kms.create_store("store")

    await kms.call("CreateCustomKeyStore", BOB, CustomKeyStoreName="store", **PUBLIC)

    assert len((await kms.call("DescribeCustomKeyStores", BOB))["CustomKeyStores"]) == 1
    async with refused("CustomKeyStoreNotFoundException"):
        await kms.call("DescribeCustomKeyStores", BOB, CustomKeyStoreId=store_id)


async def test_an_account_has_at_most_ten_stores_of_both_types(kms: Harness) -> None:
    for number in range(10):
        await kms.create_store(f"store-{number}", **{**PUBLIC, "XksProxyUriPath": f"/{number}/kms/xks/v1"})

    async with refused("LimitExceededException"):
        await kms.create_store("store-10", **{**PUBLIC, "XksProxyUriPath": "/10/kms/xks/v1"})


async def test_describe_by_name_by_id_and_by_pages(kms: Harness) -> None:
    ids = sorted([await kms.create_store("a"), await kms.create_store("b", **VPC)])

    (by_name,) = (await kms.call("DescribeCustomKeyStores", CustomKeyStoreName="b"))["CustomKeyStores"]
    first = await kms.call("DescribeCustomKeyStores", Limit=1)
    second = await kms.call("DescribeCustomKeyStores", Limit=1, Marker=first["NextMarker"])

    assert by_name["CustomKeyStoreName"] == "b"
    assert [answer["CustomKeyStores"][0]["CustomKeyStoreId"] for answer in (first, second)] == ids
    assert (first["Truncated"], second["Truncated"]) == (True, False)
    async with refused("CustomKeyStoreNotFoundException"):
        await kms.call("DescribeCustomKeyStores", CustomKeyStoreName="c")
    async with refused("ValidationException"):
        await kms.call("DescribeCustomKeyStores", CustomKeyStoreName="a", CustomKeyStoreId=ids[0])
    async with refused("InvalidMarkerException"):
        await kms.call("DescribeCustomKeyStores", Marker="no")


async def test_new_settings_are_checked_with_the_proxy_and_then_stored(kms: Harness) -> None:
    store_id = await kms.create_store()
    kms.proxy.calls.clear()

    answer = await kms.call(
        "UpdateCustomKeyStore",
        CustomKeyStoreId=store_id,
        XksProxyUriEndpoint="https://new.example.com",
        XksProxyAuthenticationCredential={"AccessKeyId": "B" * 20, "RawSecretAccessKey": "t" * 43},
    )

    assert answer == {}
    ((_, address, metadata),) = kms.proxy.calls
    assert (address.endpoint, metadata.kms_operation) == ("https://new.example.com", "UpdateCustomKeyStore")
    assert address.credential.secret_access_key == "t" * 43
    configuration = (await kms.entry(store_id))["XksProxyConfiguration"]
    assert (configuration["UriEndpoint"], configuration["AccessKeyId"]) == ("https://new.example.com", "B" * 20)


async def test_new_settings_that_do_not_work_change_nothing(kms: Harness) -> None:
    store_id = await kms.create_store()
    before = await kms.entry(store_id)
    kms.proxy.failure = Outcome.TIMED_OUT

    async with refused("XksProxyUriUnreachableException"):
        await kms.call(
            "UpdateCustomKeyStore",
            CustomKeyStoreId=store_id,
            NewCustomKeyStoreName="new",
            XksProxyUriPath="/kms/xks/v1",
        )

    assert await kms.entry(store_id) == before


async def test_a_new_name_needs_no_proxy(kms: Harness) -> None:
    store_id = await kms.create_store()
    kms.proxy.calls.clear()

    await kms.call("UpdateCustomKeyStore", CustomKeyStoreId=store_id, NewCustomKeyStoreName="new")

    assert (await kms.entry(store_id))["CustomKeyStoreName"] == "new"
    assert kms.proxy.calls == []


async def test_the_connectivity_can_be_changed_with_a_new_endpoint(kms: Harness) -> None:
    store_id = await kms.create_store()
    to_vpc = {"XksProxyConnectivity": "VPC_ENDPOINT_SERVICE", "XksProxyVpcEndpointServiceName": SERVICE}
    to_public = {"XksProxyConnectivity": "PUBLIC_ENDPOINT"}

    async with refused("ValidationException"):
        await kms.call("UpdateCustomKeyStore", CustomKeyStoreId=store_id, **to_vpc)
    await kms.call(
        "UpdateCustomKeyStore", CustomKeyStoreId=store_id, **to_vpc, XksProxyUriEndpoint="https://a.example.com"
    )
    assert (await kms.entry(store_id))["XksProxyConfiguration"]["VpcEndpointServiceName"] == SERVICE
    async with refused("ValidationException"):
        await kms.call("UpdateCustomKeyStore", CustomKeyStoreId=store_id, **to_public)
    await kms.call(
        "UpdateCustomKeyStore", CustomKeyStoreId=store_id, **to_public, XksProxyUriEndpoint="https://a.example.com"
    )

    configuration = (await kms.entry(store_id))["XksProxyConfiguration"]
    assert configuration["Connectivity"] == "PUBLIC_ENDPOINT"
    assert "VpcEndpointServiceName" not in configuration


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"NewCustomKeyStoreName": "other"}, "CustomKeyStoreNameInUseException"),
        (OTHER_PATH, "XksProxyUriInUseException"),
        ({"XksProxyVpcEndpointServiceName": SERVICE}, "ValidationException"),
        ({"KeyStorePassword": "kmspassword"}, "ValidationException"),
        ({"CloudHsmClusterId": "cluster-2a3b4c5d6e7"}, "ValidationException"),
        ({"NewCustomKeyStoreName": "store", "XksProxyUriPath": "/example/kms/xks/v1"}, ""),
    ],
)
async def test_an_update_is_checked_as_a_new_store_is(kms: Harness, parameters: dict[str, Any], name: str) -> None:
    store_id = await kms.create_store()
    await kms.create_store("other", **{**PUBLIC, **OTHER_PATH})

    async with refused(name):
        await kms.call("UpdateCustomKeyStore", CustomKeyStoreId=store_id, **parameters)


async def test_a_new_path_of_a_connected_store_behind_a_vpc_is_checked_with_the_proxy(kms: Harness) -> None:
    store_id = await kms.connected_store(**VPC)
    kms.proxy.failure = Outcome.INVALID_URI_PATH

    async with refused("XksProxyInvalidConfigurationException"):
        await kms.call("UpdateCustomKeyStore", CustomKeyStoreId=store_id, XksProxyUriPath="/new/kms/xks/v1")


async def test_a_store_that_connects_during_the_check_of_a_new_endpoint_keeps_its_endpoint(
    kms: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_id = await kms.create_store()
    health = kms.proxy.health

    async def connected_meanwhile(*arguments: Any) -> Any:
        monkeypatch.setattr(kms.proxy, "health", health)
        await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
        return await health(*arguments)

    monkeypatch.setattr(kms.proxy, "health", connected_meanwhile)

    async with refused("CustomKeyStoreInvalidStateException"):
        await kms.call("UpdateCustomKeyStore", CustomKeyStoreId=store_id, XksProxyUriEndpoint="https://n.example.com")

    await kms.settle()
    entry = await kms.entry(store_id)
    assert (entry["ConnectionState"], entry["XksProxyConfiguration"]["UriEndpoint"]) == (
        "CONNECTED",
        "https://xks.example.com",
    )
