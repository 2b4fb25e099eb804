"""A validated request of a KMS client."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xksproxy_tools.kms_emulator.protocol.caller import Caller


@dataclass(frozen=True, slots=True)
class KmsRequest:
    """The request that an operation executes."""

    id: str
    """Returned as ``x-amzn-RequestId``, and sent to proxies as ``kmsRequestId``."""

    operation: str
    caller: Caller
    parameters: Mapping[str, Any]
    """As :meth:`~xksproxy_tools.kms_emulator.protocol.model.KmsModel.parse` left them; optional ones may be absent."""
