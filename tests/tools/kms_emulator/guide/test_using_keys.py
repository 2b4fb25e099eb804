"""The statements of AWS's page "Using KMS keys in an external key store" (use-xks-key), and their likes in the page
"KMS keys in external key stores" (keys-in-external-key-stores)."""

from collections.abc import Callable
from typing import Any

import pytest
from emulator_guide_support import (
    FIVE_OPERATIONS,
    PLAINTEXT,
    Account,
    Accounts,
    all_refused,
    all_work,
    calls_of,
    decrypt,
    encrypt,
    for_kms,
    is_refused,
    logged,
    make_outer_layer,
    open_outer_layer,
    re_encrypt,
    request_id,
    share_quota_of_one_a_second,
    soon,
)
from pkcs11 import Attribute
from server_support import Caller, find_key
from support import Proxy
from xksproxy_tools.kms_emulator.blob import unpack

from xksproxy.client.xks import XksClient
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.hsm.pkcs11.key_objects import destroy_key
from xksproxy.sigv4.keyring import generate_credential
from xksproxy.spec.uri import Operation

pytestmark = pytest.mark.slow

CONTEXT = {"project": "nile", "department": "Überlauf"}
Operate = Callable[..., dict[str, Any]]


# --- Which operations there are, and what they take and answer


@pytest.mark.parametrize("operation", FIVE_OPERATIONS)
def test_a_key_can_be_used_for_these_five_operations_with_an_encryption_context(
    kms: Any, key: dict[str, Any], operation: Operate
) -> None:
    """use-xks-key: the list, and that an encryption context is supported for all of them."""
    blob = encrypt(kms, key["KeyId"], b"", CONTEXT)["CiphertextBlob"]

    answer = operation(kms, key["KeyId"], blob, CONTEXT)

    result = answer.get("CiphertextBlob")
    if result is None:
        assert answer["Plaintext"] == PLAINTEXT
    else:
        assert kms.decrypt(CiphertextBlob=result, EncryptionContext=CONTEXT)["Plaintext"]
        is_refused("KMSInvalidStateException", kms.decrypt, CiphertextBlob=result)


@pytest.mark.parametrize("operation", ["generate_data_key_pair", "generate_data_key_pair_without_plaintext"])
def test_data_key_pairs_are_not_supported(kms: Any, key: dict[str, Any], operation: str) -> None:
    """use-xks-key, keys-in-external-key-stores: not in custom key stores."""
    is_refused(
        "UnsupportedOperationException", getattr(kms, operation), KeyId=key["KeyId"], KeyPairSpec="ECC_NIST_P256"
    )


@pytest.mark.parametrize("operation", FIVE_OPERATIONS)
def test_a_key_is_identified_by_its_id_its_arn_an_alias_or_an_alias_arn(
    kms: Any, key: dict[str, Any], blob: bytes, operation: Operate
) -> None:
    """use-xks-key: in any of these four ways, and the external key store is not specified."""
    kms.create_alias(AliasName="alias/example", TargetKeyId=key["KeyId"])
    (alias,) = kms.list_aliases(KeyId=key["KeyId"])["Aliases"]

    for name in (key["KeyId"], key["Arn"], "alias/example", alias["AliasArn"]):
        assert operation(kms, name, blob, {})["KeyId"] == key["Arn"]


@pytest.mark.parametrize("operation", FIVE_OPERATIONS)
def test_the_response_has_the_fields_of_any_symmetric_encryption_key(
    kms: Any, key: dict[str, Any], blob: bytes, operation: Operate
) -> None:
    """use-xks-key: the same fields."""
    standard = kms.create_key()["KeyMetadata"]
    standard_blob = encrypt(kms, standard["KeyId"], b"", {})["CiphertextBlob"]

    expected = operation(kms, standard["KeyId"], standard_blob, {})

    assert operation(kms, key["KeyId"], blob, {}).keys() == expected.keys()


# --- Double encryption


