"""The command `xksproxy kms-emulator`, used by boto3, with a real proxy and SoftHSM2 tokens."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from click.testing import CliRunner
from emulator_support import CLUSTER_ID, SERVICE, trust_anchor
from server_support import Caller, SealedMessage
from support import PATIENCE_SECONDS, REGION, Proxy, eventually, free_port, lines_with, wait_until_serving
from xksproxy_tools.development.softhsm import make_token
from xksproxy_tools.kms_emulator.blob import Blob, authenticated_data, pack, unpack
from xksproxy_tools.kms_emulator.proxy.responses import Sealed

from xksproxy.cli.main import cli
from xksproxy.client.xks import XksClient
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.pkcs11.connection import Connection
from xksproxy.hsm.pkcs11.key_objects import destroy_key
from xksproxy.sigv4.keyring import Credential, generate_credential

pytestmark = pytest.mark.slow

CONTEXT = {"project": "nile", "stage": "Überlauf"}


@contextmanager
def running_emulator(proxy: Proxy, state: Path, *options: str, **environment: str) -> Iterator[str]:
    """An emulator on a free port that reaches the proxy as https://localhost; yields its URL. SIGTERM ends it."""
    command = [sys.executable, "-m", "xksproxy", "kms-emulator", "--listen", "127.0.0.1:0", "--state", str(state)]
    command += ["--ca", str(proxy.environment.authority), "--resolve", f"localhost:443=127.0.0.1:{proxy.port}"]
    command += ["--resolve", f"nobody.example.com:443=127.0.0.1:{free_port()}", "--time-limit-ms", "40000"]
    log = state.with_suffix(".log")
    with (
        log.open("ab") as output,
        subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=output, text=True, env={**os.environ, **environment}
        ) as process,
    ):
        try:
            assert process.stdout
            urls = (match[1] for line in process.stdout if (match := re.search(r"serving on (http://\S+)", line)))
            yield next(urls)
        finally:
            process.terminate()
            process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, log.read_text()


def kms_client(url: str, access_key_id: str = "alice") -> Any:
    """boto3's client of KMS. It does not retry. The emulator does not verify its credential."""
    return boto3.client(
        "kms",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id=access_key_id,
        aws_secret_access_key="not-verified",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=10, read_timeout=60),
    )


def wait_for_state(kms: Any, store_id: str, state: str) -> dict[str, Any]:
    """The entry of a key store, once it has a connection state."""

    def entry() -> dict[str, Any]:
        (found,) = kms.describe_custom_key_stores(CustomKeyStoreId=store_id)["CustomKeyStores"]
        assert found["ConnectionState"] == state or found["ConnectionState"].endswith("ING"), found
        return dict(found)

    eventually(lambda: entry()["ConnectionState"], state)
    return entry()


def connect(kms: Any, store_id: str, state: str = "CONNECTED") -> dict[str, Any]:
    kms.connect_custom_key_store(CustomKeyStoreId=store_id)
    return wait_for_state(kms, store_id, state)


def disconnect(kms: Any, store_id: str) -> None:
    kms.disconnect_custom_key_store(CustomKeyStoreId=store_id)
    wait_for_state(kms, store_id, "DISCONNECTED")


def for_kms(credential: Credential) -> dict[str, str]:
    return {"AccessKeyId": credential.access_key_id, "RawSecretAccessKey": credential.secret_access_key}


def store_settings(proxy: Proxy, **changes: Any) -> dict[str, Any]:
    """The parameters of CreateCustomKeyStore for the proxy of the tests."""
    return {
        "CustomKeyStoreName": "store",
        "CustomKeyStoreType": "EXTERNAL_KEY_STORE",
        "XksProxyConnectivity": "PUBLIC_ENDPOINT",
        "XksProxyUriEndpoint": "https://localhost",
        "XksProxyUriPath": "/dev/kms/xks/v1",
        "XksProxyAuthenticationCredential": for_kms(proxy.credential),
        **changes,
    }


