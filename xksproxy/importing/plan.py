"""The plan of an import: configuration, secrets and findings. Nothing here reads or writes a file."""

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
    """A configuration, its secrets, and findings."""

    config: Config
    """Complete, except for placeholders, each with a finding ``to do``. Paths of the PIN, the credentials and
    placeholders are relative; paths from the settings are absolute."""

    pin: Secret | None
    """The content of the PIN file; None if the settings have no PIN that a file can contain."""

    credentials: tuple[KeyStoreCredential, ...]
    """For each key store, in order, the directory of its credentials and its credential."""

    findings: tuple[Finding, ...]


def make_plan(file: SettingsFile, base: Path, token: str | None) -> Plan:
    """Map the settings of AWS's sample proxy onto a configuration.

    ``base`` is the absolute path of the directory in which the sample was started. ``token`` is the label of the token
    that it used, or None.
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
