"""The manifests against Kubernetes' own schemas, and against each other."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from deploy_support import DEPLOY

from xksproxy.config.credentials import load_credentials, save_credential
from xksproxy.config.load import load_config
from xksproxy.config.secret import SecretReference
from xksproxy.sigv4.keyring import generate_credential

_DIRECTORY = DEPLOY / "kubernetes"
_OTHER_FILES = {"kustomization.yaml", "secrets.example.yaml"}


def _objects(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((_DIRECTORY / name).read_text()))


_KUSTOMIZATION = _objects("kustomization.yaml")[0]
_SECRETS = {secret["metadata"]["name"]: secret for secret in _objects("secrets.example.yaml")}
_STATEFUL_SET = _objects("statefulset.yaml")[0]
_POD = _STATEFUL_SET["spec"]["template"]["spec"]
_CONTAINER = _POD["containers"][0]
_CONFIG = load_config(_DIRECTORY / "xksproxy.toml")


@pytest.mark.parametrize("name", [*_KUSTOMIZATION["resources"], "secrets.example.yaml"])
def test_the_manifest_is_valid(name: str) -> None:
    for manifest in _objects(name):
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


def test_nothing_is_forgotten_in_the_kustomization() -> None:
    assert {path.name for path in _DIRECTORY.glob("*.yaml")} == {*_KUSTOMIZATION["resources"], *_OTHER_FILES}
    (generated,) = _KUSTOMIZATION["configMapGenerator"]
    volumes = {volume["name"]: volume for volume in _POD["volumes"]}
    assert volumes["config"]["configMap"]["name"] == generated["name"]
    assert all((_DIRECTORY / name).exists() for name in generated["files"])


def test_everything_selects_the_pods() -> None:
    labels = _STATEFUL_SET["spec"]["template"]["metadata"]["labels"]
    selectors = [service["spec"]["selector"] for service in _objects("service.yaml")]
    selectors += [_objects("poddisruptionbudget.yaml")[0]["spec"]["selector"]["matchLabels"]]
    selectors += [_objects("networkpolicy.yaml")[0]["spec"]["podSelector"]["matchLabels"]]
    selectors += [_STATEFUL_SET["spec"]["selector"]["matchLabels"]]
    (affinity,) = _POD["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    selectors += [affinity["labelSelector"]["matchLabels"]]
    assert all(selector == labels for selector in selectors)
    assert _STATEFUL_SET["spec"]["serviceName"] in {s["metadata"]["name"] for s in _objects("service.yaml")}


def test_the_ports_are_those_of_the_configuration() -> None:
    ports = {port["name"]: port["containerPort"] for port in _CONTAINER["ports"]}
    assert _CONFIG.server.listen == f"0.0.0.0:{ports['https']}"
    assert _CONFIG.health.listen == f"0.0.0.0:{ports['health']}"
    service = _objects("service.yaml")[0]
    assert service["spec"]["ports"] == [{"name": "https", "port": 443, "targetPort": "https"}]
    prefix = "service.beta.kubernetes.io/aws-load-balancer-healthcheck-"
    checks = {k.removeprefix(prefix): v for k, v in service["metadata"]["annotations"].items() if k.startswith(prefix)}
    assert (checks["protocol"], checks["port"], checks["path"]) == ("http", str(ports["health"]), "/readyz")


def test_the_probes_ask_the_health_listener() -> None:
    paths = {name: _CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert paths["liveness"] == paths["startup"] == {"path": "/livez", "port": "health"}
    assert paths["readiness"] == {"path": "/readyz", "port": "health"}


def test_each_replica_knows_how_many_there_are() -> None:
    assert _CONFIG.server.fleet_size == _STATEFUL_SET["spec"]["replicas"]


def test_every_file_of_the_configuration_is_mounted() -> None:
    mounts = {mount["mountPath"]: mount["name"] for mount in _CONTAINER["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in _POD["volumes"]}
    pin = _CONFIG.hsm[0].pin
    assert isinstance(pin, SecretReference)
    for file in (_CONFIG.server.tls.certificate, _CONFIG.server.tls.private_key, pin.file or ""):
        directory, _, name = file.rpartition("/")
        secret = volumes[mounts[directory]]["secret"]
        assert name in _SECRETS[secret["secretName"]]["stringData"]
        assert secret["defaultMode"] == 0o440  # the proxy refuses what others can read
    assert mounts[_CONFIG.state.directory] in {
        c["metadata"]["name"] for c in _STATEFUL_SET["spec"]["volumeClaimTemplates"]
    }


def test_the_examples_hold_no_secret() -> None:
    text = (_DIRECTORY / "secrets.example.yaml").read_text()
    assert "BEGIN" not in text
    assert "secrets.example.yaml" not in _KUSTOMIZATION["resources"]


def test_credentials_are_taken_as_a_secret_has_them(tmp_path: Path) -> None:
    """As a Secret has them: readable to the group, and a link."""
    mounts = {mount["mountPath"]: mount["name"] for mount in _CONTAINER["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in _POD["volumes"]}
    secret = volumes[mounts[_CONFIG.keystore[0].credentials]]["secret"]
    (tmp_path / "..data").mkdir()
    made = save_credential(tmp_path / "..data", generate_credential())
    made.chmod(secret["defaultMode"])
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / made.name).symlink_to(made)

    assert len(load_credentials(tmp_path / "secret")) == 1


def test_the_pods_are_confined() -> None:
    """What Pod Security's level "restricted" asks for, and a root file system that is read only."""
    namespace = _objects("namespace.yaml")[0]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert _POD["securityContext"]["runAsNonRoot"] is True
    assert _POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in _POD["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"]
        assert "memory" in container["resources"]["limits"]


def test_the_last_requests_have_time() -> None:
    _, seconds = _CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert int(seconds) + 20 < _POD["terminationGracePeriodSeconds"]
