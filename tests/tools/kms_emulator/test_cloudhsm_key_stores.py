"""AWS CloudHSM key stores, and how they differ from external ones."""

from typing import Any

import pytest
from emulator_support import CLUSTER, CLUSTER_ID, PUBLIC, FakeCluster, Harness, refused
from xksproxy_tools.kms_emulator.cloudhsm import ClusterOutcome, create_key_error


async def cluster_key(kms: Harness, store_id: str) -> str:
    metadata = (await kms.call("CreateKey", Origin="AWS_CLOUDHSM", CustomKeyStoreId=store_id))["KeyMetadata"]
    return str(metadata["KeyId"])


async def test_cloudhsm_is_the_default_type_and_a_store_shows_its_cluster(kms: Harness) -> None:
    settings = {name: value for name, value in CLUSTER.items() if name != "CustomKeyStoreType"}
    store_id = await kms.create_store(**settings)

    entry = await kms.entry(store_id)

    assert entry.pop("CreationDate")
    assert entry == {
        "CustomKeyStoreId": store_id,
        "CustomKeyStoreName": "store",
        "ConnectionState": "DISCONNECTED",
        "CustomKeyStoreType": "AWS_CLOUDHSM",
        "CloudHsmClusterId": CLUSTER_ID,
        "TrustAnchorCertificate": CLUSTER["TrustAnchorCertificate"],
    }


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"CloudHsmClusterId": None}, "ValidationException"),
        ({"KeyStorePassword": None}, "ValidationException"),
        ({"TrustAnchorCertificate": None}, "ValidationException"),
        ({"XksProxyUriPath": "/kms/xks/v1"}, "ValidationException"),
        ({"CloudHsmClusterId": "cluster-aaaaaaaaaaa"}, "CloudHsmClusterNotFoundException"),
        ({"TrustAnchorCertificate": "no certificate"}, "IncorrectTrustAnchorException"),
    ],
)
async def test_invalid_settings_are_refused(kms: Harness, change: dict[str, Any], name: str) -> None:
    settings = {member: value for member, value in {**CLUSTER, **change}.items() if value is not None}

    async with refused(name):
        await kms.create_store(**settings)


async def test_a_cluster_has_one_store(kms: Harness) -> None:
    await kms.create_store("first", **CLUSTER)

    async with refused("CloudHsmClusterInUseException"):
        await kms.create_store("second", **CLUSTER)


async def test_a_key_is_made_in_the_cluster_and_used_there(kms: Harness) -> None:
    store_id = await kms.connected_cluster_store()

    metadata = (await kms.call("CreateKey", Origin="AWS_CLOUDHSM", CustomKeyStoreId=store_id))["KeyMetadata"]
    key_id = metadata["KeyId"]
    blob = (await kms.call("Encrypt", KeyId=key_id, Plaintext=b"secret", EncryptionContext={"a": "b"}))[
        "CiphertextBlob"
    ]
    answer = await kms.call("Decrypt", CiphertextBlob=blob, EncryptionContext={"a": "b"})

    assert answer["Plaintext"] == b"secret"
    async with refused("InvalidCiphertextException"):
        await kms.call("Decrypt", CiphertextBlob=blob)
    assert (metadata["Origin"], metadata["CloudHsmClusterId"]) == ("AWS_CLOUDHSM", CLUSTER_ID)
    assert metadata["CustomKeyStoreId"] == store_id
    assert "XksKeyConfiguration" not in metadata
    assert list(kms.cluster.keys) == [key_id]
    assert kms.database.key(key_id).material is None
    assert kms.proxy.calls == []


async def test_data_keys_and_re_encryption_work_too(kms: Harness) -> None:
    key_id = await cluster_key(kms, await kms.connected_cluster_store())
    other = await kms.create_key()

    data_key = await kms.call("GenerateDataKey", KeyId=key_id, KeySpec="AES_256")
    moved = await kms.call("ReEncrypt", CiphertextBlob=data_key["CiphertextBlob"], DestinationKeyId=other)

    assert (await kms.call("Decrypt", CiphertextBlob=moved["CiphertextBlob"]))["Plaintext"] == data_key["Plaintext"]
    async with refused("UnsupportedOperationException"):
        await kms.call("GenerateDataKeyPair", KeyId=key_id, KeyPairSpec="RSA_2048")


async def test_a_cluster_that_no_longer_exists_is_not_found(kms: Harness) -> None:
    store_id = await kms.create_store(**CLUSTER)
    kms.clusters.clear()

    await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.settle()

    assert (await kms.entry(store_id))["ConnectionErrorCode"] == "CLUSTER_NOT_FOUND"


