"""The three ways in which a KMS key encrypts: in KMS, in KMS and through a proxy, in a CloudHSM cluster."""

from xksproxy_tools.kms_emulator import cloudhsm, proxysettings, requestmetadata
from xksproxy_tools.kms_emulator.cloudhsm import CloudHsmCluster, CloudHsmClusters, ClusterFailure, ClusterOutcome
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.finder import FoundKey
from xksproxy_tools.kms_emulator.material import Material, MaterialRejects, join, split
from xksproxy_tools.kms_emulator.proxy import verdicts
from xksproxy_tools.kms_emulator.proxy.address import ProxyAddress
from xksproxy_tools.kms_emulator.proxy.answers import Sealed
from xksproxy_tools.kms_emulator.proxy.client import ProxyClient
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome, ProxyFailure
from xksproxy_tools.kms_emulator.request import KmsRequest
from xksproxy_tools.kms_emulator.state.records import Origin


class Backings:
    """Encrypts and decrypts with whatever is behind a key; every failure is the KmsError that its caller gets."""

    def __init__(self, proxies: ProxyClient, clusters: CloudHsmClusters) -> None:
        self._proxies = proxies
        self._clusters = clusters

    async def encrypt(self, request: KmsRequest, found: FoundKey, plaintext: bytes, aad: bytes) -> Sealed:
        """The outermost layer, which is all that a ciphertext blob keeps."""
        match found.key.origin:
            case Origin.KMS:
                return _material(found).encrypt(plaintext, aad)
            case Origin.EXTERNAL:
                return await self._encrypt_twice(request, found, plaintext, aad)
            case Origin.CLOUDHSM:
                try:
                    return await self._cluster(found).encrypt(found.key.id, plaintext, aad)
                except ClusterFailure as failure:
                    raise cloudhsm.cryptographic_error(failure.outcome) from failure

    async def decrypt(self, request: KmsRequest, found: FoundKey, sealed: Sealed, aad: bytes) -> bytes:
        """The inverse of :meth:`encrypt`, with the same authenticated data."""
        match found.key.origin:
            case Origin.KMS:
                try:
                    return _material(found).decrypt(sealed, aad)
                except MaterialRejects:
                    raise KmsError(
                        "InvalidCiphertextException", "The ciphertext or the encryption context is not valid"
                    ) from None
            case Origin.EXTERNAL:
                return await self._decrypt_twice(request, found, sealed, aad)
            case Origin.CLOUDHSM:
                try:
                    return await self._cluster(found).decrypt(found.key.id, sealed, aad)
                except ClusterFailure as failure:
                    raise cloudhsm.cryptographic_error(failure.outcome) from failure

    async def _encrypt_twice(self, request: KmsRequest, found: FoundKey, plaintext: bytes, aad: bytes) -> Sealed:
        """First under the key material in KMS, then under the external key, so that neither side can decrypt alone."""
        address, key_id = _external(found)
        inner = join(_material(found).encrypt(plaintext, aad))
        try:
            return await self._proxies.encrypt(
                address, key_id, requestmetadata.of_cryptography(request, found.arn), inner, aad
            )
        except ProxyFailure as failure:
            raise verdicts.cryptographic_error(failure.outcome) from failure

    async def _decrypt_twice(self, request: KmsRequest, found: FoundKey, sealed: Sealed, aad: bytes) -> bytes:
        address, key_id = _external(found)
        try:
            inner = await self._proxies.decrypt(
                address, key_id, requestmetadata.of_cryptography(request, found.arn), sealed, aad
            )
        except ProxyFailure as failure:
            raise verdicts.cryptographic_error(failure.outcome) from failure
        try:
            return _material(found).decrypt(split(inner), aad)
        except MaterialRejects as rejection:
            raise verdicts.cryptographic_error(Outcome.MATERIAL_REJECTED) from rejection

    def _cluster(self, found: FoundKey) -> CloudHsmCluster:
        settings = found.store.cluster if found.store else None
        cluster = self._clusters.get(settings.cluster_id) if settings else None
        if cluster is None:
            raise cloudhsm.cryptographic_error(ClusterOutcome.NO_ACTIVE_HSM)
        return cluster


def _material(found: FoundKey) -> Material:
    if found.key.material is None:
        raise KmsError("KMSInternalException", f"{found.arn} has no key material")
    return Material(found.key.material)


def _external(found: FoundKey) -> tuple[ProxyAddress, str]:
    """The proxy and the external key id, as the proxy knows it."""
    if found.store is None or found.store.proxy is None or found.key.xks_key_id is None:
        raise KmsError("KMSInternalException", f"{found.arn} has no external key")
    return proxysettings.address(found.store.proxy), found.key.xks_key_id
