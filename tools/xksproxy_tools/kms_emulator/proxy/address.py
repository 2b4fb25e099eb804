"""The address of an external key store's proxy."""

from dataclasses import dataclass
from typing import Final

from xksproxy.sigv4.keyring import Credential

HTTPS_PORT: Final = 443
"""The only port that KMS calls (R-TLS-11)."""

_SCHEME: Final = "https://"


@dataclass(frozen=True, slots=True)
class ProxyAddress:
    """The address of a proxy and the credential for it. The form is not checked here."""

    endpoint: str
    """XksProxyUriEndpoint: ``https://`` and a host name, without port or path."""

    uri_path: str
    """XksProxyUriPath: ``[/<prefix>]/kms/xks/v1``."""

    credential: Credential

    @property
    def host(self) -> str:
        """The host name. The proxy's certificate must contain it, and signatures cover it."""
        return self.endpoint.removeprefix(_SCHEME)
