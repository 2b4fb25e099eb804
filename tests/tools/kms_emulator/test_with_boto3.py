"""The command `xksproxy kms-emulator` with boto3, a proxy and SoftHSM2 tokens; guide/ tests each statement of AWS."""

from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from emulator_guide_support import for_kms
from emulator_process import kms_client, proxy_options, running_emulator, wait_for_state
from emulator_support import CLUSTER_ID, trust_anchor
from support import Proxy
from xksproxy_tools.development.softhsm import make_token

pytestmark = pytest.mark.slow

CONTEXT = {"project": "nile", "stage": "Überlauf"}


def connect(kms: Any, store_id: str, state: str) -> dict[str, Any]:
    kms.connect_custom_key_store(CustomKeyStoreId=store_id)
    return wait_for_state(kms, store_id, state)


def disconnect(kms: Any, store_id: str) -> None:
    kms.disconnect_custom_key_store(CustomKeyStoreId=store_id)
    wait_for_state(kms, store_id, "DISCONNECTED")


def external_key(kms: Any, proxy: Proxy) -> dict[str, Any]:
    """A KMS key on demo-key, with a tag and an alias, in a connected key store."""
    store_id = kms.create_custom_key_store(
        CustomKeyStoreName="store",
        CustomKeyStoreType="EXTERNAL_KEY_STORE",
        XksProxyConnectivity="PUBLIC_ENDPOINT",
        XksProxyUriEndpoint="https://localhost",
        XksProxyUriPath="/dev/kms/xks/v1",
        XksProxyAuthenticationCredential=for_kms(proxy.credential),
    )["CustomKeyStoreId"]
    connect(kms, store_id, "CONNECTED")
    key = kms.create_key(
        Origin="EXTERNAL_KEY_STORE",
        CustomKeyStoreId=store_id,
        XksKeyId="demo-key",
        Tags=[{"TagKey": "a", "TagValue": "b"}],
    )["KeyMetadata"]
    kms.create_alias(AliasName="alias/a", TargetKeyId=key["KeyId"])
    return dict(key)


def cluster_key(kms: Any) -> dict[str, Any]:
    """A KMS key in a CloudHSM key store, which is connected at the second attempt."""
    store_id = kms.create_custom_key_store(
        CustomKeyStoreName="hsm",
        CloudHsmClusterId=CLUSTER_ID,
        TrustAnchorCertificate=trust_anchor(),
        KeyStorePassword="wrong-password",
    )["CustomKeyStoreId"]
    assert connect(kms, store_id, "FAILED")["ConnectionErrorCode"] == "INVALID_CREDENTIALS"
    disconnect(kms, store_id)
    kms.update_custom_key_store(CustomKeyStoreId=store_id, KeyStorePassword="kmspassword")
    connect(kms, store_id, "CONNECTED")
    return dict(kms.create_key(Origin="AWS_CLOUDHSM", CustomKeyStoreId=store_id)["KeyMetadata"])


def test_keys_in_key_stores_of_both_types_work_before_and_after_a_restart(proxy: Proxy, tmp_path: Path) -> None:
    token = make_token(tmp_path, label="kms", pin="kmspassword", so_pin="so-password")
    options = [*proxy_options(proxy), "--fast", "--cluster", f"{CLUSTER_ID}={token.module}:kms"]
    options += ["--caller", "reader=arn:aws:iam::444455556666:role/Reader"]
    environment = {"SOFTHSM2_CONF": str(token.configuration)}
    with running_emulator(tmp_path / "state", *options, **environment) as url:
        kms, reader = kms_client(url), kms_client(url, "reader")
        external, in_cluster = external_key(kms, proxy), cluster_key(kms)
        blob = kms.encrypt(KeyId="alias/a", Plaintext=b"x" * 4096, EncryptionContext=CONTEXT)["CiphertextBlob"]
        data_key = kms.generate_data_key(KeyId=in_cluster["KeyId"], KeySpec="AES_256", EncryptionContext=CONTEXT)

        assert len(blob) <= 6144
        assert in_cluster["CloudHsmClusterId"] == CLUSTER_ID
        assert reader.list_keys()["Keys"] == []
        with pytest.raises(ClientError, match="AccessDeniedException"):
            reader.encrypt(KeyId=external["Arn"], Plaintext=b"x")

    with running_emulator(tmp_path / "state", *options, **environment) as url:
        kms = kms_client(url)

        opened = kms.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)
        assert (opened["Plaintext"], opened["KeyId"]) == (b"x" * 4096, external["Arn"])
        with pytest.raises(kms.exceptions.KMSInvalidStateException):
            kms.decrypt(CiphertextBlob=blob)
        with pytest.raises(kms.exceptions.KMSInvalidStateException):
            kms.decrypt(CiphertextBlob=blob[:-1] + bytes([blob[-1] ^ 1]), EncryptionContext=CONTEXT)
        with pytest.raises(kms.exceptions.InvalidCiphertextException):
            kms.decrypt(CiphertextBlob=b"no ciphertext")
        assert wait_for_state(kms, external["CustomKeyStoreId"], "CONNECTED")["CustomKeyStoreName"] == "store"
        assert kms.describe_key(KeyId="alias/a")["KeyMetadata"] == external
        assert kms.list_resource_tags(KeyId=external["KeyId"])["Tags"] == [{"TagKey": "a", "TagValue": "b"}]

        sealed = data_key["CiphertextBlob"]
        assert kms.decrypt(CiphertextBlob=sealed, EncryptionContext=CONTEXT)["Plaintext"] == data_key["Plaintext"]
        with pytest.raises(kms.exceptions.InvalidCiphertextException):
            kms.decrypt(CiphertextBlob=sealed)
        disconnect(kms, in_cluster["CustomKeyStoreId"])
        with pytest.raises(kms.exceptions.KMSInvalidStateException):
            kms.decrypt(CiphertextBlob=sealed, EncryptionContext=CONTEXT)
