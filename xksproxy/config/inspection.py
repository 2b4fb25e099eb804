"""Risks in a valid configuration: what will fail later, or is dangerous."""

from collections.abc import Iterator
from datetime import UTC, datetime

from xksproxy.config.certificate_checks import certificate_findings
from xksproxy.config.client_ca_checks import client_ca_findings
from xksproxy.config.credential_checks import credential_findings
from xksproxy.config.findings import Finding
from xksproxy.config.model import Config
from xksproxy.config.networks import network_findings
from xksproxy.config.resource_checks import resource_findings
from xksproxy.spec.pasted import wrapping_problem


def inspect_config(config: Config, now: datetime | None = None) -> list[Finding]:
    """Findings that :func:`xksproxy.config.check.check_config` does not report.

    They do not stop the proxy. If an expired certificate did, a wrong clock would cause an outage.
    """
    now = now or datetime.now(UTC)
    proxy_protocol = config.server.proxy_protocol
    return [
        *certificate_findings(config.server.tls, now),
        *client_ca_findings(config.server.tls, now),
        *credential_findings(config.keystore),
        *_name_findings(config),
        *(network_findings("server.proxy_protocol.from", proxy_protocol.from_) if proxy_protocol else ()),
        *resource_findings(config),
    ]


def _name_findings(config: Config) -> Iterator[Finding]:
    """Names on a token to which something was pasted that is hardly a part of them. A token may use any character."""
    names = [(f"hsm[{index}].token", hsm.token) for index, hsm in enumerate(config.hsm)]
    for index, store in enumerate(config.keystore):
        for key_index, key in enumerate(store.keys):
            at = f"keystore[{index}].keys[{key_index}]"
            names += [(f"{at}.label", key.label), *((f"{at}.versions", label) for label in key.versions.values())]
    for at, name in names:
        if name is not None and (problem := wrapping_problem(name)):
            yield Finding.warning(f"{at}: {name}: {problem}")
