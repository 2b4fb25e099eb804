"""The CloudFormation template by its linter, and by what AWS KMS asks of a VPC endpoint service."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy_support import DEPLOY

_TEMPLATE = DEPLOY / "aws" / "endpoint-service.yaml"


class _Loader(yaml.SafeLoader):
    """Reads !Ref X as {"Ref": X}, and likewise the other functions."""


def _function(loader: yaml.SafeLoader, name: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    assert isinstance(node, yaml.SequenceNode)
    return {name: loader.construct_sequence(node, deep=True)}


_Loader.add_multi_constructor("!", _function)


@pytest.fixture(scope="module")
def resources() -> dict[str, dict[str, Any]]:
    template = yaml.load(_TEMPLATE.read_text(), _Loader)
    return {name: resource["Properties"] for name, resource in template["Resources"].items()}


def test_the_linter_finds_nothing(tmp_path: Path) -> None:
    linter = Path(sys.executable).with_name("cfn-lint")
    command = [str(linter), "--regions", "us-east-1", "eu-west-1", "--", str(_TEMPLATE)]
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_aws_kms_and_no_one_else_may_connect_without_being_accepted(resources: dict[str, dict[str, Any]]) -> None:
    assert resources["EndpointService"]["AcceptanceRequired"] is False
    principals = resources["EndpointServicePermissions"]["AllowedPrincipals"]
    assert principals == [{"Sub": "cks.kms.${AWS::Region}.amazonaws.com"}]
    assert "SecurityGroupIngress" not in resources["LoadBalancerSecurityGroup"]
    assert resources["LoadBalancer"]["EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic"] == "off"


def test_it_has_a_private_dns_name_and_the_subnets_that_are_asked_for(resources: dict[str, dict[str, Any]]) -> None:
    assert resources["EndpointService"]["PrivateDnsName"] == {"Ref": "PrivateDnsName"}
    assert resources["EndpointService"]["NetworkLoadBalancerArns"] == [{"Ref": "LoadBalancer"}]
    assert resources["LoadBalancer"]["Type"] == "network"
    assert resources["LoadBalancer"]["Subnets"] == {"Ref": "SubnetIds"}


def test_tls_ends_at_the_proxy(resources: dict[str, dict[str, Any]]) -> None:
    assert (resources["Listener"]["Protocol"], resources["Listener"]["Port"]) == ("TCP", 443)
    assert resources["TargetGroup"]["Protocol"] == "TCP"


def test_health_checks_ask_whether_it_is_ready(resources: dict[str, dict[str, Any]]) -> None:
    group = resources["TargetGroup"]
    asked = group["HealthCheckProtocol"], group["HealthCheckPort"], group["HealthCheckPath"], group["Matcher"]
    assert asked == ("HTTP", {"Ref": "HealthPort"}, "/readyz", {"HttpCode": "200"})
    assert group["HealthCheckTimeoutSeconds"] < group["HealthCheckIntervalSeconds"]
