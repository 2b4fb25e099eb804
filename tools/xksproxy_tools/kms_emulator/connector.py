"""Connects and disconnects key stores."""

from contextlib import suppress

from xksproxy_tools.kms_emulator import cloudhsm, proxy_settings, request_metadata
from xksproxy_tools.kms_emulator.cloudhsm import CloudHsmCluster, CloudHsmClusters, ClusterFailure
from xksproxy_tools.kms_emulator.proxy import kms_errors
from xksproxy_tools.kms_emulator.proxy.client import ProxyClient
from xksproxy_tools.kms_emulator.proxy.outcome import ProxyFailure
from xksproxy_tools.kms_emulator.state.records import Cluster, KeyStore, XksProxy
from xksproxy_tools.kms_emulator.vpc_services import VpcServices


class ConnectionFailed(Exception):
    """A key store cannot be connected. ``code`` is the ConnectionErrorCode; ``detail`` is for the operator."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{code}: {detail}")


class Connector:
    """Connects and disconnects the proxies and clusters of key stores."""

    def __init__(self, proxies: ProxyClient, clusters: CloudHsmClusters, services: VpcServices) -> None:
        self._proxies = proxies
        self._clusters = clusters
        self._services = services

    async def connect(self, store: KeyStore, request_id: str) -> None:
        """Check the health of the proxy, or log in to the cluster.

        Raises:
            ConnectionFailed: the check or the log-in failed.
        """
        if store.cluster is not None:
            await self._log_in(store.cluster)
        elif store.proxy is not None:
            await self._check_health(store.proxy, request_id)

    async def disconnect(self, store: KeyStore) -> None:
        """Log out of a cluster. For a proxy nothing is done: KMS stops calling it."""
        cluster = self._cluster(store.cluster) if store.cluster else None
        if cluster is not None:
            with suppress(ClusterFailure):  # the key store is disconnected in any case
                await cluster.disconnect()

    async def _check_health(self, proxy: XksProxy, request_id: str) -> None:
        if proxy.service_name and not self._services.exists(proxy.service_name):
            raise ConnectionFailed("XKS_VPC_ENDPOINT_SERVICE_NOT_FOUND", f"no service {proxy.service_name}")
        metadata = request_metadata.of_health(request_id, "ConnectCustomKeyStore")
        try:
            await self._proxies.health(proxy_settings.address(proxy), metadata)
        except ProxyFailure as failure:
            raise ConnectionFailed(kms_errors.connection_error_code(failure.outcome), str(failure)) from failure

    async def _log_in(self, settings: Cluster) -> None:
        cluster = self._cluster(settings)
        if cluster is None:
            raise ConnectionFailed(cloudhsm.CLUSTER_NOT_FOUND, f"no cluster {settings.cluster_id}")
        try:
            await cluster.connect(settings.password)
        except ClusterFailure as failure:
            raise ConnectionFailed(cloudhsm.connection_error_code(failure.outcome), str(failure)) from failure

    def _cluster(self, settings: Cluster) -> CloudHsmCluster | None:
        return self._clusters.get(settings.cluster_id)
