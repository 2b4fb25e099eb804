"""What the master has accepted. Workers inherit it in memory, and serve it whatever the files say meanwhile."""

import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from xksproxy.authorization.policies import Policies
from xksproxy.config.credentials import CREDENTIAL_SUFFIX, StoredCredential, read_credentials
from xksproxy.config.model import Config
from xksproxy.server.tls import CertificateInfo, build_context, certificate_info, client_rules
from xksproxy.server.tls_contents import TlsContents
from xksproxy.server.watch import Signature, directory_signature

LoadedPolicies = Mapping[tuple[str, ...], Policies]
"""Policies by the paths that the configuration names."""

StoredCredentials = Mapping[str, tuple[Signature, tuple[StoredCredential, ...]]]
"""Credentials by directory, with the metadata of its files."""


@dataclass(frozen=True, slots=True)
class UsableFiles:
    """The credentials and certificates that were usable when they were last read, for when they no longer are."""

    credentials: StoredCredentials
    contents: TlsContents
    context: ssl.SSLContext
    certificate: CertificateInfo
    clients: tuple[object, ...]
    """The rules for clients."""

    @classmethod
    def read(cls, config: Config, before: Self | None = None) -> Self:
        """Read the files of a configuration; a directory that is the same as in ``before`` is not read again.

        Raises:
            ConfigError: one cannot be used.
        """
        known = {} if before is None else before.credentials
        credentials = dict(_read(dict.fromkeys(store.credentials for store in config.keystore), known))
        return cls.of(config, credentials, TlsContents.read(config.server.tls))

    @classmethod
    def of(cls, config: Config, credentials: "StoredCredentials", contents: TlsContents) -> Self:
        """Those of a configuration with this content.

        Raises:
            ConfigError: certificate, key or CA cannot be used.
        """
        with contents.as_files(config.server.tls) as tls:
            return cls(credentials, contents, build_context(tls), certificate_info(tls), client_rules(tls))


def _read(
    directories: Iterable[str], known: StoredCredentials
) -> Iterable[tuple[str, tuple[Signature, tuple[StoredCredential, ...]]]]:
    for directory in directories:
        signature = tuple(directory_signature(directory, CREDENTIAL_SUFFIX))
        before = known.get(directory)
        if before is None or before[0] != signature:
            before = signature, read_credentials(Path(directory))
        yield directory, before


@dataclass(frozen=True, slots=True)
class Accepted:
    """A configuration that was accepted, with the content of the files that it names."""

    config: Config
    number: int
    """Counts the configurations that the master has accepted, from 1."""

    request: str
    """The command that asked for it; empty if none did."""

    at: float
    """When it was accepted, in seconds since 1970."""

    file_digest: str
    """SHA-256 of the configuration file."""

    policies: LoadedPolicies
    files: UsableFiles
