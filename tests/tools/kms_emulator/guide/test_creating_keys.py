"""The statements and examples of AWS's page "Creating KMS keys in an external key store" (create-xks-keys)."""

import json
import re
from collections.abc import Callable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from emulator_guide_support import (
    Account,
    Accounts,
    calls_of,
    decrypt,
    encrypt,
    is_refused,
    logged,
    make_outer_layer,
    open_outer_layer,
    re_encrypt,
    request_id,
)
from server_support import Caller
from support import REGION, Proxy
from xksproxy_tools.kms_emulator.blob import unpack
from xksproxy_tools.kms_emulator.state.database import Database

from xksproxy.hsm.instance.session import HsmSession

pytestmark = pytest.mark.slow

EXAMPLE = json.loads("""
{
  "KeyMetadata": {
    "Arn": "arn:aws:kms:us-west-2:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    "AWSAccountId": "111122223333",
    "CreationDate": "2022-12-02T07:48:55-07:00",
    "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
    "CustomKeyStoreId": "cks-1234567890abcdef0",
    "Description": "",
    "Enabled": true,
    "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
    "KeyId": "1234abcd-12ab-34cd-56ef-1234567890ab",
    "KeyManager": "CUSTOMER",
    "KeySpec": "SYMMETRIC_DEFAULT",
    "KeyState": "Enabled",
    "KeyUsage": "ENCRYPT_DECRYPT",
    "MultiRegion": false,
    "Origin": "EXTERNAL_KEY_STORE",
    "XksKeyConfiguration": {"Id": "bb8562717f809024"}
  }
}
""")["KeyMetadata"]
OF_EACH_KEY = {"Arn", "AWSAccountId", "CreationDate", "CustomKeyStoreId", "KeyId", "XksKeyConfiguration"}
"""What differs from the example."""


# --- The example


def test_create_key_answers_with_the_fields_of_the_example(account: Account, store_id: str, external_key: str) -> None:
    """create-xks-keys: aws kms create-key --origin … --custom-key-store-id … --xks-key-id …"""
    created = account.create_key(store_id, external_key)

    assert created.keys() == EXAMPLE.keys()
    assert {name: created[name] for name in created.keys() - OF_EACH_KEY} == {
        name: EXAMPLE[name] for name in EXAMPLE.keys() - OF_EACH_KEY
    }
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", created["KeyId"])
    assert created["Arn"] == f"arn:aws:kms:eu-west-1:{account.id}:key/{created['KeyId']}"
    assert (created["AWSAccountId"], created["CustomKeyStoreId"]) == (account.id, store_id)
    assert created["XksKeyConfiguration"] == {"Id": external_key}
    assert isinstance(created["CreationDate"], datetime)


def test_a_key_is_viewed_with_the_same_properties(account: Account, key: dict[str, Any]) -> None:
    """create-xks-keys: key id, spec, usage, state, creation date, key store, external key; state of the connection."""
    assert account.kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"] == key
    store = account.describe_store(key["CustomKeyStoreId"])
    assert store["ConnectionState"] == "CONNECTED"


# --- What is specified


@pytest.mark.parametrize("missing", ["Origin", "CustomKeyStoreId", "XksKeyId"])
def test_three_parameters_are_required(kms: Any, store_id: str, missing: str) -> None:
    """create-xks-keys: Origin, CustomKeyStoreId, XksKeyId."""
    parameters = {"Origin": "EXTERNAL_KEY_STORE", "CustomKeyStoreId": store_id, "XksKeyId": "demo-key"}
    del parameters[missing]

    is_refused("ValidationException", kms.create_key, **parameters)


def test_the_optional_parameters_can_be_used(account: Account, store_id: str) -> None:
    """create-xks-keys: any of them, such as Policy or Tags."""
    kms, policy, tags = account.kms, '{"Version":"2012-10-17","Statement":[]}', [{"TagKey": "a", "TagValue": "b"}]

    key = account.create_key(
        store_id,
        Policy=policy,
        Tags=tags,
        Description="of the guide",
        KeySpec="SYMMETRIC_DEFAULT",
        KeyUsage="ENCRYPT_DECRYPT",
        MultiRegion=False,
    )

    assert key["Description"] == "of the guide"
    assert kms.get_key_policy(KeyId=key["KeyId"])["Policy"] == policy
    assert kms.list_resource_tags(KeyId=key["KeyId"])["Tags"] == tags


def test_a_new_key_is_enabled_and_its_properties_stay(account: Account, key: dict[str, Any]) -> None:
    """create-xks-keys: key spec, key usage, origin, Multi-Region and the external key id cannot be changed."""
    assert (key["KeyState"], key["Enabled"]) == ("Enabled", True)

    account.kms.update_key_description(KeyId=key["KeyId"], Description="another")
    account.kms.disable_key(KeyId=key["KeyId"])
    account.kms.enable_key(KeyId=key["KeyId"])

    assert account.kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"] == {**key, "Description": "another"}


# --- The external key store must be connected


def test_the_store_must_be_connected(account: Account, store_id: str) -> None:
    """create-xks-keys: CustomKeyStoreInvalidStateException."""
    account.disconnect(store_id)
    is_refused("CustomKeyStoreInvalidStateException", account.create_key, store_id)

    account.connect(store_id)
    assert account.create_key(store_id)["KeyState"] == "Enabled"


def test_the_store_must_be_there(account: Account) -> None:
    is_refused("CustomKeyStoreNotFoundException", account.create_key, "cks-1234567890abcdef0")


