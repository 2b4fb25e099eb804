"""What the master has accepted. Workers inherit it in memory, and serve it whatever the files say meanwhile."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from xksproxy.authorization.policies import Policies
from xksproxy.config.check import require_usable_files
from xksproxy.config.credentials import CREDENTIAL_SUFFIX, StoredCredential, read_credentials
from xksproxy.config.model import Config
from xksproxy.server.tls import CertificateInfo, build_context, certificate_info, client_rules
from xksproxy.server.tls_contents import TlsContents
from xksproxy.server.watch import Signature, directory_signature
from xksproxy.sigv4.keyring import Credential

LoadedPolicies = Mapping[tuple[str, ...], Policies]
"""Policies by the paths that the configuration names."""


@dataclass(frozen=True, slots=True)
class CredentialDirectory:
    """The credentials of a directory as they were read, with the metadata of its files."""

    signature: Signature
    stored: tuple[StoredCredential, ...]

    @classmethod
    def read(cls, directory: str, before: Self | None) -> Self:
        """Read a directory. If its files have the same metadata as ``before``, they are not read again.

        Raises:
            ConfigError: its credentials cannot be used.
        """
        signature = directory_signature(directory, CREDENTIAL_SUFFIX)  # before the files are read
        if before is not None and before.signature == signature:
            return before
        return cls(signature, read_credentials(Path(directory)))


StoredCredentials = Mapping[str, CredentialDirectory]
"""Directories of credentials by their paths."""


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
            ConfigError: one cannot be used. It has all problems.
        """
        known = {} if before is None else before.credentials
        read: dict[str, CredentialDirectory] = {}

        def load(directory: str) -> tuple[Credential, ...]:
            if directory not in read:
                read[directory] = CredentialDirectory.read(directory, known.get(directory))
            return tuple(stored.credential for stored in read[directory].stored)

        require_usable_files(config, load)
        return cls.of(config, read, TlsContents.read(config.server.tls))

    @classmethod
    def of(cls, config: Config, credentials: StoredCredentials, contents: TlsContents) -> Self:
        """Those of a configuration with this content.

        Raises:
            ConfigError: certificate, key or CA cannot be used.
        """
        with contents.as_files(config.server.tls) as tls:
            return cls(credentials, contents, build_context(tls), certificate_info(tls), client_rules(tls))


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
