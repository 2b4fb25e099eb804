"""The six operations on custom key stores."""

import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from xksproxy_tools.kms_emulator import cluster_settings, proxy_settings, request_metadata
from xksproxy_tools.kms_emulator.cloudhsm import CloudHsmClusters
from xksproxy_tools.kms_emulator.connections import Connections, require_state
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.pagination import page
from xksproxy_tools.kms_emulator.proxy import kms_errors
from xksproxy_tools.kms_emulator.proxy.client import ProxyClient
from xksproxy_tools.kms_emulator.proxy.outcome import ProxyFailure
from xksproxy_tools.kms_emulator.request import KmsRequest
from xksproxy_tools.kms_emulator.state.database import Database
from xksproxy_tools.kms_emulator.state.records import (
    ConnectionState,
    Connectivity,
    KeyStore,
    StoreType,
    XksProxy,
)
from xksproxy_tools.kms_emulator.vpc_services import VpcServices

_MAXIMUM_OF_AN_ACCOUNT: Final = 10
_ID_DIGITS: Final = 17
_PAGE: Final = 100
_DISCONNECTED: Final = frozenset({ConnectionState.DISCONNECTED})


class KeyStores:
    """Custom key stores of both types. Names, endpoints and clusters are unique in an account and Region."""

    def __init__(
        self,
        *,
        database: Database,
        connections: Connections,
        proxies: ProxyClient,
        clusters: CloudHsmClusters,
        services: VpcServices,
        clock: Callable[[], float],
    ) -> None:
        self._database = database
        self._connections = connections
        self._proxies = proxies
        self._clusters = clusters
        self._services = services
        self._clock = clock

    async def create(self, request: KmsRequest) -> dict[str, Any]:
        """CreateCustomKeyStore. A public proxy must be healthy; a proxy behind a VPC is first called on connect."""
        parameters, account = request.parameters, request.caller.account
        store = KeyStore(
            f"cks-{secrets.token_hex(_ID_DIGITS)[:_ID_DIGITS]}",
            account,
            parameters["CustomKeyStoreName"],
            self._clock(),
        )
        store_type = StoreType(parameters.get("CustomKeyStoreType", StoreType.CLOUDHSM))
        _refuse_settings_of_the_other_type(store_type, request)
        if store_type is StoreType.EXTERNAL:
            store = replace(store, proxy=proxy_settings.new_proxy(parameters, account))
        else:
            others = self._database.key_stores(account)
            store = replace(store, cluster=cluster_settings.new_cluster(parameters, self._clusters, others))
        self._require_room(store)
        if store.proxy is not None and store.proxy.connectivity is Connectivity.PUBLIC:
            await self._require_health(store.proxy, request)
            self._require_room(store)
        self._database.put_key_store(store)
        return {"CustomKeyStoreId": store.id}

    async def update(self, request: KmsRequest) -> dict[str, Any]:
        """UpdateCustomKeyStore. New proxy settings are stored only if the proxy is healthy with them."""
        changed = self._changed(request)
        proxy = changed.proxy if proxy_settings.type_parameters(request.parameters) else None
        if proxy is not None and (changed.connected or proxy.connectivity is Connectivity.PUBLIC):
            await self._require_health(proxy, request)
            # Another request may have changed the key store during the health check.
            changed = self._changed(request)
        self._database.put_key_store(changed)
        return {}

    def connect(self, request: KmsRequest) -> dict[str, Any]:
        """ConnectCustomKeyStore. It does not wait; DescribeCustomKeyStores reports the result."""
        store = self._find(request)
        require_state(request.operation, store)
        self._connections.connect(store, request.id)
        return {}

    def disconnect(self, request: KmsRequest) -> dict[str, Any]:
        """DisconnectCustomKeyStore. The keys of the key store become Unavailable."""
        store = self._find(request)
        require_state(request.operation, store)
        self._connections.disconnect(store, request.id)
        return {}

    def delete(self, request: KmsRequest) -> dict[str, Any]:
        """DeleteCustomKeyStore. The key store must have no keys, not even keys pending deletion."""
        store = self._find(request)
        require_state(request.operation, store)
        if self._database.keys_of(store.id):
            raise KmsError("CustomKeyStoreHasCMKsException", f"{store.id} contains KMS keys")
        self._database.delete_key_store(store.id)
        return {}

    def describe(self, request: KmsRequest) -> dict[str, Any]:
        """DescribeCustomKeyStores: all of the account, or the one with an id or name."""
        parameters = request.parameters
        if "CustomKeyStoreId" in parameters and "CustomKeyStoreName" in parameters:
            raise KmsError("ValidationException", "CustomKeyStoreId and CustomKeyStoreName cannot be used together")
        stores = self._database.key_stores(request.caller.account)
        if "CustomKeyStoreId" in parameters:
            stores = [self._find(request)]
        elif "CustomKeyStoreName" in parameters:
            name = parameters["CustomKeyStoreName"]
            stores = [store for store in stores if store.name == name]
            if not stores:
                raise KmsError("CustomKeyStoreNotFoundException", f"There is no custom key store named {name}")
        shown, more = page(stores, parameters, by=lambda store: store.id, limit=_PAGE)
        return {"CustomKeyStores": [_entry(store) for store in shown], **more}

    def _find(self, request: KmsRequest) -> KeyStore:
        return find_key_store(self._database, request.parameters["CustomKeyStoreId"], request.caller.account)

    def _changed(self, request: KmsRequest) -> KeyStore:
        """The key store after an update."""
        parameters, store = request.parameters, self._find(request)
        _refuse_settings_of_the_other_type(store.type, request)
        cluster_parameters = cluster_settings.type_parameters(parameters)
        restricted = parameters.keys() & (proxy_settings.NEED_DISCONNECTED | cluster_parameters)
        require_state(request.operation, store, states=_DISCONNECTED if restricted else None)
        changed = replace(store, name=parameters.get("NewCustomKeyStoreName", store.name))
        if store.proxy is not None:
            proxy = proxy_settings.changed_proxy(store.proxy, parameters, store.account)
            changed = replace(changed, proxy=proxy)
        if store.cluster is not None and cluster_parameters:
            cluster = cluster_settings.changed_cluster(store.cluster, parameters, self._clusters)
            changed = replace(changed, cluster=cluster)
        self._require_unique(changed)
        return changed

    def _require_room(self, store: KeyStore) -> None:
        """Check limit and uniqueness. A new key store is checked before the call to its proxy, and again after it."""
        if len(self._database.key_stores(store.account)) >= _MAXIMUM_OF_AN_ACCOUNT:
            raise KmsError(
                "LimitExceededException", f"An account has at most {_MAXIMUM_OF_AN_ACCOUNT} custom key stores"
            )
        self._require_unique(store)

    def _require_unique(self, store: KeyStore) -> None:
        others = [other for other in self._database.key_stores(store.account) if other.id != store.id]
        if any(other.name == store.name for other in others):
            raise KmsError("CustomKeyStoreNameInUseException", f"There is a custom key store named {store.name}")
        if store.proxy is not None:
            proxy_settings.require_unique(store.proxy, others)
            if store.proxy.service_name and not self._services.exists(store.proxy.service_name):
                raise KmsError(
                    "XksProxyVpcEndpointServiceNotFoundException",
                    f"There is no VPC endpoint service {store.proxy.service_name} in this Region",
                )

    async def _require_health(self, proxy: XksProxy, request: KmsRequest) -> None:
        metadata = request_metadata.of_health(request.id, request.operation)
        try:
            await self._proxies.health(proxy_settings.address(proxy), metadata)
        except ProxyFailure as failure:
            raise kms_errors.key_store_error(failure.outcome) from failure


