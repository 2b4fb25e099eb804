"""Warnings about policies that can never match any request. Such policies are loaded."""

from collections.abc import Callable, Iterator
from typing import Final

from cedarpy import pst

from xksproxy.authorization.policies import Policies, Policy
from xksproxy.authorization.request import PRINCIPAL_TYPE, RESOURCE_TYPE, principal_attributes


def findings(policies: Policies, exposes: Callable[[str], bool]) -> Iterator[str]:
    """Report probable mistakes, each with file, line and policy.

    ``exposes`` returns whether the key store exposes an external key id.
    """
    if all(policy.tree.effect == "forbid" for policy in policies.policies):
        yield f"{policies.policies[0].file}: no policy permits anything, so every request is refused"
    for policy in policies.policies:
        for finding in (*_unknown_names(policy, exposes), *_constant_conditions(policy)):
            yield f"{policy.place}: policy {policy.id}: {finding}"


def reads_request_id(policies: Policies) -> bool:
    """Whether a policy can read ``kmsRequestId``: it names the attribute, or uses the context as a whole."""
    return any(_reads_request_id(policy.tree) for policy in policies.policies)


def _unknown_names(policy: Policy, exposes: Callable[[str], bool]) -> Iterator[str]:
    for uid in sorted(pst.entity_uids(policy.tree), key=str):
        if str(uid.type) == RESOURCE_TYPE and not exposes(uid.id):
            yield f"the key store does not expose the external key {uid.id}, so this name never matches"
        elif str(uid.type) == PRINCIPAL_TYPE and "*" in uid.id:
            yield f'* in {uid.id} is not a wildcard here; for a pattern write: principal.arn like "{uid.id}"'
        elif str(uid.type) == PRINCIPAL_TYPE and principal_attributes(uid.id)["kind"] == "unknown":
            yield (
                f"no caller has the name {uid.id}; expected an ARN of IAM or STS, a service principal, or AWS Internal"
            )


def _constant_conditions(policy: Policy) -> Iterator[str]:
    never: Final = (pst.When(pst.BoolLit(value=False)), pst.Unless(pst.BoolLit(value=True)))
    if any(clause in never for clause in policy.tree.clauses):
        yield "its condition is never true"


def _reads_request_id(node: object) -> bool:
    """Whether a node of a policy reads it. cedarpy limits the nesting of nodes to 100 levels."""
    match node:
        case pst.GetAttr(base=pst.Var(name="context"), attr=attribute):
            return attribute == "kmsRequestId"
        case pst.HasAttr(base=pst.Var(name="context"), attrs=attributes):
            return "kmsRequestId" in attributes
        case pst.Var(name="context"):
            return True
        case dict():
            return any(map(_reads_request_id, node.values()))
        case tuple():
            return any(map(_reads_request_id, node))
    fields = getattr(node, "__dataclass_fields__", ())
    return any(_reads_request_id(getattr(node, name)) for name in fields)
