"""Key policies: stored and returned, never evaluated."""

import json
from dataclasses import replace
from typing import Any, Final

from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.key_resolver import KeyResolver, ResolvedKey
from xksproxy_tools.kms_emulator.names import Region
from xksproxy_tools.kms_emulator.request import KmsRequest
from xksproxy_tools.kms_emulator.state.database import Database

_NAME: Final = "default"
_MAXIMUM_BYTES: Final = 32 * 1024


class Policies:
    """GetKeyPolicy, PutKeyPolicy, ListKeyPolicies. They work in every key state."""

    def __init__(self, database: Database, resolver: KeyResolver) -> None:
        self._database = database
        self._resolver = resolver

    def get(self, request: KmsRequest) -> dict[str, Any]:
        """GetKeyPolicy."""
        return {"Policy": self._resolve(request).key.policy, "PolicyName": _NAME}

    def put(self, request: KmsRequest) -> None:
        """PutKeyPolicy."""
        resolved = self._resolve(request)
        self._database.put_key(replace(resolved.key, policy=checked_policy(request.parameters["Policy"])))

    def list(self, request: KmsRequest) -> dict[str, Any]:
        """ListKeyPolicies: every key has one policy."""
        self._resolve(request)
        return {"PolicyNames": [_NAME], "Truncated": False}

    def _resolve(self, request: KmsRequest) -> ResolvedKey:
        if request.parameters.get("PolicyName", _NAME) != _NAME:
            raise KmsError("NotFoundException", f"No such policy exists; the only one is {_NAME}")
        return self._resolver.find(request.parameters["KeyId"], request.caller.account, alias=False)


def default_policy(region: Region, account: str) -> str:
    """The default key policy: the account of the key may do everything."""
    statement = {
        "Sid": "Enable IAM User Permissions",
        "Effect": "Allow",
        "Principal": {"AWS": f"arn:{region.partition}:iam::{account}:root"},
        "Action": "kms:*",
        "Resource": "*",
    }
    return json.dumps({"Version": "2012-10-17", "Id": "key-default-1", "Statement": [statement]}, indent=2)


def checked_policy(text: str) -> str:
    """Check a policy, and return it.

    Raises:
        KmsError: MalformedPolicyDocumentException if it is not a JSON object, LimitExceededException above 32 KiB.
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