def find_key_store(database: Database, store_id: str, account: str) -> KeyStore:
    """A key store of an account by its id.

    Raises:
        KmsError: CustomKeyStoreNotFoundException.
    """
    store = database.key_store(store_id)
    if store is None or store.account != account:
        raise KmsError("CustomKeyStoreNotFoundException", f"There is no custom key store {store_id}")
    return store


def _refuse_settings_of_the_other_type(store_type: StoreType, request: KmsRequest) -> None:
    foreign = cluster_settings if store_type is StoreType.EXTERNAL else proxy_settings
    wrong = foreign.type_parameters(request.parameters)
    if wrong:
        raise KmsError("ValidationException", f"A key store of type {store_type} has no {', '.join(sorted(wrong))}")


def _entry(store: KeyStore) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "CustomKeyStoreId": store.id,
        "CustomKeyStoreName": store.name,
        "ConnectionState": store.connection.state,
        "ConnectionErrorCode": store.connection.error_code,
        "CreationDate": store.created,
        "CustomKeyStoreType": store.type,
    }
    if store.cluster is not None:
        entry["CloudHsmClusterId"] = store.cluster.cluster_id
        entry["TrustAnchorCertificate"] = store.cluster.trust_anchor_certificate
    if store.proxy is not None:
        entry["XksProxyConfiguration"] = {
            "Connectivity": store.proxy.connectivity,
            "AccessKeyId": store.proxy.access_key_id,
            "UriEndpoint": store.proxy.uri_endpoint,
            "UriPath": store.proxy.uri_path,
            "VpcEndpointServiceName": store.proxy.service_name,
            "VpcEndpointServiceOwner": store.proxy.service_owner,
        }
    return entry
