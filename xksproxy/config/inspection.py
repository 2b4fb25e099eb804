"""Risks in a valid configuration: what will fail later, or is dangerous."""

from datetime import UTC, datetime

from xksproxy.config.certificate_checks import certificate_findings, client_ca_findings
from xksproxy.config.credential_checks import credential_findings
from xksproxy.config.findings import Finding
from xksproxy.config.model import Config
from xksproxy.config.networks import network_findings
from xksproxy.config.resource_checks import resource_findings


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
        *(network_findings("server.proxy_protocol.from", proxy_protocol.from_) if proxy_protocol else ()),
        *resource_findings(config),
    ]
