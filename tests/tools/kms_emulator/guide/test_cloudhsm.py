"""The statements of AWS's page "Using KMS keys in an AWS CloudHSM key store" (use-cmk-keystore).

The cluster is a PKCS#11 token, behind a module that fails as it is told.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from emulator_guide_support import (
    FIVE_OPERATIONS,
    PLAINTEXT,
    Account,
    Accounts,
    all_refused,
    all_work,
    decrypt,
    encrypt,
    is_refused,
    share_quota_of_one_a_second,
    soon,
)
from emulator_support import CLUSTER_ID, trust_anchor
from fault_support import FaultyHsm, make_faulty_hsm, unique
from support import Proxy
from xksproxy_tools.development.environment import DevEnvironment
from xksproxy_tools.kms_emulator.blob import authenticated_data, unpack

from xksproxy.config.check import read_pin
from xksproxy.config.model import Hsm
from xksproxy.hsm import keys as hsm_keys
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.pkcs11.key_objects import destroy_key
from xksproxy.hsm.pkcs11.modules import Modules

pytestmark = pytest.mark.slow

CONTEXT = {"project": "nile"}
BUSY = 0x6
Operate = Callable[..., dict[str, Any]]


@dataclass(frozen=True)
class Cluster:
    """A cluster of one account, and the ways to it that KMS does not have."""

    faulty: FaultyHsm
    inside: HsmSession
    password: str

    def tell(self, *rules: str) -> None:
        self.faulty.tell(*rules)


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory,
    fault_module: Path,
    environment: DevEnvironment,
    hsm: Hsm,
    modules: Modules,
) -> Iterator[Cluster]:
    pin = read_pin(hsm)
    assert pin is not None
    directory = tmp_path_factory.mktemp("cluster")
    like = msgspec.structs.replace(hsm, busy_codes=("CKR_FUNCTION_FAILED",))
    faulty = make_faulty_hsm(directory, unique("cluster"), fault_module, environment.directory / "tokens", like)
    # The same token through a module of its own, which does not fail.
    module = shutil.copy(hsm.module, directory / "inside.so")
    inside = HsmSession(modules.connect(msgspec.structs.replace(faulty.hsm, module=str(module)), pin))
    yield Cluster(faulty, inside, pin.reveal())
    faulty.tell()
    inside.close()


@pytest.fixture(scope="module")
def account(cluster: Cluster, start_emulator: Callable[..., Any], proxy: Proxy) -> Iterator[Account]:
    """The account of the cluster: only one key store can have it."""
    with start_emulator(clusters={CLUSTER_ID: msgspec.structs.replace(cluster.faulty.hsm, pin=None)}) as url:
        yield Accounts.of(url, proxy).new()


def settings(cluster: Cluster) -> dict[str, str]:
    return {
        "CustomKeyStoreName": "ExampleCloudHSMKeyStore",
        "CloudHsmClusterId": CLUSTER_ID,
        "TrustAnchorCertificate": trust_anchor(),
        "KeyStorePassword": cluster.password,
    }


@pytest.fixture(scope="module")
def made_store_id(account: Account, cluster: Cluster) -> str:
    return account.create_store(**settings(cluster))


@pytest.fixture
def store_id(account: Account, cluster: Cluster, made_store_id: str) -> Iterator[str]:
    """The key store, connected, however the test before left it."""
    cluster.tell()
    entry = account.describe_store(made_store_id)
    if entry["ConnectionState"] != "DISCONNECTED":
        account.disconnect(made_store_id)
    account.connect(made_store_id)
    yield made_store_id
    cluster.tell()


@pytest.fixture
def kms(account: Account) -> Any:
    return account.kms


@pytest.fixture
def key(kms: Any, store_id: str) -> dict[str, Any]:
    """A KMS key whose material is in the cluster."""
    return dict(kms.create_key(Origin="AWS_CLOUDHSM", CustomKeyStoreId=store_id)["KeyMetadata"])


@pytest.fixture
def blob(kms: Any, key: dict[str, Any]) -> bytes:
    return bytes(encrypt(kms, key["KeyId"], b"", {})["CiphertextBlob"])


# --- Which operations there are


@pytest.mark.parametrize("operation", FIVE_OPERATIONS)
def test_a_key_can_be_used_for_these_five_operations(kms: Any, key: dict[str, Any], operation: Operate) -> None:
    """use-cmk-keystore: the list."""
    blob = encrypt(kms, key["KeyId"], b"", CONTEXT)["CiphertextBlob"]

    answer = operation(kms, key["KeyId"], blob, CONTEXT)

    result = answer.get("CiphertextBlob", blob)
    assert kms.decrypt(CiphertextBlob=result, EncryptionContext=CONTEXT)["KeyId"] == key["Arn"]
    is_refused("InvalidCiphertextException", kms.decrypt, CiphertextBlob=result)


@pytest.mark.parametrize("operation", ["generate_data_key_pair", "generate_data_key_pair_without_plaintext"])
def test_data_key_pairs_are_not_supported(kms: Any, key: dict[str, Any], operation: str) -> None:
    """use-cmk-keystore: not in custom key stores."""
    is_refused(
        "UnsupportedOperationException", getattr(kms, operation), KeyId=key["KeyId"], KeyPairSpec="ECC_NIST_P256"
    )


def test_a_key_is_identified_by_its_id_or_alias(kms: Any, key: dict[str, Any], blob: bytes) -> None:
    """use-cmk-keystore: neither key store nor cluster is specified."""
    kms.create_alias(AliasName="alias/cluster", TargetKeyId=key["KeyId"])

    for operation in FIVE_OPERATIONS:
        for name in (key["KeyId"], "alias/cluster"):
            assert operation(kms, name, blob, {})["KeyId"] == key["Arn"]
    kms.delete_alias(AliasName="alias/cluster")


def test_the_response_has_the_fields_of_any_symmetric_encryption_key(
    kms: Any, key: dict[str, Any], blob: bytes
) -> None:
    """use-cmk-keystore: the same fields."""
    standard = kms.create_key()["KeyMetadata"]
    standard_blob = encrypt(kms, standard["KeyId"], b"", {})["CiphertextBlob"]

    for operation in FIVE_OPERATIONS:
        expected = operation(kms, standard["KeyId"], standard_blob, {})
        assert operation(kms, key["KeyId"], blob, {}).keys() == expected.keys()
    assert key["CloudHsmClusterId"] == CLUSTER_ID
    assert "XksKeyConfiguration" not in key


def test_the_operation_is_performed_entirely_within_the_cluster(
    kms: Any, key: dict[str, Any], cluster: Cluster
) -> None:
    """use-cmk-keystore: with the key material there, and no other, so the cluster alone can decrypt."""
    blob = unpack(encrypt(kms, key["KeyId"], b"", CONTEXT)["CiphertextBlob"])
    sealed = hsm_keys.Sealed(blob.sealed.iv, blob.sealed.ciphertext, blob.sealed.tag)

    opened = cluster.inside.decrypt(key["KeyId"], sealed, authenticated_data(blob.header, CONTEXT))

    assert opened == PLAINTEXT


# --- The conditions


def test_the_key_state_must_be_enabled(kms: Any, key: dict[str, Any], blob: bytes) -> None:
    """use-cmk-keystore: else KMSInvalidStateException; for a disabled key the API reference has DisabledException."""
    kms.disable_key(KeyId=key["KeyId"])
    all_refused("DisabledException", kms, key["KeyId"], blob)
    kms.schedule_key_deletion(KeyId=key["KeyId"])
    all_refused("KMSInvalidStateException", kms, key["KeyId"], blob)


def test_the_store_must_be_connected(
    kms: Any, account: Account, store_id: str, key: dict[str, Any], blob: bytes
) -> None:
    """use-cmk-keystore: typically you just need to reconnect the AWS CloudHSM key store."""
    account.disconnect(store_id)
    assert account.key_state(key["KeyId"]) == "Unavailable"
    all_refused("KMSInvalidStateException", kms, key["KeyId"], blob)
    is_refused("CustomKeyStoreInvalidStateException", kms.create_key, Origin="AWS_CLOUDHSM", CustomKeyStoreId=store_id)

    account.connect(store_id)

    all_work(kms, key["KeyId"], blob)


def test_the_cluster_must_have_an_active_hsm(
    kms: Any, account: Account, cluster: Cluster, key: dict[str, Any], blob: bytes
) -> None:
    """use-cmk-keystore: at least one; else KMSInvalidStateException, though the store is CONNECTED."""
    store_id = key["CustomKeyStoreId"]
    cluster.tell("* return 0x30")
    all_refused("KMSInvalidStateException", kms, key["KeyId"], blob)
    entry = account.describe_store(store_id)
    assert entry["ConnectionState"] == "CONNECTED"
    assert account.key_state(key["KeyId"]) == "Enabled"

    cluster.tell()
    account.disconnect(store_id)
    account.connect(store_id)

    all_work(kms, key["KeyId"], blob)


def test_a_store_does_not_connect_to_a_cluster_without_an_active_hsm(
    account: Account, cluster: Cluster, store_id: str
) -> None:
    """use-cmk-keystore, xks-connect-disconnect: the connection states are those of external key stores."""
    account.disconnect(store_id)
    cluster.tell("* return 0x30")

    assert account.connect(store_id, "FAILED")["ConnectionErrorCode"] == "INSUFFICIENT_CLOUDHSM_HSMS"


def test_the_cluster_must_contain_the_key_material(
    kms: Any, account: Account, cluster: Cluster, key: dict[str, Any], blob: bytes
) -> None:
    """use-cmk-keystore: if it was deleted from the cluster, the operation fails."""
    destroy_key(cluster.inside.binding, key["KeyId"])

    all_refused("KMSInvalidStateException", kms, key["KeyId"], blob)

    assert account.key_state(key["KeyId"]) == "Enabled"


# --- The quota


def test_a_cluster_that_is_busy_throttles(kms: Any, cluster: Cluster, key: dict[str, Any], blob: bytes) -> None:
    """use-cmk-keystore: ThrottlingException, at a rate below the quota; try again later."""
    cluster.tell(f"C_Decrypt return {BUSY:#x}")
    is_refused("ThrottlingException", decrypt, kms, key["KeyId"], blob, {})

    cluster.tell()

    soon(lambda: decrypt(kms, key["KeyId"], blob, {}))


def test_the_keys_of_a_store_share_a_request_quota(
    start_emulator: Callable[..., Any],
    proxy: Proxy,
    tmp_path: Path,
    make_faulty: Callable[..., FaultyHsm],
    cluster: Cluster,
) -> None:
    """use-cmk-keystore: above the quota of its key store, a request gets ThrottlingException, whichever key it uses."""
    clusters = {CLUSTER_ID: make_faulty(pin=None).hsm}
    with start_emulator(clusters=clusters, requests_per_second=1) as url:
        account = Accounts.of(url, proxy).new()
        store_id = account.connected_store(**settings(cluster))
        first, second = (
            account.kms.create_key(Origin="AWS_CLOUDHSM", CustomKeyStoreId=store_id)["KeyMetadata"]["KeyId"]
            for _ in range(2)
        )

        share_quota_of_one_a_second(account.kms, first, second)
