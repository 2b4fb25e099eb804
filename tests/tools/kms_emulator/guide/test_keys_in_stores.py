"""The statements of AWS's page "KMS keys in external key stores" (keys-in-external-key-stores) that other pages do not
make: what is supported, what is not, and that KMS keeps its hands off external keys."""

from collections.abc import Callable
from typing import Any

import pytest
from emulator_guide_support import (
    Account,
    Accounts,
    account_callers,
    calls_of,
    encrypt,
    is_refused,
    logged,
    request_id,
    was_never_asked,
)
from support import Proxy
from xksproxy_tools.kms_emulator.protocol.caller import Caller

from xksproxy.hsm.instance.session import HsmSession

pytestmark = pytest.mark.slow

S3 = "s3.eu-west-1.amazonaws.com"


# --- Supported features


def test_kms_sends_a_proxy_nothing_but_requests_to_use_a_key(
    account: Account, proxy: Proxy, store_id: str, session: HsmSession
) -> None:
    """It cannot create, view, update or delete external keys: managing a KMS key asks nothing of the proxy."""
    kms, external_keys = account.kms, session.list_keys()
    created = kms.create_key(Origin="EXTERNAL_KEY_STORE", CustomKeyStoreId=store_id, XksKeyId="demo-key")
    key_id = created["KeyMetadata"]["KeyId"]

    managing = [
        kms.describe_key(KeyId=key_id),
        kms.list_keys(),
        kms.disable_key(KeyId=key_id),
        kms.enable_key(KeyId=key_id),
        kms.update_key_description(KeyId=key_id, Description="another"),
        kms.create_alias(AliasName="alias/example", TargetKeyId=key_id),
        kms.tag_resource(KeyId=key_id, Tags=[{"TagKey": "a", "TagValue": "b"}]),
        kms.put_key_policy(KeyId=key_id, Policy=kms.get_key_policy(KeyId=key_id)["Policy"]),
        kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=7),
        kms.cancel_key_deletion(KeyId=key_id),
        kms.enable_key(KeyId=key_id),
    ]
    used = kms.generate_data_key(KeyId=key_id, KeySpec="AES_256")

    (looked,), (line,) = calls_of(proxy, request_id(created)), calls_of(proxy, request_id(used))
    assert (logged(looked, "operation"), logged(looked, "kmsOperation")) == ("GetKeyMetadata", "CreateKey")
    assert (logged(line, "operation"), logged(line, "kmsOperation")) == ("Encrypt", "GenerateDataKey")
    was_never_asked(proxy, [request_id(answer) for answer in managing])
    assert session.list_keys() == external_keys


def test_keys_have_key_policies(kms: Any, key: dict[str, Any]) -> None:
    """Key policies are kept and shown; nothing here evaluates them, nor IAM policies."""
    policy = '{"Version":"2012-10-17","Statement":[]}'

    kms.put_key_policy(KeyId=key["KeyId"], Policy=policy)

    assert kms.get_key_policy(KeyId=key["KeyId"], PolicyName="default")["Policy"] == policy
    assert kms.list_key_policies(KeyId=key["KeyId"])["PolicyNames"] == ["default"]


def test_grants_are_not_here(kms: Any, key: dict[str, Any]) -> None:
    """The guide has grants; this emulator evaluates no permissions, and says that it has none."""
    error = is_refused(
        "UnsupportedOperationException",
        kms.create_grant,
        KeyId=key["KeyId"],
        GranteePrincipal="arn:aws:iam::111122223333:role/Reader",
        Operations=["Decrypt"],
    )

    assert "This emulator does not support CreateGrant" in str(error)


def test_keys_are_enabled_and_disabled(account: Account, key: dict[str, Any]) -> None:
    account.kms.disable_key(KeyId=key["KeyId"])
    assert account.key_state(key["KeyId"]) == "Disabled"
    account.kms.enable_key(KeyId=key["KeyId"])
    assert account.key_state(key["KeyId"]) == "Enabled"


def test_keys_have_tags_and_aliases(account: Account, key: dict[str, Any], store_id: str) -> None:
    kms, key_id, tag = account.kms, key["KeyId"], {"TagKey": "Purpose", "TagValue": "Test"}
    kms.tag_resource(KeyId=key_id, Tags=[tag])
    kms.create_alias(AliasName="alias/example", TargetKeyId=key_id)

    assert kms.list_resource_tags(KeyId=key_id)["Tags"] == [tag]
    assert kms.describe_key(KeyId="alias/example")["KeyMetadata"]["KeyId"] == key_id

    kms.untag_resource(KeyId=key_id, TagKeys=["Purpose"])
    kms.delete_alias(AliasName="alias/example")
    assert kms.list_resource_tags(KeyId=key_id)["Tags"] == []
    assert kms.list_aliases(KeyId=key_id)["Aliases"] == []


