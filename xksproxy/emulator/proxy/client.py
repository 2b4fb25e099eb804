"""Calls to an XKS proxy as AWS KMS makes them: signed, within 250 ms each, over connections that are kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from xksproxy.emulator.proxy.address import ProxyAddress
from xksproxy.emulator.proxy.answers import Sealed
from xksproxy.spec.limits import KMS_TIMEOUT_MS
from xksproxy.spec.messages import (
    CryptoRequestMetadata,
    GetHealthStatusResponse,
    GetKeyMetadataResponse,
    HealthRequestMetadata,
    KeyRequestMetadata,
)

Peer = tuple[str, int]
"""Host and port."""

_SECONDS: Final = KMS_TIMEOUT_MS / 1000


class ProxyClient:
    """One for all key stores. Belongs to the event loop that it is made on; safe for concurrent calls there.

    Every failure of a call is a :class:`ProxyFailure`.
    """

    def __init__(
        self,
        region: str,
        *,
        resolve: Mapping[Peer, Peer] | None = None,
        ca: Path | None = None,
        client_certificate: Path | None = None,
        client_key: Path | None = None,
        time_limit: float = _SECONDS,
    ) -> None:
        """Make no connection yet.

        Args:
            region: the Region that signatures are for.
            resolve: where to connect instead of a host and port; names and signatures stay those of the endpoint.
            ca: PEM file of the CAs to trust; the system's without it.
            client_certificate: PEM file shown to a proxy that asks for a certificate.
            client_key: its private key, if that stands in a file of its own.
            time_limit: seconds for one attempt, connecting and TLS included.

        Raises:
            TargetError: a PEM file cannot be used.
        """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all connections."""

    async def health(self, address: ProxyAddress, metadata: HealthRequestMetadata) -> GetHealthStatusResponse:
        """GetHealthStatus. That every instance is UNAVAILABLE is a failure too, ALL_UNAVAILABLE."""
        raise NotImplementedError

    async def key_metadata(
        self, address: ProxyAddress, key_id: str, metadata: KeyRequestMetadata
    ) -> GetKeyMetadataResponse:
        """GetKeyMetadata; whether KMS can use such a key is for :func:`verdicts.key_refusal` to say."""
        raise NotImplementedError

    async def encrypt(
        self, address: ProxyAddress, key_id: str, metadata: CryptoRequestMetadata, plaintext: bytes, aad: bytes
    ) -> Sealed:
        """Encrypt; the ciphertext data integrity value is demanded, and verified (R-CDIV-7)."""
        raise NotImplementedError

    async def decrypt(
        self, address: ProxyAddress, key_id: str, metadata: CryptoRequestMetadata, sealed: Sealed, aad: bytes
    ) -> bytes:
        """Decrypt what :meth:`encrypt` gave."""
        raise NotImplementedError
