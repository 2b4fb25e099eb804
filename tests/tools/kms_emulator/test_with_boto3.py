"""boto3, the emulator, a proxy and SoftHSM2: all real."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from emulator_process import kms_client, proxy_options, running_emulator, wait_for_state
from emulator_support import CLUSTER_ID, trust_anchor
from support import Proxy, eventually, free_port, lines_with
from xksproxy_tools.development.softhsm import make_token

from xksproxy.sigv4.keyring import generate_credential

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def url(proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    state = tmp_path_factory.mktemp("emulator") / "state"
    nobody = ("--resolve", f"nobody.example.com:443=127.0.0.1:{free_port()}")
    reader = ("--caller", "reader=arn:aws:iam::444455556666:role/Reader")
    with running_emulator(state, *proxy_options(proxy), *nobody, *reader, "--fast") as url:
        yield url


@pytest.fixture(scope="module")
def kms(url: str) -> Any:
    return kms_client(url)


def settings(proxy: Proxy, **changes: Any) -> dict[str, Any]:
    return {
        "CustomKeyStoreName": f"store-{uuid.uuid4()}",
        "CustomKeyStoreType": "EXTERNAL_KEY_STORE",
        "XksProxyConnectivity": "PUBLIC_ENDPOINT",
        "XksProxyUriEndpoint": "https://localhost",
        "XksProxyUriPath": "/dev/kms/xks/v1",
        "XksProxyAuthenticationCredential": {
            "AccessKeyId": proxy.credential.access_key_id,
            "RawSecretAccessKey": proxy.credential.secret_access_key,
        },
        **changes,
    }


@pytest.fixture(scope="module")
def store_id(kms: Any, proxy: Proxy) -> str:
    """The connected key store of these tests: a proxy can have only one."""
    made: str = kms.create_custom_key_store(**settings(proxy))["CustomKeyStoreId"]
    assert wait_for_state(kms, made, "DISCONNECTED")["CustomKeyStoreType"] == "EXTERNAL_KEY_STORE"
    kms.connect_custom_key_store(CustomKeyStoreId=made)
    wait_for_state(kms, made, "CONNECTED")
    return made


def create_key(kms: Any, store_id: str, xks_key_id: str, **more: Any) -> dict[str, Any]:
    answer = kms.create_key(Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store_id, XksKeyId=xks_key_id, **more)
    return dict(answer["KeyMetadata"])


@pytest.fixture(scope="module")
def key(kms: Any, store_id: str) -> dict[str, Any]:
    """A key on demo-key."""
    return create_key(kms, store_id, "demo-key", Description="with boto3")


@pytest.fixture
def refused(kms: Any) -> Callable[..., ClientError]:
    def call(name: str, operation: Callable[..., Any], **parameters: Any) -> ClientError:
        with pytest.raises(ClientError) as caught:
            operation(**parameters)
        assert caught.value.response["Error"]["Code"] == name, caught.value
        return caught.value

    return call


def test_a_key_is_described_as_the_guide_shows_it(kms: Any, store_id: str, key: dict[str, Any]) -> None:
    metadata = kms.describe_key(KeyId=key["Arn"])["KeyMetadata"]

    assert metadata == key
    assert (metadata["Origin"], metadata["CustomKeyStoreId"]) == ("EXTERNAL_KEY_STORE", store_id)
    assert (metadata["XksKeyConfiguration"], metadata["KeyState"]) == ({"Id": "demo-key"}, "Enabled")
    assert key["KeyId"] in [
        entry["KeyId"] for page in kms.get_paginator("list_keys").paginate() for entry in page["Keys"]
    ]


def test_what_is_encrypted_is_decrypted_without_naming_the_key(kms: Any, key: dict[str, Any]) -> None:
    context = {"project": "nile", "stage": "Überlauf"}
    sealed = kms.encrypt(KeyId=key["KeyId"], Plaintext=b"x" * 4096, EncryptionContext=context)

    opened = kms.decrypt(CiphertextBlob=sealed["CiphertextBlob"], EncryptionContext=context)

    assert (opened["Plaintext"], opened["KeyId"]) == (b"x" * 4096, key["Arn"])
    assert len(sealed["CiphertextBlob"]) <= 6144


def test_another_encryption_context_or_a_changed_blob_does_not_decrypt(kms: Any, key: dict[str, Any]) -> None:
    blob = kms.encrypt(KeyId=key["KeyId"], Plaintext=b"secret", EncryptionContext={"a": "b"})["CiphertextBlob"]

    with pytest.raises(kms.exceptions.KMSInvalidStateException):
        kms.decrypt(CiphertextBlob=blob, EncryptionContext={"a": "c"})
    with pytest.raises(kms.exceptions.KMSInvalidStateException):
        kms.decrypt(CiphertextBlob=blob[:-1] + bytes([blob[-1] ^ 1]), EncryptionContext={"a": "b"})
    with pytest.raises(kms.exceptions.InvalidCiphertextException):
        kms.decrypt(CiphertextBlob=b"no ciphertext")


def test_data_keys(kms: Any, key: dict[str, Any]) -> None:
    data_key = kms.generate_data_key(KeyId=key["KeyId"], KeySpec="AES_256")
    wrapped = kms.generate_data_key_without_plaintext(KeyId=key["KeyId"], NumberOfBytes=64)

    assert kms.decrypt(CiphertextBlob=data_key["CiphertextBlob"])["Plaintext"] == data_key["Plaintext"]
    assert len(kms.decrypt(CiphertextBlob=wrapped["CiphertextBlob"])["Plaintext"]) == 64
    with pytest.raises(kms.exceptions.UnsupportedOperationException):
        kms.generate_data_key_pair(KeyId=key["KeyId"], KeyPairSpec="RSA_2048")


def test_a_ciphertext_moves_out_of_the_key_store_and_back(kms: Any, key: dict[str, Any]) -> None:
    ordinary = kms.create_key()["KeyMetadata"]
    blob = kms.encrypt(KeyId=key["KeyId"], Plaintext=b"secret", EncryptionContext={"a": "b"})["CiphertextBlob"]

    out = kms.re_encrypt(CiphertextBlob=blob, SourceEncryptionContext={"a": "b"}, DestinationKeyId=ordinary["KeyId"])
    back = kms.re_encrypt(CiphertextBlob=out["CiphertextBlob"], DestinationKeyId=key["KeyId"])

    assert (out["SourceKeyId"], out["KeyId"]) == (key["Arn"], ordinary["Arn"])
    assert kms.decrypt(CiphertextBlob=back["CiphertextBlob"], KeyId=key["KeyId"])["Plaintext"] == b"secret"
    with pytest.raises(kms.exceptions.IncorrectKeyException):
        kms.decrypt(CiphertextBlob=back["CiphertextBlob"], KeyId=ordinary["KeyId"])


def test_the_proxy_logs_the_request_id_that_the_caller_got(kms: Any, proxy: Proxy, key: dict[str, Any]) -> None:
    answer = kms.generate_data_key(KeyId=key["KeyId"], KeySpec="AES_128")
    request_id = answer["ResponseMetadata"]["RequestId"]

    line, *_ = eventually(lambda: lines_with(proxy.log, request_id))
    assert key["Arn"] in line
    assert "arn:aws:iam::111122223333:user/alice" in line


def test_aliases_and_tags(kms: Any, key: dict[str, Any]) -> None:
    kms.create_alias(AliasName="alias/boto3", TargetKeyId=key["KeyId"])
    kms.tag_resource(KeyId=key["KeyId"], Tags=[{"TagKey": "a", "TagValue": "1"}, {"TagKey": "b", "TagValue": "2"}])
    kms.untag_resource(KeyId=key["KeyId"], TagKeys=["a"])

    blob = kms.encrypt(KeyId="alias/boto3", Plaintext=b"secret")["CiphertextBlob"]
    (alias,) = kms.list_aliases(KeyId=key["KeyId"])["Aliases"]

    assert kms.decrypt(CiphertextBlob=blob, KeyId=alias["AliasArn"])["KeyId"] == key["Arn"]
    assert kms.list_resource_tags(KeyId=key["KeyId"])["Tags"] == [{"TagKey": "b", "TagValue": "2"}]
    with pytest.raises(kms.exceptions.AlreadyExistsException):
        kms.create_alias(AliasName="alias/boto3", TargetKeyId=key["KeyId"])
    kms.delete_alias(AliasName="alias/boto3")
    with pytest.raises(kms.exceptions.NotFoundException):
        kms.describe_key(KeyId="alias/boto3")


def test_a_disabled_key_and_one_pending_deletion_are_not_used(kms: Any, key: dict[str, Any]) -> None:
    blob = kms.encrypt(KeyId=key["KeyId"], Plaintext=b"secret")["CiphertextBlob"]

    kms.disable_key(KeyId=key["KeyId"])
    with pytest.raises(kms.exceptions.DisabledException):
        kms.decrypt(CiphertextBlob=blob)
    assert kms.schedule_key_deletion(KeyId=key["KeyId"], PendingWindowInDays=7)["KeyState"] == "PendingDeletion"
    with pytest.raises(kms.exceptions.KMSInvalidStateException):
        kms.decrypt(CiphertextBlob=blob)
    kms.cancel_key_deletion(KeyId=key["KeyId"])
    kms.enable_key(KeyId=key["KeyId"])

    assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"secret"


@pytest.mark.parametrize(
    ("xks_key_id", "name"),
    [
        ("no-such-key", "XksKeyNotFoundException"),
        ("encrypt-only-key", "XksKeyInvalidConfigurationException"),
        ("impotent-key", "XksKeyInvalidConfigurationException"),
        ("disabled-key", "XksKeyInvalidConfigurationException"),
        ("demo-key", "XksKeyAlreadyInUseException"),
        ("a/b", "ValidationException"),
    ],
)
def test_an_external_key_that_cannot_serve_is_refused(
    kms: Any, key: dict[str, Any], refused: Callable[..., ClientError], xks_key_id: str, name: str
) -> None:
    refused(
        name,
        kms.create_key,
        Origin="EXTERNAL_KEY_STORE",
        CustomKeyStoreId=key["CustomKeyStoreId"],
        XksKeyId=xks_key_id,
    )


def test_a_store_that_cannot_be_is_refused(
    kms: Any, proxy: Proxy, store_id: str, refused: Callable[..., ClientError]
) -> None:
    stranger = generate_credential()
    wrong = {"AccessKeyId": stranger.access_key_id, "RawSecretAccessKey": stranger.secret_access_key}
    create = kms.create_custom_key_store

    refused("XksProxyUriInUseException", create, **settings(proxy))
    refused("XksProxyInvalidConfigurationException", create, **settings(proxy, XksProxyUriPath="/no/kms/xks/v1"))
    refused(
        "XksProxyIncorrectAuthenticationCredentialException",
        create,
        **settings(proxy, XksProxyUriPath="/kms/xks/v1", XksProxyAuthenticationCredential=wrong),
    )
    refused(
        "XksProxyUriUnreachableException", create, **settings(proxy, XksProxyUriEndpoint="https://nobody.example.com")
    )
    refused("ValidationException", create, **settings(proxy, XksProxyUriEndpoint="https://localhost:8443"))


def test_other_callers_have_accounts_of_their_own(url: str, kms: Any, key: dict[str, Any]) -> None:
    reader = kms_client(url, "reader")

    assert reader.list_keys()["Keys"] == []
    with pytest.raises(ClientError, match="AccessDeniedException"):
        reader.encrypt(KeyId=key["Arn"], Plaintext=b"x")


def connect(kms: Any, store_id: str, state: str) -> dict[str, Any]:
    kms.connect_custom_key_store(CustomKeyStoreId=store_id)
    return wait_for_state(kms, store_id, state)


def test_key_stores_of_both_types_are_there_after_a_restart(proxy: Proxy, tmp_path: Path) -> None:
    token = make_token(tmp_path, label="kms", pin="kmspassword", so_pin="so-password")
    options = [*proxy_options(proxy), "--fast", "--cluster", f"{CLUSTER_ID}={token.module}:kms"]
    environment = {"SOFTHSM2_CONF": str(token.configuration)}
    context = {"a": "b"}
    with running_emulator(tmp_path / "state", *options, **environment) as url:
        kms = kms_client(url)
        store_id = kms.create_custom_key_store(**settings(proxy, CustomKeyStoreName="store"))["CustomKeyStoreId"]
        connect(kms, store_id, "CONNECTED")
        key = create_key(kms, store_id, "demo-key", Tags=[{"TagKey": "a", "TagValue": "b"}])
        kms.create_alias(AliasName="alias/a", TargetKeyId=key["KeyId"])
        blob = kms.encrypt(KeyId="alias/a", Plaintext=b"secret")["CiphertextBlob"]

        cluster_store_id = kms.create_custom_key_store(
            CustomKeyStoreName="hsm",
            CloudHsmClusterId=CLUSTER_ID,
            TrustAnchorCertificate=trust_anchor(),
            KeyStorePassword="wrong-password",
        )["CustomKeyStoreId"]
        assert connect(kms, cluster_store_id, "FAILED")["ConnectionErrorCode"] == "INVALID_CREDENTIALS"
        kms.disconnect_custom_key_store(CustomKeyStoreId=cluster_store_id)
        wait_for_state(kms, cluster_store_id, "DISCONNECTED")
        kms.update_custom_key_store(CustomKeyStoreId=cluster_store_id, KeyStorePassword="kmspassword")
        connect(kms, cluster_store_id, "CONNECTED")
        cluster_key = kms.create_key(Origin="AWS_CLOUDHSM", CustomKeyStoreId=cluster_store_id)["KeyMetadata"]
        data_key = kms.generate_data_key(KeyId=cluster_key["KeyId"], KeySpec="AES_256", EncryptionContext=context)
        assert cluster_key["CloudHsmClusterId"] == CLUSTER_ID

    with running_emulator(tmp_path / "state", *options, **environment) as url:
        kms = kms_client(url)

        assert kms.decrypt(CiphertextBlob=blob)["Plaintext"] == b"secret"
        assert wait_for_state(kms, store_id, "CONNECTED")["CustomKeyStoreName"] == "store"
        assert kms.describe_key(KeyId="alias/a")["KeyMetadata"] == key
        assert kms.list_resource_tags(KeyId=key["KeyId"])["Tags"] == [{"TagKey": "a", "TagValue": "b"}]

        sealed = data_key["CiphertextBlob"]
        assert kms.decrypt(CiphertextBlob=sealed, EncryptionContext=context)["Plaintext"] == data_key["Plaintext"]
        with pytest.raises(kms.exceptions.InvalidCiphertextException):
            kms.decrypt(CiphertextBlob=sealed)
        kms.disconnect_custom_key_store(CustomKeyStoreId=cluster_store_id)
        wait_for_state(kms, cluster_store_id, "DISCONNECTED")
        with pytest.raises(kms.exceptions.KMSInvalidStateException):
            kms.decrypt(CiphertextBlob=sealed, EncryptionContext=context)
