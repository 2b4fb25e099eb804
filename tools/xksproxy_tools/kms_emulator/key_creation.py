"""CreateKey."""

import os
import uuid
from collections.abc import Callable
from typing import Any, Final

from xksproxy_tools.kms_emulator import cloudhsm, proxy_settings, request_metadata
from xksproxy_tools.kms_emulator.cloudhsm import CloudHsmClusters, ClusterFailure, ClusterOutcome
from xksproxy_tools.kms_emulator.connections import require_state
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.key_material import KeyMaterial
from xksproxy_tools.kms_emulator.key_resolver import KeyResolver
from xksproxy_tools.kms_emulator.key_stores import find_key_store
from xksproxy_tools.kms_emulator.keys import key_metadata
from xksproxy_tools.kms_emulator.policies import checked_policy, default_policy
from xksproxy_tools.kms_emulator.proxy import kms_errors
from xksproxy_tools.kms_emulator.proxy.client import ProxyClient
from xksproxy_tools.kms_emulator.proxy.outcome import ProxyFailure
from xksproxy_tools.kms_emulator.request import KmsRequest
from xksproxy_tools.kms_emulator.state.database import Database
from xksproxy_tools.kms_emulator.state.records import KeyStore, KmsKey, Origin, StoreType
from xksproxy_tools.kms_emulator.tags import checked_tags, require_room

_BACKING_KEY_ID_BYTES: Final = 32
_STORE_TYPES: Final = {Origin.EXTERNAL: StoreType.EXTERNAL, Origin.CLOUDHSM: StoreType.CLOUDHSM}


class KeyCreation:
    """Creates symmetric encryption keys, in KMS itself or in a custom key store."""

    def __init__(
        self,
        database: Database,
        resolver: KeyResolver,
        proxies: ProxyClient,
        clusters: CloudHsmClusters,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._resolver = resolver
        self._proxies = proxies
        self._clusters = clusters
        self._clock = clock

    async def create(self, request: KmsRequest) -> dict[str, Any]:
        """CreateKey. The external key must exist, be suitable, and not be in use in the key store."""
        origin = _checked_origin(request)
        key = self._new_key(origin, request)
        if origin is Origin.EXTERNAL:
            store = self._usable_store(key, origin, request)
            await self._require_suitable_key(store, key, request)
            self._usable_store(key, origin, request)
        elif origin is Origin.CLOUDHSM:
            await self._create_in_cluster(self._usable_store(key, origin, request), key)
        self._database.put_key(key)
        return {"KeyMetadata": key_metadata(self._resolver.resolve_record(key))}

    def _new_key(self, origin: Origin, request: KmsRequest) -> KmsKey:
        parameters, account = request.parameters, request.caller.account
        tags = checked_tags(parameters.get("Tags", []))
        require_room(tags)
        policy = parameters.get("Policy")
        return KmsKey(
            id=str(uuid.uuid4()),
            account=account,
            created=self._clock(),
            origin=origin,
            backing_key_id=os.urandom(_BACKING_KEY_ID_BYTES).hex(),
            policy=default_policy(self._resolver.region, account) if policy is None else checked_policy(policy),
            description=parameters.get("Description", ""),
            material=None if origin is Origin.CLOUDHSM else KeyMaterial.generate().key,
            store_id=parameters.get("CustomKeyStoreId"),
            xks_key_id=parameters.get("XksKeyId"),
            tags=tags,
        )

    def _usable_store(self, key: KmsKey, origin: Origin, request: KmsRequest) -> KeyStore:
        """The key store of a new key, after a check of type, connection and use of the external key."""
        store = find_key_store(self._database, key.store_id or "", key.account)
        if store.type is not _STORE_TYPES[origin]:
            raise KmsError("UnsupportedOperationException", f"{store.id} is of type {store.type}, not for {origin}")
        require_state(request.operation, store)
        if key.xks_key_id and any(other.xks_key_id == key.xks_key_id for other in self._database.keys_of(store.id)):
            raise KmsError(
                "XksKeyAlreadyInUseException",
                f"The external key {key.xks_key_id} is already associated with a KMS key in {store.id}",
            )
        return store

    async def _require_suitable_key(self, store: KeyStore, key: KmsKey, request: KmsRequest) -> None:
        """Check the external key's metadata."""
        if store.proxy is None or key.xks_key_id is None:
            raise KmsError("KMSInternalException", f"{store.id} has no proxy")
        metadata = request_metadata.of_new_key(request)
        try:
            answer = await self._proxies.key_metadata(proxy_settings.address(store.proxy), key.xks_key_id, metadata)
        except ProxyFailure as failure:
            raise kms_errors.create_key_error(failure.outcome) from failure
        refusal = kms_errors.key_refusal(key.xks_key_id, answer)
        if refusal is not None:
            raise refusal

    async def _create_in_cluster(self, store: KeyStore, key: KmsKey) -> None:
        cluster = self._clusters.get(store.cluster.cluster_id) if store.cluster else None
        if cluster is None:
            raise cloudhsm.create_key_error(ClusterOutcome.NO_ACTIVE_HSM)
        try:
            await cluster.create_key(key.id)
        except ClusterFailure as failure:
            raise cloudhsm.create_key_error(failure.outcome) from failure


def _checked_origin(request: KmsRequest) -> Origin:
    """The Origin, after a check that the parameters match it."""
    parameters = request.parameters
    _require_symmetric(request)
    if parameters.get("Origin") == "EXTERNAL":
        raise KmsError("UnsupportedOperationException", "This emulator has no keys with imported key material")
    origin = Origin(parameters.get("Origin", Origin.KMS))
    expected = {
        "CustomKeyStoreId": origin in _STORE_TYPES,
        "XksKeyId": origin is Origin.EXTERNAL,
    }
    for name, needed in expected.items():
        if needed != (name in parameters):
            verb = "needs" if needed else "does not go with"
            raise KmsError("ValidationException", f"Origin {origin} {verb} {name}")
    return origin


def _require_symmetric(request: KmsRequest) -> None:
    parameters = request.parameters
    if "KeySpec" in parameters and "CustomerMasterKeySpec" in parameters:
        raise KmsError("ValidationException", "KeySpec and CustomerMasterKeySpec cannot be used together")
    for name, expected in (
        ("KeySpec", "SYMMETRIC_DEFAULT"),
        ("CustomerMasterKeySpec", "SYMMETRIC_DEFAULT"),
        ("KeyUsage", "ENCRYPT_DECRYPT"),
        ("MultiRegion", False),
    ):
        if parameters.get(name, expected) != expected:
            raise KmsError(
                "UnsupportedOperationException", f"{name} {parameters[name]} is not supported; only {expected}"
            )