def test_data_is_encrypted_first_by_kms_and_then_by_the_external_key(
    kms: Any, key: dict[str, Any], proxy_caller: Caller
) -> None:
    """use-xks-key, create-xks-keys: the external key alone opens only the outer layer."""
    blob = encrypt(kms, key["KeyId"], b"", CONTEXT)["CiphertextBlob"]

    inner = open_outer_layer(proxy_caller, "demo-key", blob, CONTEXT)

    assert len(inner) > len(PLAINTEXT)
    assert PLAINTEXT not in inner


def test_data_is_decrypted_first_by_the_external_key_and_then_by_kms(
    kms: Any, key: dict[str, Any], proxy_caller: Caller
) -> None:
    """use-xks-key: what the external key decrypts well, KMS's own key material still may refuse."""
    blob = encrypt(kms, key["KeyId"], b"", CONTEXT)["CiphertextBlob"]
    inner, header = open_outer_layer(proxy_caller, "demo-key", blob, CONTEXT), unpack(blob).header
    changed = inner[:-1] + bytes([inner[-1] ^ 1])

    same = make_outer_layer(proxy_caller, "demo-key", header, inner, CONTEXT)
    other = make_outer_layer(proxy_caller, "demo-key", header, changed, CONTEXT)

    assert decrypt(kms, key["KeyId"], same, CONTEXT)["Plaintext"] == PLAINTEXT
    error = is_refused("KMSInvalidStateException", decrypt, kms, key["KeyId"], other, CONTEXT)
    assert "cannot decrypt what the external key store proxy returned" in str(error)


def test_the_external_key_does_its_part_through_the_proxy(kms: Any, proxy: Proxy, key: dict[str, Any]) -> None:
    """use-xks-key: by the external key that is associated with the KMS key; both halves of ReEncrypt are."""
    encrypted = encrypt(kms, key["KeyId"], b"", {})
    moved = re_encrypt(kms, key["KeyId"], encrypted["CiphertextBlob"], {})

    (line,) = calls_of(proxy, request_id(encrypted))
    lines = calls_of(proxy, request_id(moved), 2)

    assert (logged(line, "operation"), logged(line, "key_id")) == ("Encrypt", "demo-key")
    assert {logged(line, "operation") for line in lines} == {"Decrypt", "Encrypt"}
    assert {logged(line, "kmsOperation") for line in lines} == {"ReEncrypt"}
    assert {logged(line, "kmsKeyArn") for line in lines} == {key["Arn"]}


# --- The conditions


def test_the_key_state_must_be_enabled(kms: Any, account: Account, key: dict[str, Any], blob: bytes) -> None:
    """use-xks-key: else KMSInvalidStateException; for a disabled key the API reference has DisabledException."""
    kms.disable_key(KeyId=key["KeyId"])
    all_refused("DisabledException", kms, key["KeyId"], blob)

    kms.schedule_key_deletion(KeyId=key["KeyId"], PendingWindowInDays=7)
    all_refused("KMSInvalidStateException", kms, key["KeyId"], blob)

    kms.cancel_key_deletion(KeyId=key["KeyId"])
    kms.enable_key(KeyId=key["KeyId"])
    assert account.key_state(key["KeyId"]) == "Enabled"
    all_work(kms, key["KeyId"], blob)


def test_the_store_must_be_connected_and_connecting_it_is_the_cure(
    kms: Any, account: Account, store_id: str, key: dict[str, Any], blob: bytes
) -> None:
    """use-xks-key: the connection state must be CONNECTED; if it is DISCONNECTED, connect it first."""
    account.disconnect(store_id)
    all_refused("KMSInvalidStateException", kms, key["KeyId"], blob)

    account.connect(store_id)

    all_work(kms, key["KeyId"], blob)


def test_a_failed_store_is_mended_disconnected_and_connected(account: Account, proxy: Proxy) -> None:
    """use-xks-key: if it is FAILED, resolve the problem, disconnect, and then connect."""
    kms = account.kms
    store_id = account.connected_store(**account.vpc_settings())
    key_id = account.create_key(store_id)["KeyId"]
    blob = encrypt(kms, key_id, b"", {})["CiphertextBlob"]
    account.disconnect(store_id)
    kms.update_custom_key_store(
        CustomKeyStoreId=store_id, XksProxyAuthenticationCredential=for_kms(generate_credential())
    )
    assert account.connect(store_id, "FAILED")["ConnectionErrorCode"] == "INVALID_CREDENTIALS"
    all_refused("KMSInvalidStateException", kms, key_id, blob)

    account.disconnect(store_id)
    kms.update_custom_key_store(CustomKeyStoreId=store_id, XksProxyAuthenticationCredential=for_kms(proxy.credential))
    account.connect(store_id)

    all_work(kms, key_id, blob)


