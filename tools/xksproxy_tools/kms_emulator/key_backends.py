"""Encryption with the three kinds of KMS keys: in KMS, in KMS and an external key store, in a CloudHSM cluster."""

from xksproxy_tools.kms_emulator import cloudhsm, proxy_settings, request_metadata
from xksproxy_tools.kms_emulator.cloudhsm import CloudHsmCluster, CloudHsmClusters, ClusterFailure, ClusterOutcome
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.key_material import KeyMaterial, KeyMaterialMismatch, join, split
from xksproxy_tools.kms_emulator.key_resolver import ResolvedKey
from xksproxy_tools.kms_emulator.proxy import kms_errors
from xksproxy_tools.kms_emulator.proxy.address import ProxyAddress
from xksproxy_tools.kms_emulator.proxy.client import ProxyClient
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome, ProxyFailure
from xksproxy_tools.kms_emulator.proxy.responses import Sealed
from xksproxy_tools.kms_emulator.request import KmsRequest
from xksproxy_tools.kms_emulator.state.records import Origin


class KeyBackends:
    """Encrypts and decrypts where the key material of a key is. A failure is raised as the KmsError for the caller."""

    def __init__(self, proxies: ProxyClient, clusters: CloudHsmClusters) -> None:
        self._proxies = proxies
        self._clusters = clusters

    async def encrypt(self, request: KmsRequest, resolved: ResolvedKey, plaintext: bytes, aad: bytes) -> Sealed:
        """Encrypt, and return the outermost layer. A ciphertext blob holds this layer alone."""
        match resolved.key.origin:
            case Origin.KMS:
                return _material(resolved).encrypt(plaintext, aad)
            case Origin.EXTERNAL:
                return await self._encrypt_twice(request, resolved, plaintext, aad)
            case Origin.CLOUDHSM:
                try:
                    return await self._cluster(resolved).encrypt(resolved.key.id, plaintext, aad)
                except ClusterFailure as failure:
                    raise cloudhsm.cryptographic_error(failure.outcome) from failure

    async def decrypt(self, request: KmsRequest, resolved: ResolvedKey, sealed: Sealed, aad: bytes) -> bytes:
        """The inverse of :meth:`encrypt`, with the same authenticated data."""
        match resolved.key.origin:
            case Origin.KMS:
                try:
                    return _material(resolved).decrypt(sealed, aad)
                except KeyMaterialMismatch:
                    raise KmsError(
                        "InvalidCiphertextException", "The ciphertext or the encryption context is not valid"
                    ) from None
            case Origin.EXTERNAL:
                return await self._decrypt_twice(request, resolved, sealed, aad)
            case Origin.CLOUDHSM:
                try:
                    return await self._cluster(resolved).decrypt(resolved.key.id, sealed, aad)
                except ClusterFailure as failure:
                    raise cloudhsm.cryptographic_error(failure.outcome) from failure

    async def _encrypt_twice(self, request: KmsRequest, resolved: ResolvedKey, plaintext: bytes, aad: bytes) -> Sealed:
        """Encrypt under the key material in KMS, then under the external key. Decryption needs both."""
        address, key_id = _external(resolved)
        inner = join(_material(resolved).encrypt(plaintext, aad))
        try:
            return await self._proxies.encrypt(
                address, key_id, request_metadata.of_cryptography(request, resolved.arn), inner, aad
            )
        except ProxyFailure as failure:
            raise kms_errors.cryptographic_error(failure.outcome) from failure

    async def _decrypt_twice(self, request: KmsRequest, resolved: ResolvedKey, sealed: Sealed, aad: bytes) -> bytes:
        address, key_id = _external(resolved)
        try:
            inner = await self._proxies.decrypt(
                address, key_id, request_metadata.of_cryptography(request, resolved.arn), sealed, aad
            )
        except ProxyFailure as failure:
            raise kms_errors.cryptographic_error(failure.outcome) from failure
        try:
            return _material(resolved).decrypt(split(inner), aad)
        except KeyMaterialMismatch as rejection:
            raise kms_errors.cryptographic_error(Outcome.MATERIAL_REJECTED) from rejection

    def _cluster(self, resolved: ResolvedKey) -> CloudHsmCluster:
        settings = resolved.store.cluster if resolved.store else None
        cluster = self._clusters.get(settings.cluster_id) if settings else None
        if cluster is None:
            raise cloudhsm.cryptographic_error(ClusterOutcome.NO_ACTIVE_HSM)
        return cluster


def _material(resolved: ResolvedKey) -> KeyMaterial:
    if resolved.key.material is None:
        raise KmsError("KMSInternalException", f"{resolved.arn} has no key material")
    return KeyMaterial(resolved.key.material)


def _external(resolved: ResolvedKey) -> tuple[ProxyAddress, str]:
    """The proxy of a key and the external key id."""
    if resolved.store is None or resolved.store.proxy is None or resolved.key.xks_key_id is None:
        raise KmsError("KMSInternalException", f"{resolved.arn} has no external key")
    return proxy_settings.address(resolved.store.proxy), resolved.key.xks_key_id