# --- What is required of the external key


def test_it_must_be_a_256_bit_aes_key(
    account: Account, store_id: str, session: HsmSession, unique_label: Callable[[str], str]
) -> None:
    """create-xks-keys: the KeySpec of the external key must be AES_256."""
    label = unique_label("short")
    session.create_key(label, bits=128, encrypt=True, decrypt=True)

    error = is_refused("XksKeyInvalidConfigurationException", account.create_key, store_id, label)

    assert "AES_128" in str(error)


def test_it_must_be_enabled(account: Account, store_id: str) -> None:
    """create-xks-keys: its Status must be ENABLED."""
    error = is_refused("XksKeyInvalidConfigurationException", account.create_key, store_id, "disabled-key")

    assert "DISABLED" in str(error)


@pytest.mark.parametrize(
    ("external_key_id", "lacks"),
    [("encrypt-only-key", "DECRYPT"), ("decrypt-only-key", "ENCRYPT"), ("impotent-key", "DECRYPT and ENCRYPT")],
)
def test_it_must_encrypt_and_decrypt(account: Account, store_id: str, external_key_id: str, lacks: str) -> None:
    """create-xks-keys: its KeyUsage must include ENCRYPT and DECRYPT."""
    error = is_refused("XksKeyInvalidConfigurationException", account.create_key, store_id, external_key_id)

    assert f"lacks {lacks}." in str(error)


def test_it_is_used_with_one_kms_key_of_a_store_only(
    account: Account, accounts: Accounts, store_id: str, key: dict[str, Any]
) -> None:
    """create-xks-keys: XksKeyAlreadyInUseException, in the same external key store."""
    is_refused("XksKeyAlreadyInUseException", account.create_key, store_id, "demo-key")
    account.kms.schedule_key_deletion(KeyId=key["KeyId"])
    is_refused("XksKeyAlreadyInUseException", account.create_key, store_id, "demo-key")

    other = accounts.new()
    assert other.create_key(other.connected_store(), "demo-key")["KeyState"] == "Enabled"


def test_the_proxy_must_find_it(account: Account, store_id: str) -> None:
    """create-xks-keys: XksKeyNotFoundException."""
    is_refused("XksKeyNotFoundException", account.create_key, store_id, "bb8562717f809024")


def test_the_proxy_gets_the_external_key_id_with_each_request(
    kms: Any, account: Account, proxy: Proxy, store_id: str, external_key: str
) -> None:
    """create-xks-keys: in requests for encryption and decryption; it is the id by which the proxy knows the key."""
    key_id = account.create_key(store_id, external_key)["KeyId"]
    encrypted = encrypt(kms, key_id, b"", {})
    answers = [
        encrypted,
        decrypt(kms, key_id, encrypted["CiphertextBlob"], {}),
        kms.generate_data_key(KeyId=key_id, KeySpec="AES_128"),
    ]

    lines = [line for answer in answers for line in calls_of(proxy, request_id(answer))]

    assert [logged(line, "key_id") for line in lines] == [external_key] * 3
    assert [logged(line, "operation") for line in lines] == ["Encrypt", "Decrypt", "Encrypt"]


# --- Key material of KMS's own, and deletion


def test_a_key_has_key_material_of_its_own_beside_the_external_key(
    start_emulator: Callable[..., Any], proxy: Proxy, tmp_path: Path
) -> None:
    """create-xks-keys: the AWS KMS key material of a KMS key."""
    with start_emulator(state=tmp_path / "state") as url:
        accounts = Accounts.of(url, proxy)
        for account in (accounts.new(), accounts.new()):
            account.create_key(account.connected_store(), "demo-key")

    with closing(Database.open(tmp_path / "state", REGION)) as database:
        materials = [key.material for number in (1, 2) for key in database.keys(f"{number:012d}")]
    assert [len(material or b"") for material in materials] == [32, 32]
    assert materials[0] != materials[1]


def test_a_kms_key_is_not_recreated_by_another_on_the_same_external_key(
    account: Account, accounts: Accounts, key: dict[str, Any], proxy_caller: Caller
) -> None:
    """create-xks-keys: you cannot recreate it, even if you have the external key material."""
    other = accounts.new()
    again = other.create_key(other.connected_store(), "demo-key")
    blob = encrypt(account.kms, key["KeyId"], b"", {})["CiphertextBlob"]
    header = unpack(encrypt(other.kms, again["KeyId"], b"", {})["CiphertextBlob"]).header
    inner = open_outer_layer(proxy_caller, "demo-key", blob, {})

    transplanted = make_outer_layer(proxy_caller, "demo-key", header, inner, {})

    error = is_refused("KMSInvalidStateException", decrypt, other.kms, again["KeyId"], transplanted, {})
    assert "cannot decrypt what the external key store proxy returned" in str(error)
    is_refused("AccessDeniedException", other.kms.decrypt, CiphertextBlob=blob)


def test_deleting_a_kms_key_does_nothing_to_its_external_key(
    account: Account, key: dict[str, Any], blob: bytes, proxy_caller: Caller
) -> None:
    """create-xks-keys: no effect on the associated external key."""
    account.kms.schedule_key_deletion(KeyId=key["KeyId"], PendingWindowInDays=7)
    is_refused("KMSInvalidStateException", re_encrypt, account.kms, key["KeyId"], blob, {})

    assert open_outer_layer(proxy_caller, "demo-key", blob, {})