def test_the_proxy_must_find_the_external_key(
    kms: Any, account: Account, store_id: str, session: HsmSession, external_key: str
) -> None:
    """use-xks-key: else the operation fails; and deleting the external key does not change the key state."""
    key_id = account.create_key(store_id, external_key)["KeyId"]
    blob = encrypt(kms, key_id, b"", {})["CiphertextBlob"]

    destroy_key(session.binding, external_key)

    for operation in FIVE_OPERATIONS:
        soon(
            lambda operation=operation: operation(kms, key_id, blob, {}),
            refused="KMSInvalidStateException",
            saying="not found",
        )
    assert account.key_state(key_id) == "Enabled"


def test_the_external_key_must_be_enabled(
    kms: Any, account: Account, store_id: str, external_key: str, tell_proxy: Callable[..., None]
) -> None:
    """use-xks-key: else the operation fails; and disabling the external key does not change the key state."""
    key_id = account.create_key(store_id, external_key)["KeyId"]
    blob = encrypt(kms, key_id, b"", {})["CiphertextBlob"]

    tell_proxy("block", "--key", external_key)

    soon(lambda: encrypt(kms, key_id, b"", {}), refused="KMSInvalidStateException")
    assert account.key_state(key_id) == "Enabled"
    tell_proxy("unblock", "--key", external_key)
    soon(lambda: decrypt(kms, key_id, blob, {}))


def test_the_external_key_must_encrypt_and_decrypt(
    kms: Any, account: Account, store_id: str, session: HsmSession, external_key: str
) -> None:
    """use-xks-key: it must perform both; here it loses the usage to decrypt."""
    key_id = account.create_key(store_id, external_key)["KeyId"]
    blob = encrypt(kms, key_id, b"", {})["CiphertextBlob"]

    find_key(session, external_key)[Attribute.DECRYPT] = False

    soon(
        lambda: decrypt(kms, key_id, blob, {}),
        refused="KMSInvalidStateException",
        saying="does not support the requested operation",
    )


def test_the_status_of_the_external_key_does_not_follow_the_key_state(
    kms: Any, key: dict[str, Any], blob: bytes, client: XksClient, request_metadata: dict[str, str]
) -> None:
    """use-xks-key, keys-in-external-key-stores: enabling, disabling or deleting the KMS key does not affect it."""

    def external_status() -> str:
        message = {"requestMetadata": {**request_metadata, "kmsOperation": "CreateKey"}}
        return str(client.call(Operation.GET_KEY_METADATA, message, "demo-key").body["keyStatus"])

    kms.disable_key(KeyId=key["KeyId"])
    assert external_status() == "ENABLED"
    kms.enable_key(KeyId=key["KeyId"])
    kms.schedule_key_deletion(KeyId=key["KeyId"], PendingWindowInDays=7)
    assert external_status() == "ENABLED"


# --- The quota


def test_the_keys_of_a_store_share_a_request_quota(
    start_emulator: Callable[..., Any], proxy: Proxy, external_key: str
) -> None:
    """use-xks-key: above the quota of its key store, a request gets ThrottlingException, whichever key it uses."""
    with start_emulator(requests_per_second=1) as url:
        account = Accounts.of(url, proxy).new()
        store_id = account.connected_store()
        first, second = (account.create_key(store_id, name)["KeyId"] for name in ("demo-key", external_key))
        standard = account.kms.create_key()["KeyMetadata"]["KeyId"]

        share_quota_of_one_a_second(account.kms, first, second)

        assert encrypt(account.kms, standard, b"", {})["ResponseMetadata"]["HTTPStatusCode"] == 200
