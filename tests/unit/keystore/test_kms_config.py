"""The parameters for KMS, validated against the API model of KMS."""

import json
import shlex
from typing import Any

import botocore.session
import pytest
from botocore.validate import ParamValidator

from xksproxy.keystore.kms_config import (
    KmsKeyStore,
    console_json,
    credential_json,
    host_of_endpoint,
    is_vpc_endpoint_service_name,
    terraform_variables,
    update_command,
)
from xksproxy.sigv4.keyring import Credential

_CREDENTIAL = Credential("BETWEEN2TENAND3TENCHARACTERS", "PleaseReplaceThisWithSomeSecretOfLength43To64")
_SERVICE = "com.amazonaws.vpce.eu-west-1.vpce-svc-0123456789abcdef0"


def _store(service: str | None = None, name: str = "payments") -> KmsKeyStore:
    return KmsKeyStore(name, "https://xks.example.com", "/payments", service)


def _parameters(command: str) -> tuple[str, dict[str, Any]]:
    """The operation and parameters of a command line, as the AWS CLI reads them."""
    program, service, operation, *words = shlex.split(command.replace("\\\n", " "))
    assert (program, service) == ("aws", "kms")
    pairs = zip(words[::2], words[1::2], strict=True)
    named = {"".join(part.title() for part in option.strip("-").split("-")): value for option, value in pairs}
    return "".join(part.title() for part in operation.split("-")), named


def _assert_valid(operation: str, parameters: dict[str, Any]) -> None:
    shape = botocore.session.get_session().get_service_model("kms").operation_model(operation).input_shape
    report = ParamValidator().validate(parameters, shape)
    assert not report.has_errors(), report.generate_report()


def test_the_console_file_has_exactly_the_names_of_the_specification() -> None:
    # R-CONF-2
    assert json.loads(console_json("/example/uri/path/prefix", _CREDENTIAL)) == {
        "XksProxyUriPath": "/example/uri/path/prefix/kms/xks/v1",
        "XksProxyAuthenticationCredential": {
            "AccessKeyId": "BETWEEN2TENAND3TENCHARACTERS",
            "RawSecretAccessKey": "PleaseReplaceThisWithSomeSecretOfLength43To64",
        },
    }


@pytest.mark.parametrize("service", [None, _SERVICE])
def test_the_create_command_is_one_that_kms_takes(service: str | None) -> None:
    store = _store(service)

    operation, parameters = _parameters(store.create_command("/a b/credential.json"))

    assert parameters.pop("XksProxyAuthenticationCredential") == "file:///a b/credential.json"
    assert parameters["CustomKeyStoreType"] == "EXTERNAL_KEY_STORE"
    assert parameters["XksProxyConnectivity"] == ("VPC_ENDPOINT_SERVICE" if service else "PUBLIC_ENDPOINT")
    assert parameters.get("XksProxyVpcEndpointServiceName") == service
    assert parameters["XksProxyUriPath"] == "/payments/kms/xks/v1"
    _assert_valid(
        operation, {**parameters, "XksProxyAuthenticationCredential": json.loads(credential_json(_CREDENTIAL))}
    )


def test_the_update_command_changes_the_credential_and_nothing_else() -> None:
    operation, parameters = _parameters(update_command("cks-1234567890abcdef0", "credential.json"))

    assert parameters == {
        "CustomKeyStoreId": "cks-1234567890abcdef0",
        "XksProxyAuthenticationCredential": "file://credential.json",
    }
    credential = json.loads(credential_json(_CREDENTIAL))
    _assert_valid(operation, {**parameters, "XksProxyAuthenticationCredential": credential})


def test_commands_and_blocks_hold_no_secret() -> None:
    # R-AUTH-7
    store = _store(_SERVICE)

    for text in (store.create_command("f"), update_command("cks-1", "f"), store.terraform()):
        assert _CREDENTIAL.secret_access_key not in text


def test_the_terraform_block_and_its_variable_fit_each_other() -> None:
    block = _store(_SERVICE, "2nd.store").terraform()

    (variable,) = json.loads(terraform_variables(_CREDENTIAL))
    assert f'variable "{variable}" {{' in block
    assert block.count(f"var.{variable}.") == 2
    assert 'resource "aws_kms_custom_key_store" "_2nd_store" {' in block
    assert f'xks_proxy_vpc_endpoint_service_name = "{_SERVICE}"' in block


@pytest.mark.parametrize(
    ("endpoint", "host"),
    [
        ("https://xks.example.com", "xks.example.com"),
        ("https://XKS.Example.com", "xks.example.com"),
        ("https://xks.example.com:443", None),
        ("https://xks.example.com/", None),
        ("https://xks.example.com\n", None),
        ("http://xks.example.com", None),
        ("https://192.0.2.1", None),
        ("https://localhost", None),
        ("https://.example.com", None),
        ("https://" + "a." * 60 + "com", None),
        ("xks.example.com", None),
        ("", None),
    ],
)
def test_an_endpoint_is_https_and_a_domain_name(endpoint: str, host: str | None) -> None:
    # R-URI-3, R-TLS-11
    assert host_of_endpoint(endpoint) == host


@pytest.mark.parametrize(
    ("name", "right"),
    [
        (_SERVICE, True),
        ("com.amazonaws.vpce.us-gov-west-1.vpce-svc-0a", True),
        ("com.amazonaws.eu-west-1.s3", False),
        ("vpce-svc-0123456789abcdef0", False),
        (_SERVICE + "X", False),
    ],
)
def test_the_name_of_a_vpc_endpoint_service(name: str, right: bool) -> None:
    assert is_vpc_endpoint_service_name(name) is right
