"""Settings that have no counterpart in this proxy."""

from collections.abc import Iterator
from typing import Final

from xksproxy.importing.findings import Finding, no_counterpart
from xksproxy.importing.settings import SettingsFile
from xksproxy.printable import printable
from xksproxy.spec.limits import MAXIMUM_AAD_BYTES, MAXIMUM_PLAINTEXT_BYTES

_SERVICE: Final = "kms-xks-proxy"


def unsupported_settings(file: SettingsFile) -> Iterator[Finding]:
    """One finding for each setting that is not imported, with what this proxy does instead."""
    yield from _server(file)
    yield from _security(file)
    yield from _pkcs11(file)
    settings = file.settings
    if settings.tracing is not None:
        text = (
            "one log, to standard error, as JSON or for people ([logging]); the service manager keeps and rotates it."
        )
        yield no_counterpart("tracing", text)
    if settings.limits is not None:
        text = (
            f"fixed at {MAXIMUM_PLAINTEXT_BYTES} bytes of plaintext and {MAXIMUM_AAD_BYTES} of AAD, both counted before"
            " Base64; KMS sends no more."
        )
        yield no_counterpart("limits", text)
    for key in file.unknown_keys:
        yield no_counterpart(key, "unknown: the import does not know this setting, and ignored it.")


def _server(file: SettingsFile) -> Iterator[Finding]:
    server = file.settings.server
    if server.region is not None:
        text = "not needed: the proxy accepts the Region for which the request is signed."
        yield no_counterpart("server.region", text)
    if server.service is not None:
        text = f"always {_SERVICE}, as KMS signs"
        text += "." if server.service == _SERVICE else f"; {printable(server.service)} would not be accepted."
        yield no_counterpart("server.service", text)
    if server.tcp_keepalive is not None:
        text = (
            "TCP keepalive is on, with the operating system's timings; an idle connection is closed after six minutes."
        )
        yield no_counterpart("server.tcp_keepalive", text)


def _security(file: SettingsFile) -> Iterator[Finding]:
    security = file.settings.security
    if not security.is_sigv4_auth_enabled:
        yield no_counterpart("security.is_sigv4_auth_enabled", "the signature of each request is always verified.")
    if security.secondary_auth is not None:
        text = (
            f"{printable(security.secondary_auth)} has no effect here: each credential of a key store may use all of"
            " its keys. Write its rules as Cedar policies, and set policies of [[keystore]]."
        )
        yield no_counterpart("security.secondary_auth", text)
    elif security.oso is not None:
        yield no_counterpart("security.oso", "not used in the sample: security.secondary_auth is not set.")


def _pkcs11(file: SettingsFile) -> Iterator[Finding]:
    pkcs11 = file.settings.pkcs11
    if pkcs11.session_pool_timeout_milli is not None:
        text = "a request waits for a session until its deadline: deadline_ms of [server]."
        yield no_counterpart("pkcs11.session_pool_timeout_milli", text)
    if pkcs11.session_eager_close is not None:
        yield no_counterpart("pkcs11.session_eager_close", "sessions stay open, and are replaced when they fail.")
    if pkcs11.context_read_timeout_milli is not None:
        text = "there is no lock around the module; a session whose call hangs is replaced."
        yield no_counterpart("pkcs11.context_read_timeout_milli", text)
