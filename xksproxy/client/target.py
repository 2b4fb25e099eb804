"""The address of a key store of any XKS proxy: URL, path and credential."""

import json
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from xksproxy.client.xks import Endpoint
from xksproxy.config.credentials import CREDENTIAL_SUFFIX, read_credential_file
from xksproxy.config.errors import ConfigError
from xksproxy.config.secret import SecretError, read_private_file
from xksproxy.sigv4.keyring import Credential
from xksproxy.spec.pasted import host_in, prefix_in
from xksproxy.spec.uri import BASE_PATH, prefix_problem

_ENDPOINT: Final = re.compile(r"https://(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::(?P<port>[0-9]{1,5}))?/?")
_HTTPS_PORT: Final = 443
_MAXIMUM_PORT: Final = 65535


class TargetError(Exception):
    """A target cannot be used. The message says what was expected."""


@dataclass(frozen=True, slots=True)
class Target:
    """The address of a key store, its credential, and the files for TLS."""

    host: str
    """A domain name or an address. An IPv6 address has no brackets."""

    port: int
    path_prefix: str
    """The path before ``/kms/xks/v1``; empty, or with a leading slash."""

    region: str
    credential: Credential
    ca: Path | None = None
    """PEM file of the CA to trust. None: the CAs of the system."""

    client_certificate: Path | None = None
    """PEM file for mutual TLS: the certificate, and the private key if :attr:`client_key` is None."""

    client_key: Path | None = None

    @property
    def authority(self) -> str:
        """The value of the Host header. The default port is left out."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _HTTPS_PORT else f"{host}:{self.port}"

    @property
    def endpoint(self) -> Endpoint:
        """The same for :class:`XksClient`."""
        return Endpoint(self.authority, self.path_prefix, self.region, self.credential)

    def context(self) -> ssl.SSLContext:
        """A TLS context for a client that verifies the server; see :func:`tls_context`."""
        return tls_context(self.ca, self.client_certificate, self.client_key)


def tls_context(ca: Path | None, client_certificate: Path | None, client_key: Path | None) -> ssl.SSLContext:
    """A TLS context for a client that verifies the server. :class:`Target` describes the files.

    Raises:
        TargetError: a file cannot be read or is not PEM.
    """
    try:
        context = ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        if ca is None:
            reason = f"OpenSSL cannot be used: {_reason(error)}; check this machine's openssl.cnf and OPENSSL_CONF"
            raise TargetError(reason) from None
        raise TargetError(f"{ca}: {_reason(error)}; expected CA certificates in PEM") from None
    if client_certificate is not None:
        try:
            context.load_cert_chain(client_certificate, client_key)
        except (OSError, ValueError) as error:
            expected = "expected a certificate and its private key in PEM"
            raise TargetError(f"{client_certificate}: {_reason(error)}; {expected}") from None
    return context


def parse_endpoint(endpoint: str) -> tuple[str, int]:
    """Host and port of ``https://host[:port]``.

    Raises:
        TargetError: the text has another form.
    """
    match = _ENDPOINT.fullmatch(endpoint)
    port = int(match["port"] or _HTTPS_PORT) if match else 0
    if match is None or not 0 < port <= _MAXIMUM_PORT:
        host = host_in(endpoint)
        hint = f'; write "https://{host}"' if _ENDPOINT.fullmatch(f"https://{host}") else ""
        raise TargetError(f"{endpoint!r} is not an endpoint; expected https://host or https://host:port{hint}")
    return match["host"].strip("[]"), port


def parse_uri_path(path: str) -> str:
    """The prefix of a key store's path ``[/<prefix>]/kms/xks/v1``, the XksProxyUriPath of KMS.

    Raises:
        TargetError: the path has another form (R-URI-2).
    """
    prefix = path.removesuffix("/").removesuffix(BASE_PATH)
    if not path.removesuffix("/").endswith(BASE_PATH) or prefix_problem(prefix):
        meant = prefix_in(path)
        hint = "" if prefix_problem(meant) else f'; write "{meant}{BASE_PATH}"'
        raise TargetError(f"{path!r} is not the path of a key store; expected [/<prefix>]{BASE_PATH}{hint}")
    return prefix


def read_credential(path: Path) -> Credential:
    """Read a credential from a file of mode 0600, in the format of the proxy, the KMS console or the AWS CLI.

    Raises:
        TargetError: the file holds no credential, or others can read it.
    """
    try:
        if path.suffix == CREDENTIAL_SUFFIX:
            return read_credential_file(path)
        content = json.loads(read_private_file(path))
    except ConfigError as error:
        raise TargetError("; ".join(error.problems)) from None
    except SecretError as error:
        raise TargetError(str(error)) from None
    except (ValueError, RecursionError):
        # The decoder's message may quote the file, which holds a secret.
        content = None
    return _credential_of(content, path)


def _credential_of(content: Any, path: Path) -> Credential:
    """``{"AccessKeyId": …, "RawSecretAccessKey": …}``, at the top level or in XksProxyAuthenticationCredential."""
    table = content if isinstance(content, dict) else {}
    table = table.get("XksProxyAuthenticationCredential", table)
    table = table if isinstance(table, dict) else {}
    match table.get("AccessKeyId"), table.get("RawSecretAccessKey"):
        case str(access_key_id), str(secret_access_key):
            return Credential(access_key_id, secret_access_key)
    raise TargetError(
        f"{path}: no credential found; expected a *.toml of `credentials create` or the JSON of `kms-config`"
    )


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