def test_deletion_is_scheduled_and_cancelled(account: Account, key: dict[str, Any]) -> None:
    answer = account.kms.schedule_key_deletion(KeyId=key["KeyId"])

    assert answer["KeyId"] == key["Arn"]
    assert (answer["KeyState"], answer["PendingWindowInDays"]) == ("PendingDeletion", 30)
    assert account.kms.describe_key(KeyId=key["KeyId"])["KeyMetadata"]["DeletionDate"] == answer["DeletionDate"]
    assert account.kms.cancel_key_deletion(KeyId=key["KeyId"])["KeyId"] == key["Arn"]
    assert account.key_state(key["KeyId"]) == "Disabled"


def test_aws_services_use_the_keys_for_their_callers(start_emulator: Callable[..., Any], proxy: Proxy) -> None:
    """The proxy learns which service it is, and which principal's request."""
    caller = account_callers()["tester1"]
    through_s3 = Caller(caller.account, caller.principal_arn, via_service=S3)
    with start_emulator(callers={"tester1": through_s3}) as url:
        account = Accounts.of(url, proxy).new()
        key = account.create_key(account.connected_store())

        (line,) = calls_of(proxy, request_id(account.kms.generate_data_key(KeyId=key["KeyId"], KeySpec="AES_256")))

    assert logged(line, "kmsViaService") == S3
    assert logged(line, "awsPrincipalArn") == caller.principal_arn


# --- Unsupported features


@pytest.mark.parametrize(
    "settings",
    [
        {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"},
        {"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"},
        {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"},
        {"MultiRegion": True},
    ],
    ids=["hmac", "rsa", "ecc", "multi-region"],
)
def test_only_symmetric_encryption_keys_of_one_region(
    account: Account, store_id: str, settings: dict[str, Any]
) -> None:
    """No HMAC keys, no asymmetric keys, no multi-Region keys; create-xks-keys says it too."""
    is_refused("UnsupportedOperationException", account.create_key, store_id, **settings)


def test_no_imported_key_material(account: Account, store_id: str, key: dict[str, Any]) -> None:
    """keys-in-external-key-stores and create-xks-keys."""
    kms = account.kms
    with pytest.raises(kms.exceptions.UnsupportedOperationException):
        kms.create_key(Origin="EXTERNAL", CustomKeyStoreId=store_id)
    with pytest.raises(kms.exceptions.UnsupportedOperationException):
        kms.get_parameters_for_import(
            KeyId=key["KeyId"], WrappingAlgorithm="RSAES_OAEP_SHA_256", WrappingKeySpec="RSA_2048"
        )
    with pytest.raises(kms.exceptions.UnsupportedOperationException):
        kms.import_key_material(KeyId=key["KeyId"], ImportToken=b"token", EncryptedKeyMaterial=b"material")


@pytest.mark.parametrize("operation", ["enable_key_rotation", "disable_key_rotation", "get_key_rotation_status"])
def test_no_automatic_key_rotation(kms: Any, key: dict[str, Any], operation: str) -> None:
    is_refused("UnsupportedOperationException", getattr(kms, operation), KeyId=key["KeyId"])


def test_it_is_no_key_for_signatures_or_macs(kms: Any, key: dict[str, Any]) -> None:
    """Only symmetric encryption KMS keys are supported."""
    is_refused(
        "InvalidKeyUsageException",
        kms.sign,
        KeyId=key["KeyId"],
        Message=b"message",
        SigningAlgorithm="ECDSA_SHA_256",
    )
    is_refused(
        "InvalidKeyUsageException",
        kms.generate_mac,
        KeyId=key["KeyId"],
        Message=b"message",
        MacAlgorithm="HMAC_SHA_256",
    )


def test_a_store_that_is_not_connected_makes_no_use_of_its_proxy(
    account: Account, proxy: Proxy, store_id: str, key: dict[str, Any]
) -> None:
    """To use a KMS key, its external key store must be connected to its proxy."""
    account.disconnect(store_id)

    error = is_refused("KMSInvalidStateException", encrypt, account.kms, key["KeyId"], b"", {})

    account.connect(store_id)
    calls_of(proxy, request_id(encrypt(account.kms, key["KeyId"], b"", {})))
    was_never_asked(proxy, [request_id(error.response)])