def connected_store(kms: Any, proxy: Proxy) -> str:
    store_id = str(kms.create_custom_key_store(**store_settings(proxy))["CustomKeyStoreId"])
    connect(kms, store_id)
    return store_id


def create_key(kms: Any, store_id: str, external_key_id: str, **more: Any) -> dict[str, Any]:
    """A KMS key in an external key store; its KeyMetadata."""
    parameters = {"Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": store_id, "XksKeyId": external_key_id, **more}
    return dict(kms.create_key(**parameters)["KeyMetadata"])


def refused(name: str, call: Callable[..., Any], **parameters: Any) -> str:
    """The message of a call that is refused with this exception."""
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    assert caught.value.response["Error"]["Code"] == name, caught.value
    return str(caught.value)


# --- One emulator and its restarts


def cluster_key(kms: Any) -> dict[str, Any]:
    """A KMS key in a CloudHSM key store that is connected at the second attempt."""
    store_id = kms.create_custom_key_store(
        CustomKeyStoreName="hsm",
        CloudHsmClusterId=CLUSTER_ID,
        TrustAnchorCertificate=trust_anchor(),
        KeyStorePassword="wrong-password",
    )["CustomKeyStoreId"]
    assert connect(kms, store_id, "FAILED")["ConnectionErrorCode"] == "INVALID_CREDENTIALS"
    disconnect(kms, store_id)
    kms.update_custom_key_store(CustomKeyStoreId=store_id, KeyStorePassword="kmspassword")
    connect(kms, store_id)
    return dict(kms.create_key(Origin="AWS_CLOUDHSM", CustomKeyStoreId=store_id)["KeyMetadata"])


def test_keys_in_key_stores_of_both_types_work_before_and_after_a_restart(proxy: Proxy, tmp_path: Path) -> None:
    token = make_token(tmp_path, label="kms", pin="kmspassword", so_pin="so-password")
    options = ["--cluster", f"{CLUSTER_ID}={token.module}:kms"]
    options += ["--caller", "reader=arn:aws:iam::444455556666:role/Reader"]
    environment = {"SOFTHSM2_CONF": str(token.configuration)}
    with running_emulator(proxy, tmp_path / "state", *options, "--fast", **environment) as url:
        kms, reader = kms_client(url), kms_client(url, "reader")
        tags = [{"TagKey": "a", "TagValue": "b"}]
        external, in_cluster = create_key(kms, connected_store(kms, proxy), "demo-key", Tags=tags), cluster_key(kms)
        kms.create_alias(AliasName="alias/a", TargetKeyId=external["KeyId"])
        blob = kms.encrypt(KeyId="alias/a", Plaintext=b"x" * 4096, EncryptionContext=CONTEXT)["CiphertextBlob"]
        data_key = kms.generate_data_key(KeyId=in_cluster["KeyId"], KeySpec="AES_256", EncryptionContext=CONTEXT)

        assert len(blob) <= 6144
        assert in_cluster["CloudHsmClusterId"] == CLUSTER_ID
        assert reader.list_keys()["Keys"] == []
        refused("AccessDeniedException", reader.encrypt, KeyId=external["Arn"], Plaintext=b"x")

    with running_emulator(proxy, tmp_path / "state", *options, "--fast", **environment) as url:
        kms = kms_client(url)

        opened = kms.decrypt(CiphertextBlob=blob, EncryptionContext=CONTEXT)
        assert (opened["Plaintext"], opened["KeyId"]) == (b"x" * 4096, external["Arn"])
        refused("KMSInvalidStateException", kms.decrypt, CiphertextBlob=blob)
        changed = blob[:-1] + bytes([blob[-1] ^ 1])
        refused("KMSInvalidStateException", kms.decrypt, CiphertextBlob=changed, EncryptionContext=CONTEXT)
        refused("InvalidCiphertextException", kms.decrypt, CiphertextBlob=b"no ciphertext")
        assert wait_for_state(kms, external["CustomKeyStoreId"], "CONNECTED")["CustomKeyStoreName"] == "store"
        assert kms.describe_key(KeyId="alias/a")["KeyMetadata"] == external
        assert kms.list_resource_tags(KeyId=external["KeyId"])["Tags"] == tags

        sealed = data_key["CiphertextBlob"]
        assert kms.decrypt(CiphertextBlob=sealed, EncryptionContext=CONTEXT)["Plaintext"] == data_key["Plaintext"]
        refused("InvalidCiphertextException", kms.decrypt, CiphertextBlob=sealed)
        disconnect(kms, in_cluster["CustomKeyStoreId"])
        refused("KMSInvalidStateException", kms.decrypt, CiphertextBlob=sealed, EncryptionContext=CONTEXT)

    # The same key stores with a quota, and with the time that AWS takes to connect and disconnect.
    with running_emulator(proxy, tmp_path / "state", *options, "--requests-per-second", "1", **environment) as url:
        kms, store_id = kms_client(url), external["CustomKeyStoreId"]

        def outcome() -> str:
            with pytest.raises(ClientError) as caught:
                kms.encrypt(KeyId="alias/a", Plaintext=b"x", DryRun=True)
            return str(caught.value.response["Error"]["Code"])

        eventually(outcome, "ThrottlingException")
        kms.disconnect_custom_key_store(CustomKeyStoreId=store_id)
        (entry,) = kms.describe_custom_key_stores(CustomKeyStoreId=store_id)["CustomKeyStores"]
        assert entry["ConnectionState"] == "DISCONNECTING"


