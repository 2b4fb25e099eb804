"""Operations on KMS keys: describe, list, enable, disable, change the description, delete."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.key_resolver import KeyResolver, ResolvedKey
from xksproxy_tools.kms_emulator.pagination import page
from xksproxy_tools.kms_emulator.request import KmsRequest
from xksproxy_tools.kms_emulator.state.database import Database
from xksproxy_tools.kms_emulator.state.records import KeyState

_PAGE: Final = 100
_DAY_SECONDS: Final = 24 * 60 * 60
_DEFAULT_WINDOW_DAYS: Final = 30
_WINDOW_DAYS: Final = range(7, 31)


class Keys:
    """The operations that manage keys. They call no proxy, and do not depend on the connection of the key store."""

    def __init__(self, database: Database, resolver: KeyResolver, clock: Callable[[], float]) -> None:
        self._database = database
        self._resolver = resolver
        self._clock = clock

    def describe(self, request: KmsRequest) -> dict[str, Any]:
        """DescribeKey."""
        resolved = self._resolver.find(request.parameters["KeyId"], request.caller.account)
        return {"KeyMetadata": key_metadata(resolved)}

    def list(self, request: KmsRequest) -> dict[str, Any]:
        """ListKeys."""
        keys = self._database.keys(request.caller.account)
        shown, more = page(keys, request.parameters, by=lambda key: key.id, limit=_PAGE)
        arn = self._resolver.region.key_arn
        return {"Keys": [{"KeyId": key.id, "KeyArn": arn(key.account, key.id)} for key in shown], **more}

    def enable(self, request: KmsRequest) -> None:
        """EnableKey. On an Unavailable key it takes effect when the key store is connected."""
        self._database.put_key(replace(self._resolver.manageable(request).key, state=KeyState.ENABLED))

    def disable(self, request: KmsRequest) -> None:
        """DisableKey. The external key is not changed."""
        self._database.put_key(replace(self._resolver.manageable(request).key, state=KeyState.DISABLED))

    def update_description(self, request: KmsRequest) -> None:
        """UpdateKeyDescription."""
        self._database.put_key(
            replace(self._resolver.manageable(request).key, description=request.parameters["Description"])
        )

    def schedule_deletion(self, request: KmsRequest) -> dict[str, Any]:
        """ScheduleKeyDeletion: after 7 to 30 days; the default is 30."""
        days = request.parameters.get("PendingWindowInDays", _DEFAULT_WINDOW_DAYS)
        if days not in _WINDOW_DAYS:
            expected = f"PendingWindowInDays must be between {_WINDOW_DAYS[0]} and {_WINDOW_DAYS[-1]}"
            raise KmsError("ValidationException", f"{expected}, not {days}")
        resolved = self._resolver.manageable(request)
        due = self._clock() + days * _DAY_SECONDS
        pending = replace(resolved.key, state=KeyState.PENDING_DELETION, deletion_date=due)
        self._database.put_key(pending)
        return {
            "KeyId": resolved.arn,
            "DeletionDate": due,
            "KeyState": KeyState.PENDING_DELETION,
            "PendingWindowInDays": days,
        }

    def cancel_deletion(self, request: KmsRequest) -> dict[str, Any]:
        """CancelKeyDeletion: leaves the key Disabled."""
        resolved = self._resolver.manageable(request)
        kept = replace(resolved.key, state=KeyState.DISABLED, deletion_date=None)
        self._database.put_key(kept)
        return {"KeyId": resolved.arn}


def key_metadata(resolved: ResolvedKey) -> dict[str, Any]:
    """KeyMetadata, as CreateKey and DescribeKey return it."""
    key, store, state = resolved.key, resolved.store, resolved.state
    return {
        "AWSAccountId": key.account,
        "KeyId": key.id,
        "Arn": resolved.arn,
        "CreationDate": key.created,
        "Enabled": state is KeyState.ENABLED,
        "Description": key.description,
        "KeyUsage": "ENCRYPT_DECRYPT",
        "KeyState": state,
        "DeletionDate": key.deletion_date,
        "Origin": key.origin,
        "CustomKeyStoreId": key.store_id,
        "CloudHsmClusterId": store.cluster.cluster_id if store and store.cluster else None,
        "KeyManager": "CUSTOMER",
        "CustomerMasterKeySpec": "SYMMETRIC_DEFAULT",
        "KeySpec": "SYMMETRIC_DEFAULT",
        "EncryptionAlgorithms": ["SYMMETRIC_DEFAULT"],
        "MultiRegion": False,
        "XksKeyConfiguration": {"Id": key.xks_key_id} if key.xks_key_id else None,
    }
