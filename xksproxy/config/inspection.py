"""What will fail later, or is dangerous, in a configuration that can be served as it stands."""

from datetime import UTC, datetime

from xksproxy.config.certificate_checks import certificate_findings, client_ca_findings
from xksproxy.config.credential_checks import credential_findings
from xksproxy.config.findings import Finding
from xksproxy.config.model import Config


def inspect_config(config: Config, now: datetime | None = None) -> list[Finding]:
    """Findings besides those of :func:`xksproxy.config.check.check_config`.

    They do not stop the proxy: one that refuses to start over a date would turn a wrong clock into an outage.
    """
    now = now or datetime.now(UTC)
    return [
        *certificate_findings(config.server.tls, now),
        *client_ca_findings(config.server.tls, now),
        *credential_findings(config.keystore),
    ]
