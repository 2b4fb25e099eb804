"""From settings to everything that is to be written and said. Nothing here touches a file."""

from dataclasses import dataclass
from pathlib import Path

from xksproxy.config.model import Config
from xksproxy.config.secret import Secret
from xksproxy.importing.findings import Finding
from xksproxy.importing.hsm import map_hsm
from xksproxy.importing.keystores import KeyStoreCredential, map_keystores
from xksproxy.importing.server import map_health, map_server
from xksproxy.importing.settings import SettingsFile
from xksproxy.importing.unsupported import unsupported_settings


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration with its secrets apart, and what there is to know about it."""

    config: Config
    """Complete, save for placeholders that a finding of ``to do`` names. The PIN, the credentials and placeholders are
    relative paths; what the settings named is absolute."""

    pin: Secret | None
    """What goes into the PIN file; None where the settings have none that it could hold."""

    credentials: tuple[KeyStoreCredential, ...]
    """For each key store, in order, the directory of its credentials and what goes into it."""

    findings: tuple[Finding, ...]


def make_plan(file: SettingsFile, base: Path, token: str | None) -> Plan:
    """Map the settings of AWS's sample proxy onto a configuration.

    ``base`` is the absolute path of the directory in which the sample was started; ``token`` the label of the token
    that it used, if known.
    """
    settings = file.settings
    server, server_findings = map_server(settings, base)
    health, health_findings = map_health(settings)
    hsm, pin, hsm_findings = map_hsm(settings, base, token, workers=server.workers)
    stores, credentials, store_findings = map_keystores(settings, hsm.id)
    return Plan(
        Config(server=server, hsm=(hsm,), keystore=stores, health=health),
        pin,
        credentials,
        (*server_findings, *health_findings, *hsm_findings, *store_findings, *unsupported_settings(file)),
    )
