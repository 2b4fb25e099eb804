"""The settings of an AWS CloudHSM key store: what a request may say about its cluster."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from cryptography import x509

from xksproxy_tools.kms_emulator.cloudhsm import CloudHsmClusters
from xksproxy_tools.kms_emulator.errors import KmsError
from xksproxy_tools.kms_emulator.state.records import Cluster, KeyStore

_REQUIRED: Final = ("CloudHsmClusterId", "TrustAnchorCertificate", "KeyStorePassword")


def given(parameters: Mapping[str, Any]) -> frozenset[str]:
    """The parameters that only AWS CloudHSM key stores have."""
    return frozenset(parameters).intersection(_REQUIRED)


def new_cluster(parameters: Mapping[str, Any], clusters: CloudHsmClusters, stores: Iterable[KeyStore]) -> Cluster:
    """What CreateCustomKeyStore asks for; the password is first used when the store is connected.

    Raises:
        KmsError: something is missing, no certificate, unknown here, or in use by another key store.
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
            f"TrustAnchorCertificate is not the trust anchor of {cluster.cluster_id}: it is no certificate in PEM",
        ) from None
    return cluster


def changed_cluster(cluster: Cluster, parameters: Mapping[str, Any], clusters: CloudHsmClusters) -> Cluster:
    """What UpdateCustomKeyStore makes of the settings.

    Raises:
        KmsError: the cluster is unknown here, or another one; none here shares a backup with another.
    """
    cluster_id = parameters.get("CloudHsmClusterId", cluster.cluster_id)
    require_cluster(cluster_id, clusters)
    if cluster_id != cluster.cluster_id:
        raise KmsError("CloudHsmClusterNotRelatedException", f"{cluster_id} is not related to {cluster.cluster_id}")
    return replace(cluster, password=parameters.get("KeyStorePassword", cluster.password))


def require_cluster(cluster_id: str, clusters: CloudHsmClusters) -> None:
    """Refuse a cluster that is not there.

    Raises:
        KmsError: CloudHsmClusterNotFoundException.
    """
    if clusters.get(cluster_id) is None:
        raise KmsError("CloudHsmClusterNotFoundException", f"There is no cluster {cluster_id}")
