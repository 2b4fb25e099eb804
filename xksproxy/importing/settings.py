"""The settings file of AWS's sample proxy as typed, frozen structs, and its reader.

Tables and keys that the import does not need may be missing, although the sample would not start without them.
"""

import ipaddress
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, get_args

import msgspec
from msgspec import Meta, field

from xksproxy.config.regular_file import FileRefused, read_regular_file, text_of
from xksproxy.config.secret import Secret
from xksproxy.importing.quoting import dotted, quote
from xksproxy.printable import printable
from xksproxy.spec.limits import MAXIMUM_CIPHERTEXT_METADATA_BYTES

Text = Annotated[str, Meta(min_length=1)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Count = Annotated[int, Meta(ge=0)]

_POSITION: Final = re.compile(r"\(at [^()]*\)$")


class SettingsError(Exception):
    """The settings cannot be imported. Each problem names the file, the key and what was expected, but no value."""

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))


class _Table(msgspec.Struct, frozen=True, kw_only=True):
    """A TOML table. Unknown keys are reported separately."""


class TcpKeepalive(_Table, frozen=True):
    """``[server.tcp_keepalive]``."""

    tcp_keepalive_secs: Count | None = None
    tcp_keepalive_interval_secs: Count | None = None
    tcp_keepalive_retries: Count | None = None


class ServerSettings(_Table, frozen=True):
    """``[server]``: its addresses, and the metadata of its ciphertexts."""

    ip: Text
    port: Port
    port_http_ping: Port = 80
    region: str | None = None
    service: str | None = None
    ciphertext_metadata_b64: Annotated[bytes, Meta(max_length=MAXIMUM_CIPHERTEXT_METADATA_BYTES)] | None = None
    tcp_keepalive: TcpKeepalive | None = None


class OsoSettings(_Table, frozen=True):
    """``[security.oso]``."""

    polar_file_path: str


class SecuritySettings(_Table, frozen=True):
    """``[security]``: how callers are authenticated."""

    is_sigv4_auth_enabled: bool
    is_tls_enabled: bool
    is_mtls_enabled: bool
    secondary_auth: str | None = None
    oso: OsoSettings | None = None


class TlsSettings(_Table, frozen=True):
    """``[tls]``: files that are used if ``[security]`` enables them."""

    tls_cert_pem: str = ""
    tls_key_pem: str = ""
    mtls_client_ca_pem: str = ""
    mtls_client_dns_name: str = ""


class TracingSettings(_Table, frozen=True):
    """``[tracing]``: its logs."""

    is_stdout_writer_enabled: bool | None = None
    is_file_writer_enabled: bool | None = None
    level: str | None = None
    directory: str | None = None
    file_prefix: str | None = None
    rotation_kind: str | None = None


class Pkcs11Settings(_Table, frozen=True):
    """``[pkcs11]``: the module, and the pool of sessions on its first slot."""

    hsm_module: Text = field(name="PKCS11_HSM_MODULE")
    user_pin: Secret
    session_pool_max_size: Count
    session_pool_timeout_milli: Count | None = None
    session_eager_close: bool | None = None
    context_read_timeout_milli: Count | None = None


class Pkcs11LoggerSettings(_Table, frozen=True):
    """``[pkcs11_logger]``: a module that logs calls and forwards them to the real module."""

    library_path: str = field(name="PKCS11_LOGGER_LIBRARY_PATH", default="")
    log_file_path: str = field(name="PKCS11_LOGGER_LOG_FILE_PATH", default="")
    flags: str = field(name="PKCS11_LOGGER_FLAGS", default="")


class LimitsSettings(_Table, frozen=True):
    """``[limits]``: in characters of Base64."""

    max_plaintext_in_base64: Count | None = None
    max_aad_in_base64: Count | None = None


class HsmCapabilitiesSettings(_Table, frozen=True):
    """``[hsm_capabilities]``: who makes the IV."""

    can_generate_iv: bool
    is_zero_iv_required: bool


class ExternalKeyStoreSettings(_Table, frozen=True):
    """``[[external_key_stores]]``: a key store of KMS."""

    uri_path_prefix: str
    sigv4_access_key_id: Secret
    sigv4_secret_access_key: Secret
    xks_key_id_set: frozenset[str]


class Settings(_Table, frozen=True):
    """The whole file."""

    server: ServerSettings
    security: SecuritySettings
    pkcs11: Pkcs11Settings
    hsm_capabilities: HsmCapabilitiesSettings
    external_key_stores: Annotated[tuple[ExternalKeyStoreSettings, ...], Meta(min_length=1)]
    tls: TlsSettings = TlsSettings()
    tracing: TracingSettings | None = None
    pkcs11_logger: Pkcs11LoggerSettings | None = None
    limits: LimitsSettings | None = None


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """The settings of a file, and its unknown keys."""

    settings: Settings
    unknown_keys: tuple[str, ...]


def read_settings(path: Path) -> SettingsFile:
    """Read and type-check a settings file of at most 1 MiB.

    Raises:
        SettingsError: it cannot be read, is not TOML, lacks a key, or has a key of the wrong type.
    """
    tables = _read_tables(path)
    try:
        settings = msgspec.convert(tables, Settings, dec_hook=_decode_secret)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{path}: {_readable(str(error))}") from None
    except (RecursionError, OverflowError):
        raise SettingsError(f"{path}: a value is nested too deeply or too large") from None
    try:
        ipaddress.ip_address(settings.server.ip)
    except ValueError:
        raise SettingsError(f"{path}: server.ip: expected an IP address, got {_shown(settings.server.ip)}") from None
    return SettingsFile(settings, tuple(_unknown_keys(tables, Settings, ())))


def _read_tables(path: Path) -> dict[str, Any]:
    try:
        text = text_of(path, read_regular_file(path).content)
    except FileRefused as error:
        raise SettingsError(str(error)) from None
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise SettingsError(f"{path}: its values are nested too deeply") from None
    except ValueError as error:
        # The decoder's message may quote the line, which may hold a secret. Only the position is reported.
        position = _POSITION.search(str(error))
        raise SettingsError(f"{path}: not TOML{' ' + position[0] if position else ''}") from None


def _decode_secret(wanted: type, value: Any) -> Any:
    if wanted is not Secret:
        raise NotImplementedError
    if not isinstance(value, str):
        raise TypeError(f"Expected `str`, got `{type(value).__name__}`")
    return Secret(value)


def _readable(text: str) -> str:
    """``Expected `int`, got `str` - at `$.server.port```, with the path of the key at the start."""
    what, _, place = text.partition(" - at `$")
    what = what.replace("Object missing required field", "missing key").replace("`object`", "a table")
    place = place.strip(".`")
    return f"{place}: {what}" if place else what


def _shown(value: str) -> str:
    return printable(quote(value))


def _unknown_keys(table: dict[str, Any], model: type[msgspec.Struct], at: tuple[str, ...]) -> Iterator[str]:
    """The path of each unknown key."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(model)}
    for key, value in table.items():
        if key not in fields:
            yield dotted(*at, key)
            continue
        nested = _struct_within(fields[key].type)
        for row in value if isinstance(value, list) else [value]:
            if nested is not None and isinstance(row, dict):
                yield from _unknown_keys(row, nested, (*at, key))


def _struct_within(annotation: Any) -> type[msgspec.Struct] | None:
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return annotation
    return next((struct for part in get_args(annotation) if (struct := _struct_within(part))), None)