# --- The emulator and the proxy


@pytest.fixture(scope="module")
def url(proxy: Proxy, connection: Connection, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    # SoftHSM2 fails the proxy's calls while this process logs in to the token for the fixture `connection`.
    wait_until_serving(proxy.environment.config, proxy.process)
    state = tmp_path_factory.mktemp("emulator") / "state"
    options = ["--fast", "--vpc-endpoint-service", SERVICE, "--caller", "bob=arn:aws:iam::444455556666:user/Bob"]
    with running_emulator(proxy, state, *options) as url:
        yield url


@pytest.fixture(scope="module")
def kms(url: str) -> Any:
    return kms_client(url)


@pytest.fixture(scope="module")
def store_id(kms: Any, proxy: Proxy) -> str:
    """A connected external key store."""
    return connected_store(kms, proxy)


@pytest.fixture
def key(kms: Any, store_id: str, session: HsmSession, unique_label: Callable[[str], str]) -> dict[str, Any]:
    """A KMS key on an external key that only this test uses."""
    label = unique_label("emulator")
    session.create_key(label, bits=256, encrypt=True, decrypt=True)
    return create_key(kms, store_id, label)


def test_kms_encrypts_first_and_then_the_external_key_through_the_proxy(
    kms: Any, proxy: Proxy, key: dict[str, Any], client: XksClient, request_metadata: dict[str, str]
) -> None:
    external_key, caller = key["XksKeyConfiguration"]["Id"], Caller(client, request_metadata)
    answer = kms.encrypt(KeyId=key["KeyId"], Plaintext=b"Hello World!", EncryptionContext=CONTEXT)
    blob = unpack(answer["CiphertextBlob"])
    outer, aad = blob.sealed, authenticated_data(blob.header, CONTEXT)

    inner = caller.open(
        external_key, SealedMessage(outer.iv, outer.ciphertext, outer.tag, aad, outer.ciphertext_metadata)
    )

    assert b"Hello World!" not in inner
    request_id = answer["ResponseMetadata"]["RequestId"]
    line = eventually(lambda: "".join(lines_with(proxy.log, request_id)))
    for text in ('operation="Encrypt"', '"kmsOperation":"Encrypt"', f'"kmsKeyArn":"{key["Arn"]}"', external_key):
        assert text in line
    # The proxy decrypts a changed inner layer, but the key material in KMS does not.
    made = caller.seal(external_key, inner[:-1] + bytes([inner[-1] ^ 1]), aad)
    changed = pack(Blob(blob.header, Sealed(made.ciphertext, made.ctm, made.iv, made.tag)))
    message = refused("KMSInvalidStateException", kms.decrypt, CiphertextBlob=changed, EncryptionContext=CONTEXT)
    assert "cannot decrypt what the external key store proxy returned" in message


def test_a_kms_key_cannot_be_used_while_its_external_key_is_blocked_or_after_it_is_destroyed(
    kms: Any, proxy: Proxy, key: dict[str, Any], session: HsmSession
) -> None:
    key_id, external_key = key["KeyId"], key["XksKeyConfiguration"]["Id"]

    def refusal() -> str:
        """The error of Encrypt; empty if it works. A change reaches the proxy's workers one by one."""
        try:
            kms.encrypt(KeyId=key_id, Plaintext=b"x")
        except kms.exceptions.KMSInvalidStateException as error:
            return str(error)
        return ""

    def tell_proxy(command: str) -> None:
        options = ["--config", str(proxy.environment.config), "--keystore", "dev", "--key", external_key]
        assert CliRunner().invoke(cli, [command, *options]).exit_code == 0

    tell_proxy("block")
    eventually(lambda: "is not enabled in the external key manager" in refusal())
    tell_proxy("unblock")
    eventually(refusal, "")
    destroy_key(session.binding, external_key)
    eventually(lambda: "is not found by the external key store proxy" in refusal())
    assert kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "Enabled"


@pytest.mark.parametrize(
    ("external_key_id", "refusal"),
    [
        ("test-absent", ("XksKeyNotFoundException", "not found")),
        ("disabled-key", ("XksKeyInvalidConfigurationException", "DISABLED")),
        ("encrypt-only-key", ("XksKeyInvalidConfigurationException", "lacks DECRYPT.")),
        ("test-emulator-128", ("XksKeyInvalidConfigurationException", "AES_128")),
    ],
)
def test_create_key_refuses_an_external_key_that_the_proxy_describes_as_unsuitable(
    kms: Any, store_id: str, session: HsmSession, external_key_id: str, refusal: tuple[str, str]
) -> None:
    if external_key_id.endswith("128"):
        session.create_key(external_key_id, bits=128, encrypt=True, decrypt=True)

    name, words = refusal
    assert words in refused(
        name, kms.create_key, Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store_id, XksKeyId=external_key_id
    )


@pytest.mark.parametrize(
    ("changes", "name", "code"),
    [
        (
            {"XksProxyAuthenticationCredential": for_kms(generate_credential())},
            "XksProxyIncorrectAuthenticationCredentialException",
            "INVALID_CREDENTIALS",
        ),
        (
            {"XksProxyUriPath": "/no/kms/xks/v1"},
            "XksProxyInvalidConfigurationException",
            "XKS_PROXY_INVALID_CONFIGURATION",
        ),
        (
            {"XksProxyUriEndpoint": "https://nobody.example.com"},
            "XksProxyUriUnreachableException",
            "XKS_PROXY_NOT_REACHABLE",
        ),
    ],
    ids=["credential", "path", "endpoint"],
)
def test_wrong_settings_prevent_creating_a_public_store_and_connecting_one_behind_a_vpc(
    url: str, proxy: Proxy, changes: dict[str, Any], name: str, code: str
) -> None:
    kms = kms_client(url, "bob")
    vpc = {"XksProxyConnectivity": "VPC_ENDPOINT_SERVICE", "XksProxyVpcEndpointServiceName": SERVICE, **changes}

    refused(name, kms.create_custom_key_store, **store_settings(proxy, **changes))
    absent = store_settings(proxy, **{**vpc, "XksProxyVpcEndpointServiceName": f"{SERVICE}0"})
    refused("XksProxyVpcEndpointServiceNotFoundException", kms.create_custom_key_store, **absent)
    store_id = kms.create_custom_key_store(**store_settings(proxy, **vpc))["CustomKeyStoreId"]
    assert connect(kms, store_id, "FAILED")["ConnectionErrorCode"] == code

    disconnect(kms, store_id)
    kms.delete_custom_key_store(CustomKeyStoreId=store_id)
