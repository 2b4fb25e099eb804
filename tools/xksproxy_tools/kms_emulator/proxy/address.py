"""Where an external key store's proxy is, as KMS knows it."""

from dataclasses import dataclass
from typing import Final

from xksproxy.sigv4.keyring import Credential

HTTPS_PORT: Final = 443
"""The only port that KMS calls (R-TLS-11)."""

_SCHEME: Final = "https://"


@dataclass(frozen=True, slots=True)
class ProxyAddress:
    """The three properties by which KMS finds a proxy and signs for it. Their form is checked by whoever takes them."""

    endpoint: str
    """XksProxyUriEndpoint: ``https://`` and a host name, without port or path."""

    uri_path: str
    """XksProxyUriPath: ``[/<prefix>]/kms/xks/v1``."""

    credential: Credential

    @property
    def host(self) -> str:
        """The host name, which the proxy's certificate must carry and which is signed."""
        return self.endpoint.removeprefix(_SCHEME)
