"""``xksproxy policy``: what the policies of a key store say to a request."""

import sys
from pathlib import Path
from typing import Any, BinaryIO

import click

from xksproxy.authorization.authorizer import Authorizer, Decision
from xksproxy.authorization.policies import Policies, load_policies
from xksproxy.authorization.request import AuthorizationRequest, context_of, principal_attributes
from xksproxy.cli.config_option import choose_keystore, config_option, keystore_option
from xksproxy.cli.output import FOUND_SOMETHING_WRONG, print_error, print_json
from xksproxy.cli.policy_request import compose_request, read_facts, request_options
from xksproxy.config.load import load_config
from xksproxy.config.model import KeyStore
from xksproxy.keystore.key_map import KeyMap

_NO_POLICIES = Decision(allowed=True)


@click.group()
def policy() -> None:
    """See what the policies of a key store decide.

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
    """Say whether the policies allow a request, and which of them decide. Exit code 0 allow, 1 deny.

    The policies are read from their files, not asked of a running proxy; neither HSM nor credentials are needed.

    \b
    Example:
      xksproxy policy explain --operation GetKeyMetadata --key demo-key --principal arn:aws:iam::123456789012:root
      xksproxy policy explain --from -
    """
    facts = read_facts(source.read()) if source is not None else {}
    store = choose_keystore(load_config(config_file), keystore_name or facts.get("keystore"))
    request = compose_request(facts | {name: value for name, value in options.items() if value is not None})
    policies = None if store.policies is None else load_policies(store.policies)
    decision = Authorizer(store.name, policies).decide(request) if policies else _NO_POLICIES
    exposed = KeyMap(store.keys).exposes(request.key_id)
    found = _facts(store, policies, decision, request)
    if as_json:
        print_json({**found, "key_exposed": exposed})
    else:
        _print(found)
    if not exposed:
        print_error(
            f"the key store {store.name} exposes no key {request.key_id}: it answers KeyNotFoundException first"
        )
    sys.exit(0 if decision.allowed else FOUND_SOMETHING_WRONG)


def _facts(
    store: KeyStore, policies: Policies | None, decision: Decision, request: AuthorizationRequest
) -> dict[str, Any]:
    known = {policy.id: policy for policy in policies.policies} if policies else {}
    return {
        "decision": "allow" if decision.allowed else "deny",
        "mode": store.policy_mode if policies else "none",
        "keystore": store.name,
        "reason": _reason(decision) if policies else "the key store has no policies",
        "policies": [
            {
                "id": name,
                "effect": known[name].tree.effect,
                "file": str(known[name].file),
                "line": known[name].statement.line,
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


def _print(found: dict[str, Any]) -> None:
    audit = found["mode"] == "audit" and found["decision"] == "deny"
    click.echo(f"{found['decision']}: {found['reason']}")
    if audit:
        click.echo("policy_mode is audit: the proxy logs this and serves the request all the same")
    for decided in found["policies"]:
        click.echo(f"  {decided['effect']}  {decided['id']}  {decided['file']}:{decided['line']}")
    request = found["request"]
    click.echo(f"\nrequest      {request['operation']} {request['key_id']} in {found['keystore']}")
    for title in ("principal", "context"):
        for name, value in request[title].items():
            click.echo(f"{title:12} {name} = {value!a}")
