"""GetHealthStatus (R-HLTH-*). The age of a status is in the chapter on timing."""

from typing import Any, Final

from xksproxy.spec.limits import MAXIMUM_FLEET_DETAILS
from xksproxy.spec.uri import Operation
from xksproxy_tools.conformance.check import Check, Level
from xksproxy_tools.conformance.expectations import Body, expect_success, text_member
from xksproxy_tools.conformance.messages import metadata_only
from xksproxy_tools.conformance.outcome import CheckFailed, NotApplicable, expect
from xksproxy_tools.conformance.subject import Subject

_OPERATION: Final = Operation.GET_HEALTH_STATUS
_TEXTS: Final = ("xksProxyVendor", "xksProxyModel", "ekmVendor")
_INSTANCE_TEXTS: Final = ("id", "model")
_SERVING: Final = frozenset({"ACTIVE", "DEGRADED"})
_STATES: Final = _SERVING | {"UNAVAILABLE"}
_KMS_OPERATIONS: Final = ("KmsHealthCheck", "CreateCustomKeyStore", "ConnectCustomKeyStore", "UpdateCustomKeyStore")


def _health(subject: Subject) -> Body:
    return expect_success(subject.call(_OPERATION, metadata_only(_OPERATION)))


def _instances(health: Body) -> list[dict[str, Any]]:
    instances = health.get("ekmFleetDetails")
    if not isinstance(instances, list) or not all(isinstance(instance, dict) for instance in instances):
        raise CheckFailed("the member ekmFleetDetails, an array of objects", f"{instances!r}"[:100])
    return instances


def _members(subject: Subject) -> str:
    health = _health(subject)
    texts = [text_member(health, name) for name in _TEXTS]
    _instances(health)
    return ", ".join(texts)


def _fleet_size(subject: Subject) -> str:
    size = _health(subject).get("xksProxyFleetSize")
    right = isinstance(size, int) and not isinstance(size, bool) and size > 0
    expect(right, "xksProxyFleetSize, an integer above zero", f"{size!r}"[:100])
    return f"answered {size}"


def _instance_count(subject: Subject) -> str:
    count = len(_instances(_health(subject)))
    expect(1 <= count <= MAXIMUM_FLEET_DETAILS, f"1 to {MAXIMUM_FLEET_DETAILS} entries in ekmFleetDetails", count)
    return f"answered {count}"


def _instance_members(subject: Subject) -> str:
    states = []
    for instance in _instances(_health(subject)):
        for name in _INSTANCE_TEXTS:
            text_member(instance, name)
        states.append(text_member(instance, "healthStatus"))
        expect(states[-1] in _STATES, f"healthStatus {', '.join(sorted(_STATES))}", states[-1])
    return ", ".join(states)


def _instance_ids(subject: Subject) -> None:
    ids = [text_member(instance, "id") for instance in _instances(_health(subject))]
    expect(len(set(ids)) == len(ids), "another id for each EKM instance", ", ".join(ids))


def _texts_say_something(subject: Subject) -> None:
    health = _health(subject)
    named = [(name, text_member(health, name)) for name in _TEXTS]
    named += [(name, text_member(instance, name)) for instance in _instances(health) for name in _INSTANCE_TEXTS]
    for name, text in named:
        expect(text.strip(), f"a text in {name}", f"{text!r}")


def _no_authorization(subject: Subject) -> None:
    """With any requestMetadata, also that of principals that other APIs deny."""
    for kms_operation in (*_KMS_OPERATIONS, "OperationOfTheFuture"):
        for more in ({}, {"awsPrincipalArn": "arn:aws:iam::999999999999:user/nobody"}):
            members = {"kmsRequestId": "0", "kmsOperation": kms_operation, **more}
            response = subject.call(_OPERATION, {"requestMetadata": members})
            expect_success(response, f"kmsOperation {kms_operation!r}{', a principal' if more else ''}")


def _deep(subject: Subject) -> None:
    """If an instance is available, the next requests of KMS must succeed."""
    states = {instance.get("healthStatus") for instance in _instances(_health(subject))}
    if not states & _SERVING:
        raise NotApplicable("no EKM instance is ACTIVE or DEGRADED")
    metadata = Operation.GET_KEY_METADATA
    expect_success(subject.call(metadata, metadata_only(metadata)), "GetKeyMetadata after a good health")
    sealed = subject.seal(b"plaintext")
    expect_success(subject.decrypt(sealed), "Decrypt after a good health")


CHECKS: Final[tuple[Check, ...]] = (
    Check("health-members", ("R-HLTH-1",), Level.MUST, "All members are returned", _members),
    Check("health-fleet-size", ("R-HLTH-1",), Level.MUST, "The proxy's fleet has a size above zero", _fleet_size),
    Check("health-instances", ("R-HLTH-1",), Level.MUST, "1 to 10 EKM instances are reported", _instance_count),
    Check(
        "health-instance-members",
        ("R-HLTH-1",),
        Level.MUST,
        "Each instance has id, model and status",
        _instance_members,
    ),
    Check("health-instance-ids", ("R-HLTH-1",), Level.MUST, "Each instance has its own id", _instance_ids),
    Check("health-texts", ("R-HLTH-1",), Level.SHOULD, "Vendors and models are named", _texts_say_something),
    Check(
        "health-no-authorization",
        ("R-HLTH-4", "R-AUTHZ-3"),
        Level.MUST,
        "Authorization is not applied to health",
        _no_authorization,
    ),
    Check("health-deep", ("R-HLTH-2",), Level.SHOULD, "If the health is good, cryptography works", _deep),
)
