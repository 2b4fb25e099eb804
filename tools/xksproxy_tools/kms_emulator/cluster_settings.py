"""The cluster settings of an AWS CloudHSM key store, from the parameters of a request."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from cryptography import x509

from xksproxy_tools.kms_emulator.cloudhsm import CloudHsmClusters
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.state.records import Cluster, KeyStore

_REQUIRED: Final = ("CloudHsmClusterId", "TrustAnchorCertificate", "KeyStorePassword")


def type_parameters(parameters: Mapping[str, Any]) -> frozenset[str]:
    """The parameters that only AWS CloudHSM key stores have."""
    return frozenset(parameters).intersection(_REQUIRED)


def new_cluster(parameters: Mapping[str, Any], clusters: CloudHsmClusters, stores: Iterable[KeyStore]) -> Cluster:
    """The cluster of a new key store. The password is first used when the key store is connected.

    Raises:
        KmsError: a parameter is missing, the certificate is invalid, or the cluster does not exist or is in use.
    """
    missing = [name for name in _REQUIRED if name not in parameters]
    if missing:
        raise KmsError("ValidationException", f"An AWS CloudHSM key store needs {', '.join(missing)}")
    cluster = Cluster(*(parameters[name] for name in _REQUIRED))
    require_cluster(cluster.cluster_id, clusters)
    if any(store.cluster is not None and store.cluster.cluster_id == cluster.cluster_id for store in stores):
        raise KmsError(
            "CloudHsmClusterInUseException", f"{cluster.cluster_id} is already associated with another key store"
        )
    try:
        x509.load_pem_x509_certificate(cluster.trust_anchor_certificate.encode())
    except ValueError:
        raise KmsError(
            "IncorrectTrustAnchorException",
            f"TrustAnchorCertificate is not the trust anchor of {cluster.cluster_id}: it is not a certificate in PEM",
        ) from None
    return cluster


def changed_cluster(cluster: Cluster, parameters: Mapping[str, Any], clusters: CloudHsmClusters) -> Cluster:
    """The settings after UpdateCustomKeyStore.

    Raises:
        KmsError: the cluster does not exist, or it is another cluster. No two clusters here share a backup.
    """
    cluster_id = parameters.get("CloudHsmClusterId", cluster.cluster_id)
    require_cluster(cluster_id, clusters)
    if cluster_id != cluster.cluster_id:
        raise KmsError("CloudHsmClusterNotRelatedException", f"{cluster_id} is not related to {cluster.cluster_id}")
    return replace(cluster, password=parameters.get("KeyStorePassword", cluster.password))


def require_cluster(cluster_id: str, clusters: CloudHsmClusters) -> None:
    """Refuse a cluster that does not exist.

    Raises:
        KmsError: CloudHsmClusterNotFoundException.
    """
    if clusters.get(cluster_id) is None:
        raise KmsError("CloudHsmClusterNotFoundException", f"There is no cluster {cluster_id}")
