"""``xksproxy policy``: the decision of a key store's policies on a request."""

import sys
from pathlib import Path
from typing import Any, BinaryIO

import click

from xksproxy.authorization.authorizer import Authorizer, Decision
from xksproxy.authorization.policies import Policies, load_policies
from xksproxy.authorization.request import AuthorizationRequest, context_of, principal_attributes
from xksproxy.cli.config_option import choose_keystore, config_option, keystore_option
from xksproxy.cli.output import FOUND_SOMETHING_WRONG, print_error, print_json, print_line
from xksproxy.cli.policy_request import compose_request, read_fields, request_options
from xksproxy.config.load import load_config
from xksproxy.config.model import KeyStore
from xksproxy.keystore.key_map import KeyMap

_NO_POLICIES = Decision(allowed=True)


@click.group()
def policy() -> None:
    """Show what the policies of a key store decide.

    \b
    Example:
      xksproxy policy explain --operation GetKeyMetadata --key demo-key --principal ec2.amazonaws.com
    """


@policy.command()
@config_option
@keystore_option
@request_options
@click.option(
    "--from",
    "source",
    type=click.File("rb"),
    help="A file, - for standard input, with a line of the proxy's log or the body that KMS sent. Options go first.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(
    config_file: Path, keystore_name: str | None, source: BinaryIO | None, *, as_json: bool, **options: str | None
) -> None:
    """Show whether the policies allow a request, and which of them decide. Exit code 0 allow, 1 deny.

    The command reads the policies from their files. It needs no running proxy, no HSM and no credentials.

    \b
    Example:
      xksproxy policy explain --operation GetKeyMetadata --key demo-key --principal arn:aws:iam::123456789012:root
      xksproxy policy explain --from -
    """
    fields = read_fields(source.read()) if source is not None else {}
    store = choose_keystore(load_config(config_file), keystore_name or fields.get("keystore"))
    request = compose_request(fields | {name: value for name, value in options.items() if value is not None})
    policies = None if store.policies is None else load_policies(store.policies)
    decision = Authorizer(store.name, policies).decide(request) if policies else _NO_POLICIES
    exposed = KeyMap(store.keys).exposes(request.key_id)
    document = _document(store, policies, decision, request)
    if as_json:
        print_json({**document, "key_exposed": exposed})
    else:
        _print(document)
    if not exposed:
        print_error(
            f"the key store {store.name} exposes no key {request.key_id}: the proxy would answer KeyNotFoundException"
        )
    sys.exit(0 if decision.allowed else FOUND_SOMETHING_WRONG)


def _document(
    store: KeyStore, policies: Policies | None, decision: Decision, request: AuthorizationRequest
) -> dict[str, Any]:
    by_id = {policy.id: policy for policy in policies.policies} if policies else {}
    return {
        "decision": "allow" if decision.allowed else "deny",
        "mode": store.policy_mode if policies else "none",
        "keystore": store.name,
        "reason": _reason(decision) if policies else "the key store has no policies",
        "policies": [
            {
                "id": name,
                "effect": by_id[name].tree.effect,
                "file": str(by_id[name].file),
                "line": by_id[name].statement.line,
            }
            for name in decision.policies
        ],
        "errors": list(decision.errors),
        "request": {
            "operation": request.operation.value,
            "key_id": request.key_id,
            "principal": principal_attributes(request.aws_principal_arn),
            "context": context_of(request),
        },
    }


def _reason(decision: Decision) -> str:
    return f"permitted by policy {', '.join(decision.policies)}" if decision.allowed else decision.reason


def _print(document: dict[str, Any]) -> None:
    print_line(f"{document['decision']}: {document['reason']}")
    if document["mode"] == "audit" and document["decision"] == "deny":
        print_line("policy_mode is audit: the proxy logs the decision and serves the request")
    for deciding in document["policies"]:
        print_line(f"  {deciding['effect']}  {deciding['id']}  {deciding['file']}:{deciding['line']}")
    request = document["request"]
    print_line()
    print_line(f"request      {request['operation']} {request['key_id']} in {document['keystore']}")
    for title in ("principal", "context"):
        for name, value in request[title].items():
            print_line(f"{title:12} {name} = {value!a}")
