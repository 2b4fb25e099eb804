"""Deletes keys at the end of their waiting period, with their aliases, tags and key material."""

import logging
from collections.abc import Callable
from typing import Final

from xksproxy_tools.kms_emulator.cloudhsm import CloudHsmClusters, ClusterFailure
from xksproxy_tools.kms_emulator.state.database import Database
from xksproxy_tools.kms_emulator.state.records import KmsKey

_log: Final = logging.getLogger(__name__)


class Expiry:
    """Deletes keys whose waiting period is over. External keys are never changed."""

    def __init__(self, database: Database, clusters: CloudHsmClusters, clock: Callable[[], float]) -> None:
        self._database = database
        self._clusters = clusters
        self._clock = clock

    async def delete_due_keys(self) -> None:
        """Delete these keys. Key material in a cluster is deleted if the cluster can be reached."""
        for key in self._database.keys_to_delete(self._clock()):
            store = None if key.store_id is None else self._database.key_store(key.store_id)
            self._database.delete_key(key.id)
            _log.info("key deleted at the end of its waiting period", extra={"fields": {"key": key.id}})
            if store is not None and store.cluster is not None:
                await self._delete_material(store.cluster.cluster_id, key)

    async def _delete_material(self, cluster_id: str, key: KmsKey) -> None:
        cluster = self._clusters.get(cluster_id)
        try:
            if cluster is not None:
                await cluster.delete_key(key.id)
        except ClusterFailure as failure:
            fields = {"key": key.id, "cluster": cluster_id, "reason": str(failure)}
            _log.warning("key material stays in the cluster", extra={"fields": fields})
