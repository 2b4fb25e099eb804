"""What the checks of `metadata` must find."""

from collections.abc import Callable, Mapping
from typing import Any

from stub_proxy import api
from stub_proxy.api import Call
from stub_proxy.behaviour import Defect, operations
from xksproxy.spec.errors import KeyNotFoundException


def answered(change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> dict[str, Any]:
    """Another answer of GetKeyMetadata."""
    return operations(GET_KEY_METADATA=lambda call: change(api.get_key_metadata(call)))


def disabled_is_not_found(call: Call) -> dict[str, Any]:
    if not api.find_key(call).enabled:
        raise KeyNotFoundException("not enabled")
    return api.get_key_metadata(call)


def lower_case(found: dict[str, Any]) -> dict[str, Any]:
    return {**found, "keyUsage": [usage.lower() for usage in found["keyUsage"]]}


BOTH = ["ENCRYPT", "DECRYPT"]

DEFECTS: tuple[Defect, ...] = (
    Defect("no-key-status", ("meta-members",), answered(lambda found: {**found, "keyStatus": None})),
    Defect("usage-is-a-string", ("meta-members",), answered(lambda found: {**found, "keyUsage": "ENCRYPT"})),
    Defect("active-for-enabled", ("meta-members",), answered(lambda found: {**found, "keyStatus": "ACTIVE"})),
    Defect("spec-of-the-hsm", ("meta-key-spec",), answered(lambda found: {**found, "keySpec": "AES"})),
    Defect("usage-in-lower-case", ("meta-usage", "meta-usage-encrypt-only"), answered(lower_case)),
    Defect(
        "usage-of-every-key",
        ("meta-usage-encrypt-only", "meta-usage-decrypt-only", "meta-usage-impotent", "meta-usage-true"),
        answered(lambda found: {**found, "keyUsage": BOTH}),
    ),
    Defect("usage-of-no-key", ("meta-usage", "meta-usage-true"), answered(lambda found: {**found, "keyUsage": []})),
    Defect(
        "eleven-usages",
        ("meta-usage-count",),
        answered(lambda found: {**found, "keyUsage": [*found["keyUsage"], *("WRAP",) * 9]}),
    ),
    Defect("always-disabled", ("meta-enabled",), answered(lambda found: {**found, "keyStatus": "DISABLED"})),
    Defect("never-disabled", ("meta-disabled",), answered(lambda found: {**found, "keyStatus": "ENABLED"})),
    Defect("disabled-is-not-found", ("meta-disabled",), operations(GET_KEY_METADATA=disabled_is_not_found)),
)
