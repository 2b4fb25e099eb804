"""The parameters of a key store for AWS KMS: as a file for the console, AWS CLI commands, or Terraform."""

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any, Final

from xksproxy.sigv4.keyring import Credential
from xksproxy.spec.uri import BASE_PATH

_ENDPOINT: Final = re.compile(r"https://(?=.{1,120}$)(?P<host>(?:[A-Za-z0-9-]{1,63}\.)+[A-Za-z][A-Za-z0-9-]{0,62})")
_VPC_SERVICE: Final = re.compile(r"(?=.{20,64}$)(?:com|eu)\.amazonaws\.vpce\.(?:[a-z]+-){2,3}\d+\.vpce-svc-[0-9a-z]+")
_TERRAFORM_VARIABLE: Final = "xks_proxy_credential"


@dataclass(frozen=True, slots=True)
class KmsKeyStore:
    """The parameters of CreateCustomKeyStore for a key store of this proxy, without the credential."""

    name: str
    """CustomKeyStoreName."""

    endpoint: str
    """XksProxyUriEndpoint: https:// and a domain name, without a port (R-URI-3, R-TLS-11)."""

    uri_path_prefix: str
    vpc_endpoint_service_name: str | None = None
    """None for a public endpoint."""

    @property
    def uri_path(self) -> str:
        """XksProxyUriPath."""
        return self.uri_path_prefix + BASE_PATH

    @property
    def connectivity(self) -> str:
        """XksProxyConnectivity."""
        return "VPC_ENDPOINT_SERVICE" if self.vpc_endpoint_service_name else "PUBLIC_ENDPOINT"

    def create_command(self, credential_file: str) -> str:
        """The AWS CLI command that creates the key store."""
        return _command(
            "create-custom-key-store",
            ("custom-key-store-name", self.name),
            ("custom-key-store-type", "EXTERNAL_KEY_STORE"),
            *self._connection(),
            ("xks-proxy-authentication-credential", f"file://{credential_file}"),
        )

    def terraform(self) -> str:
        """The resource for the Terraform provider hashicorp/aws 5.84.0 or later. The credential is a variable in it."""
        attributes = {
            "custom_key_store_name": self.name,
            "custom_key_store_type": "EXTERNAL_KEY_STORE",
            "xks_proxy_connectivity": self.connectivity,
            "xks_proxy_uri_endpoint": self.endpoint,
            "xks_proxy_uri_path": self.uri_path,
        }
        if self.vpc_endpoint_service_name:
            attributes["xks_proxy_vpc_endpoint_service_name"] = self.vpc_endpoint_service_name
        width = max(map(len, attributes))
        lines = "\n".join(f"  {name:{width}} = {json.dumps(value)}" for name, value in attributes.items())
        return f"""\
# Needs the provider hashicorp/aws 5.84.0 or later. Terraform keeps the secret in its state: protect that too.
variable "{_TERRAFORM_VARIABLE}" {{
  type = object({{
    access_key_id         = string
    raw_secret_access_key = string
  }})
  sensitive = true
}}

resource "aws_kms_custom_key_store" "{_identifier(self.name)}" {{
{lines}

  xks_proxy_authentication_credential {{
    access_key_id         = var.{_TERRAFORM_VARIABLE}.access_key_id
    raw_secret_access_key = var.{_TERRAFORM_VARIABLE}.raw_secret_access_key
  }}
}}
"""

    def _connection(self) -> list[tuple[str, str]]:
        connection = [
            ("xks-proxy-connectivity", self.connectivity),
            ("xks-proxy-uri-endpoint", self.endpoint),
            ("xks-proxy-uri-path", self.uri_path),
        ]
        if self.vpc_endpoint_service_name:
            connection.append(("xks-proxy-vpc-endpoint-service-name", self.vpc_endpoint_service_name))
        return connection


def console_json(uri_path_prefix: str, credential: Credential) -> str:
    """The file that the KMS console imports (R-CONF-2). It contains the secret."""
    return _json(
        {
            "XksProxyUriPath": uri_path_prefix + BASE_PATH,
            "XksProxyAuthenticationCredential": _credential(credential),
        }
    )


def credential_json(credential: Credential) -> str:
    """XksProxyAuthenticationCredential as a file for the AWS CLI. It contains the secret."""
    return _json(_credential(credential))


def terraform_variables(credential: Credential) -> str:
    """The value of the variable in :meth:`KmsKeyStore.terraform`, for ``-var-file``. It contains the secret."""
    names = {"access_key_id": credential.access_key_id, "raw_secret_access_key": credential.secret_access_key}
    return _json({_TERRAFORM_VARIABLE: names})


def update_command(custom_key_store_id: str, credential_file: str) -> str:
    """The AWS CLI command that changes the credential of a key store. The key store can stay connected."""
    return _command(
        "update-custom-key-store",
        ("custom-key-store-id", custom_key_store_id),
        ("xks-proxy-authentication-credential", f"file://{credential_file}"),
    )


def host_of_endpoint(endpoint: str) -> str | None:
    """Return the domain name of an XksProxyUriEndpoint, or None if KMS refuses the endpoint (R-URI-3, R-TLS-11)."""
    match = _ENDPOINT.fullmatch(endpoint)
    return match["host"].lower() if match else None


def is_vpc_endpoint_service_name(name: str) -> bool:
    """Whether KMS accepts a name as XksProxyVpcEndpointServiceName."""
    return _VPC_SERVICE.fullmatch(name) is not None


def _credential(credential: Credential) -> dict[str, str]:
    return {"AccessKeyId": credential.access_key_id, "RawSecretAccessKey": credential.secret_access_key}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def _command(operation: str, *options: tuple[str, str]) -> str:
    lines = [f"aws kms {operation}", *(f"--{name} {shlex.quote(value)}" for name, value in options)]
    return " \\\n  ".join(lines) + "\n"


def _identifier(name: str) -> str:
    identifier = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    return identifier if identifier[0].isalpha() else f"_{identifier}"
