"""Import of ``[server]`` and ``[health]``."""

import ipaddress
from pathlib import Path
from typing import Final

from xksproxy.config.model import Health, Server, Tls
from xksproxy.importing.findings import Finding, different, to_do
from xksproxy.importing.settings import Settings
from xksproxy.printable import printable

_WORKERS: Final = 2
_KMS_PORT: Final = 443
_CERTIFICATE: Final = "tls/server.pem"
_PRIVATE_KEY: Final = "tls/server-key.pem"
_CLIENT_CA: Final = "tls/client-ca.pem"


def map_server(settings: Settings, base: Path) -> tuple[Server, list[Finding]]:
    """``[server]`` with TLS, which is optional in the sample and required here."""
    certificate, private_key, findings = _map_certificate(settings, base)
    client_ca, client_names, more = _map_client(settings, base)
    tls = Tls(certificate=certificate, private_key=private_key, client_ca=client_ca, client_names=client_names)
    listen = _listen(settings.server.ip, settings.server.port)
    if settings.server.port != _KMS_PORT:
        more.append(
            different(
                "server.port",
                f"the public listener stays on port {settings.server.port}, with TLS. KMS calls port"
                f" {_KMS_PORT} of the endpoint: forward TCP from there in the load balancer, or change listen.",
                "server.listen",
            )
        )
    return Server(listen=listen, workers=_WORKERS, tls=tls), [*findings, *more]


def map_health(settings: Settings) -> tuple[Health, list[Finding]]:
    """``[health]``, if the sample has a separate port for health checks."""
    port = settings.server.port_http_ping
    if port == settings.server.port:
        text = (
            "the sample answered /ping on its public port; this proxy does too, over TLS. For health checks in plain"
            " HTTP set listen of [health], which answers /livez and /readyz."
        )
        return Health(), [different("server.port_http_ping", text, "health.listen")]
    text = (
        f"health checks in plain HTTP stay on port {port}, but their paths are /livez and /readyz, not /ping: change"
        " them in the load balancer. /ping answers on the public port, over TLS."
    )
    return Health(listen=_listen(settings.server.ip, port)), [different("server.port_http_ping", text, "health.listen")]


def _listen(ip: str, port: int) -> str:
    address = ipaddress.ip_address(ip)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"  # noqa: PLR2004 - IPv6


def _map_certificate(settings: Settings, base: Path) -> tuple[str, str, list[Finding]]:
    """The certificate and key of the server. Files that the sample named but did not use are not imported."""
    tls = settings.tls
    if not settings.security.is_tls_enabled:
        text = (
            "the sample served plain HTTP; this proxy always terminates TLS. Put the certificate of a public CA, for"
            " the name of the endpoint, and its private key at the two placeholders, or set other paths. A load"
            " balancer that terminated TLS must now forward TCP."
        )
        setting, more = "security.is_tls_enabled", "the private key of that certificate, mode 0600 or 0640."
        findings = [to_do(setting, text, "server.tls.certificate"), to_do(setting, more, "server.tls.private_key")]
        return _CERTIFICATE, _PRIVATE_KEY, findings
    findings = [
        to_do(f"tls.{setting}", "it is missing or empty; replace the placeholder.", f"server.tls.{key}")
        for setting, key, value in (
            ("tls_cert_pem", "certificate", tls.tls_cert_pem),
            ("tls_key_pem", "private_key", tls.tls_key_pem),
        )
        if not value
    ]
    certificate = str(base / tls.tls_cert_pem) if tls.tls_cert_pem else _CERTIFICATE
    return certificate, str(base / tls.tls_key_pem) if tls.tls_key_pem else _PRIVATE_KEY, findings


def _map_client(settings: Settings, base: Path) -> tuple[str | None, tuple[str, ...], list[Finding]]:
    """Mutual TLS. If its settings are incomplete, a placeholder prevents that the proxy serves without it."""
    if not settings.security.is_mtls_enabled:
        return None, (), []
    name, authority = settings.tls.mtls_client_dns_name, settings.tls.mtls_client_ca_pem
    findings = []
    if not authority:
        text = "mutual TLS is on, and the CAs of client certificates are missing; replace the placeholder."
        findings.append(to_do("tls.mtls_client_ca_pem", text, "server.tls.client_ca"))
    if name:
        text = (
            f"{printable(name)} must equal the common name of the client's certificate; the sample searched"
            " the DNS names (subjectAltName). If the common name differs, set it here."
        )
        findings.append(different("tls.mtls_client_dns_name", text, "server.tls.client_names"))
    else:
        text = "mutual TLS is on, and the name of the client is missing: set the common name of KMS's certificate."
        findings.append(to_do("tls.mtls_client_dns_name", text, "server.tls.client_names"))
    return str(base / authority) if authority else _CLIENT_CA, (name,) if name else (), findings
