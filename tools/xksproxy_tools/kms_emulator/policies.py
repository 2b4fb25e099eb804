"""Key policies: kept and shown, never evaluated."""

import json
from dataclasses import replace
from typing import Any, Final

from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.finder import FoundKey, KeyFinder
from xksproxy_tools.kms_emulator.names import Region
from xksproxy_tools.kms_emulator.request import KmsRequest
from xksproxy_tools.kms_emulator.state.database import Database

_NAME: Final = "default"
_MAXIMUM_BYTES: Final = 32 * 1024


class Policies:
    """GetKeyPolicy, PutKeyPolicy, ListKeyPolicies: legal in every key state."""

    def __init__(self, database: Database, finder: KeyFinder) -> None:
        self._database = database
        self._finder = finder

    def get(self, request: KmsRequest) -> dict[str, Any]:
        """GetKeyPolicy."""
        return {"Policy": self._found(request).key.policy, "PolicyName": _NAME}

    def put(self, request: KmsRequest) -> None:
        """PutKeyPolicy."""
        found = self._found(request)
        self._database.put_key(replace(found.key, policy=checked_policy(request.parameters["Policy"])))

    def list(self, request: KmsRequest) -> dict[str, Any]:
        """ListKeyPolicies: there is only the one."""
        self._found(request)
        return {"PolicyNames": [_NAME], "Truncated": False}

    def _found(self, request: KmsRequest) -> FoundKey:
        if request.parameters.get("PolicyName", _NAME) != _NAME:
            raise KmsError("NotFoundException", f"No such policy exists; the only one is {_NAME}")
        return self._finder.find(request.parameters["KeyId"], request.caller.account, alias=False)


def default_policy(region: Region, account: str) -> str:
    """What a key has whose CreateKey names no policy: its account may do everything."""
    statement = {
        "Sid": "Enable IAM User Permissions",
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:{region.partition}:iam::{account}:root"},
        "Action": "kms:*",
        "Resource": "*",
    }
    return json.dumps({"Version": "2012-10-17", "Id": "key-default-1", "Statement": [statement]}, indent=2)


def checked_policy(text: str) -> str:
    """A policy as it is kept.

    Raises:
        KmsError: MalformedPolicyDocumentException if it is no JSON object, LimitExceededException above 32 KiB.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise KmsError("MalformedPolicyDocumentException", "The policy is not a JSON object")
    if len(text.encode()) > _MAXIMUM_BYTES:
        raise KmsError("LimitExceededException", f"A key policy has at most {_MAXIMUM_BYTES} bytes")
    return text
