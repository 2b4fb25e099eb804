"""The table of operations and the methods that execute them."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from xksproxy_tools.kms_emulator.aliases import Aliases
from xksproxy_tools.kms_emulator.crypto import Crypto
from xksproxy_tools.kms_emulator.key_creation import KeyCreation
from xksproxy_tools.kms_emulator.key_stores import KeyStores
from xksproxy_tools.kms_emulator.keys import Keys
from xksproxy_tools.kms_emulator.policies import Policies
from xksproxy_tools.kms_emulator.request import KmsRequest
from xksproxy_tools.kms_emulator.tags import Tags
from xksproxy_tools.kms_emulator.unsupported_operations import UnsupportedOperations

Result = Mapping[str, Any] | None
"""The members of a response; None if the operation has no output shape."""


class Operations:
    """Executes the operations of the model."""

    def __init__(
        self,
        *,
        stores: KeyStores,
        creation: KeyCreation,
        keys: Keys,
        crypto: Crypto,
        aliases: Aliases,
        tags: Tags,
        policies: Policies,
        refusals: UnsupportedOperations,
    ) -> None:
        self._refuse = refusals.refuse
        self._asynchronous: Mapping[str, Callable[[KmsRequest], Awaitable[Result]]] = {
            "CreateCustomKeyStore": stores.create,
            "UpdateCustomKeyStore": stores.update,
            "CreateKey": creation.create,
            "Encrypt": crypto.encrypt,
            "Decrypt": crypto.decrypt,
            "GenerateDataKey": crypto.generate_data_key,
            "GenerateDataKeyWithoutPlaintext": crypto.generate_data_key_without_plaintext,
            "ReEncrypt": crypto.re_encrypt,
        }
        self._immediate: Mapping[str, Callable[[KmsRequest], Result]] = {
            "ConnectCustomKeyStore": stores.connect,
            "DisconnectCustomKeyStore": stores.disconnect,
            "DescribeCustomKeyStores": stores.describe,
            "DeleteCustomKeyStore": stores.delete,
            "DescribeKey": keys.describe,
            "ListKeys": keys.list,
            "EnableKey": keys.enable,
            "DisableKey": keys.disable,
            "ScheduleKeyDeletion": keys.schedule_deletion,
            "CancelKeyDeletion": keys.cancel_deletion,
            "UpdateKeyDescription": keys.update_description,
            "CreateAlias": aliases.create,
            "UpdateAlias": aliases.update,
            "DeleteAlias": aliases.delete,
            "ListAliases": aliases.list,
            "TagResource": tags.tag,
            "UntagResource": tags.untag,
            "ListResourceTags": tags.list,
            "GetKeyPolicy": policies.get,
            "PutKeyPolicy": policies.put,
            "ListKeyPolicies": policies.list,
        }

    async def execute(self, request: KmsRequest) -> Result:
        """Execute a request.

        Raises:
            KmsError: the request is refused.
        """
        waiting = self._asynchronous.get(request.operation)
        if waiting is not None:
            return await waiting(request)
        return self._immediate.get(request.operation, self._refuse)(request)
