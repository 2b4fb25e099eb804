"""What KMS does to connect a key store, and what it makes of a failure."""

from contextlib import suppress

from xksproxy_tools.kms_emulator import cloudhsm, proxysettings, requestmetadata
from xksproxy_tools.kms_emulator.cloudhsm import CloudHsmCluster, CloudHsmClusters, ClusterFailure
from xksproxy_tools.kms_emulator.proxy import verdicts
from xksproxy_tools.kms_emulator.proxy.client import ProxyClient
from xksproxy_tools.kms_emulator.proxy.outcome import ProxyFailure
from xksproxy_tools.kms_emulator.state.records import Cluster, KeyStore, XksProxy
from xksproxy_tools.kms_emulator.vpcservices import VpcServices


class ConnectFailed(Exception):
    """A key store does not connect; ``code`` is its ConnectionErrorCode, ``detail`` is for the operator."""

    def __init__(self, code: str, detail: str) -> None:
        self.code = code
        self.detail = detail
        super().__init__(f"{code}: {detail}")


class Connector:
    """Connects and disconnects what is behind key stores."""

    def __init__(self, proxies: ProxyClient, clusters: CloudHsmClusters, services: VpcServices) -> None:
        self._proxies = proxies
        self._clusters = clusters
        self._services = services

    async def connect(self, store: KeyStore, request_id: str) -> None:
        """Prove that the store can be used: by the proxy's health, or by a log-in to the cluster.

        Raises:
            ConnectFailed: it cannot.
        """
        if store.cluster is not None:
            await self._log_in(store.cluster)
        elif store.proxy is not None:
            await self._see_health(store.proxy, request_id)

    async def disconnect(self, store: KeyStore) -> None:
        """Log out of a cluster. KMS simply stops calling a proxy."""
        cluster = self._cluster(store.cluster) if store.cluster else None
        if cluster is not None:
            with suppress(ClusterFailure):  # not connected it is afterwards, whatever happened
                await cluster.disconnect()

    async def _see_health(self, proxy: XksProxy, request_id: str) -> None:
        if proxy.service_name and not self._services.exists(proxy.service_name):
            raise ConnectFailed("XKS_VPC_ENDPOINT_SERVICE_NOT_FOUND", f"no service {proxy.service_name}")
        metadata = requestmetadata.of_health(request_id, "ConnectCustomKeyStore")
        try:
            await self._proxies.health(proxysettings.address(proxy), metadata)
        except ProxyFailure as failure:
            raise ConnectFailed(verdicts.connection_error_code(failure.outcome), str(failure)) from failure

    async def _log_in(self, settings: Cluster) -> None:
        cluster = self._cluster(settings)
        if cluster is None:
            raise ConnectFailed(cloudhsm.CLUSTER_NOT_FOUND, f"no cluster {settings.cluster_id}")
        try:
            await cluster.connect(settings.password)
        except ClusterFailure as failure:
            raise ConnectFailed(cloudhsm.connection_error_code(failure.outcome), str(failure)) from failure

    def _cluster(self, settings: Cluster) -> CloudHsmCluster | None:
        return self._clusters.get(settings.cluster_id)