async def test_a_wrong_password_is_corrected_by_an_update_while_disconnected(kms: Harness) -> None:
    store_id = await kms.create_store(**{**CLUSTER, "KeyStorePassword": "wrong-password"})
    await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.settle()
    assert (await kms.entry(store_id))["ConnectionErrorCode"] == "INVALID_CREDENTIALS"
    update = {"CustomKeyStoreId": store_id, "KeyStorePassword": "kmspassword"}

    async with refused("CustomKeyStoreInvalidStateException"):
        await kms.call("UpdateCustomKeyStore", **update)
    await kms.call("DisconnectCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.settle()
    await kms.call("UpdateCustomKeyStore", **update)
    await kms.call("ConnectCustomKeyStore", CustomKeyStoreId=store_id)
    await kms.settle()

    assert await kms.state(store_id) == "CONNECTED"


async def test_a_store_cannot_change_to_another_cluster(kms: Harness) -> None:
    store_id = await kms.create_store(**CLUSTER)
    kms.clusters["cluster-aaaaaaaaaaa"] = FakeCluster()

    async with refused("CloudHsmClusterNotRelatedException"):
        await kms.call("UpdateCustomKeyStore", CustomKeyStoreId=store_id, CloudHsmClusterId="cluster-aaaaaaaaaaa")
    async with refused("CloudHsmClusterNotFoundException"):
        await kms.call("UpdateCustomKeyStore", CustomKeyStoreId=store_id, CloudHsmClusterId="cluster-bbbbbbbbbbb")


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"NewCustomKeyStoreName": "new"}, ""),
        ({"KeyStorePassword": "kmspassword"}, "CustomKeyStoreInvalidStateException"),
        ({"CloudHsmClusterId": CLUSTER_ID}, "CustomKeyStoreInvalidStateException"),
        ({"XksProxyUriPath": "/kms/xks/v1"}, "ValidationException"),
    ],
)
async def test_while_connected_only_the_name_changes(kms: Harness, parameters: dict[str, str], name: str) -> None:
    store_id = await kms.connected_cluster_store()

    async with refused(name):
        await kms.call("UpdateCustomKeyStore", CustomKeyStoreId=store_id, **parameters)


@pytest.mark.parametrize(
    ("outcome", "name"),
    [(ClusterOutcome.NO_ACTIVE_HSM, "KMSInvalidStateException"), (ClusterOutcome.BUSY, "ThrottlingException")],
)
async def test_a_failure_of_the_cluster_fails_cryptography_and_new_keys_and_leaves_keys_enabled(
    kms: Harness, outcome: ClusterOutcome, name: str
) -> None:
    store_id = await kms.connected_cluster_store()
    key_id = await cluster_key(kms, store_id)
    blob = (await kms.call("Encrypt", KeyId=key_id, Plaintext=b"x"))["CiphertextBlob"]
    kms.cluster.failure = outcome

    async with refused(name):
        await kms.call("Encrypt", KeyId=key_id, Plaintext=b"x")
    async with refused(name):
        await kms.call("Decrypt", CiphertextBlob=blob)
    async with refused(create_key_error(outcome).name):
        await cluster_key(kms, store_id)
    assert await kms.key_state(key_id) == "Enabled"


async def test_a_disconnected_store_makes_its_keys_unavailable(kms: Harness) -> None:
    store_id = await kms.connected_cluster_store()
    key_id = await cluster_key(kms, store_id)

    await kms.bring(store_id, "DISCONNECTED")

    assert not kms.cluster.connected
    assert await kms.key_state(key_id) == "Unavailable"
    async with refused("KMSInvalidStateException") as error:
        await kms.call("Encrypt", KeyId=key_id, Plaintext=b"x")
    assert "is unavailable" in error.message


async def test_the_origin_must_match_the_type_of_the_store(kms: Harness) -> None:
    cluster_store, external_store = await kms.connected_cluster_store(), await kms.connected_store("external", **PUBLIC)

    async with refused("UnsupportedOperationException"):
        await kms.call("CreateKey", Origin="AWS_CLOUDHSM", CustomKeyStoreId=external_store)
    async with refused("UnsupportedOperationException"):
        await kms.create_key(cluster_store)


@pytest.mark.parametrize("failure", [None, ClusterOutcome.NO_ACTIVE_HSM])
async def test_a_key_is_deleted_with_its_material_if_its_cluster_can_be_reached(
    kms: Harness, failure: ClusterOutcome | None
) -> None:
    key_id = await cluster_key(kms, await kms.connected_cluster_store())
    await kms.call("ScheduleKeyDeletion", KeyId=key_id, PendingWindowInDays=7)
    kms.clock.now += 8 * 24 * 60 * 60
    kms.cluster.failure = failure

    assert (await kms.call("ListKeys"))["Keys"] == []

    assert len(kms.cluster.keys) == (0 if failure is None else 1)
