"""KMS keys once they are made: describe, list, enable, disable, rename, delete."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.finder import FoundKey, KeyFinder
from xksproxy_tools.kms_emulator.listing import page
from xksproxy_tools.kms_emulator.request import KmsRequest
from xksproxy_tools.kms_emulator.state.database import Database
from xksproxy_tools.kms_emulator.state.records import KeyState

_PAGE: Final = 100
_DAY_SECONDS: Final = 24 * 60 * 60
_DEFAULT_WINDOW_DAYS: Final = 30
_WINDOW_DAYS: Final = range(7, 31)


class Keys:
    """The operations that manage a key. None of them asks a proxy, and none depends on the key store's connection."""

    def __init__(self, database: Database, finder: KeyFinder, clock: Callable[[], float]) -> None:
        self._database = database
        self._finder = finder
        self._clock = clock

    def describe(self, request: KmsRequest) -> dict[str, Any]:
        """DescribeKey: by any of the four names."""
        found = self._finder.find(request.parameters["KeyId"], request.caller.account)
        return {"KeyMetadata": key_metadata(found)}

    def list(self, request: KmsRequest) -> dict[str, Any]:
        """ListKeys."""
        keys = self._database.keys(request.caller.account)
        shown, more = page(keys, request.parameters, by=lambda key: key.id, limit=_PAGE)
        arn = self._finder.region.key_arn
        return {"Keys": [{"KeyId": key.id, "KeyArn": arn(key.account, key.id)} for key in shown], **more}

    def enable(self, request: KmsRequest) -> None:
        """EnableKey: of an Unavailable key it takes effect once the store is connected."""
        self._database.put_key(replace(self._finder.manageable(request).key, state=KeyState.ENABLED))

    def disable(self, request: KmsRequest) -> None:
        """DisableKey: the external key is not touched."""
        self._database.put_key(replace(self._finder.manageable(request).key, state=KeyState.DISABLED))

    def update_description(self, request: KmsRequest) -> None:
        """UpdateKeyDescription."""
        self._database.put_key(
            replace(self._finder.manageable(request).key, description=request.parameters["Description"])
        )

    def schedule_deletion(self, request: KmsRequest) -> dict[str, Any]:
        """ScheduleKeyDeletion: after 7 to 30 days, 30 unless the request says otherwise."""
        days = request.parameters.get("PendingWindowInDays", _DEFAULT_WINDOW_DAYS)
        if days not in _WINDOW_DAYS:
            expected = f"PendingWindowInDays must be between {_WINDOW_DAYS[0]} and {_WINDOW_DAYS[-1]}"
            raise KmsError("ValidationException", f"{expected}, not {days}")
        found = self._finder.manageable(request)
        due = self._clock() + days * _DAY_SECONDS
        pending = replace(found.key, state=KeyState.PENDING_DELETION, deletion_date=due)
        self._database.put_key(pending)
        return {
            "KeyId": found.arn,
            "DeletionDate": due,
            "KeyState": KeyState.PENDING_DELETION,
            "PendingWindowInDays": days,
        }

    def cancel_deletion(self, request: KmsRequest) -> dict[str, Any]:
        """CancelKeyDeletion: leaves the key Disabled."""
        found = self._finder.manageable(request)
        kept = replace(found.key, state=KeyState.DISABLED, deletion_date=None)
        self._database.put_key(kept)
        return {"KeyId": found.arn}


def key_metadata(found: FoundKey) -> dict[str, Any]:
    """KeyMetadata, as CreateKey and DescribeKey answer it."""
    key, store, state = found.key, found.store, found.state
    return {
        "AWSAccountId": key.account,
        "KeyId": key.id,
        "Arn": found.arn,
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
