"""The caller of a request, identified by its access key id."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from xksproxy.sigv4.authorization import ALGORITHM
from xksproxy_tools.kms_emulator.errors import KmsError

_CREDENTIAL: Final = re.compile(
    r"(?P<access_key_id>[^/\s,]+)/(?P<date>[0-9]{8})/(?P<region>[^/\s,]+)/(?P<service>[^/\s,]+)/aws4_request"
)
_PRINCIPAL: Final = re.compile(r"arn:aws[a-z-]*:(?:iam|sts)::(?P<account>[0-9]{12}):[\x21-\x7e]{1,1024}")
_MORE: Final = re.compile(r",(?=(?:viaService|sourceVpc|sourceVpce)=)")
_NAME: Final = re.compile(r"[A-Za-z0-9+=,.@_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Caller:
    """A principal of an AWS account."""

    account: str
    """Twelve digits."""

    principal_arn: str
    """Sent to the proxy as ``awsPrincipalArn``."""

    via_service: str | None = None
    """The AWS service that calls for the principal, such as ``s3.eu-west-1.amazonaws.com``."""

    source_vpc: str | None = None
    source_vpce: str | None = None
    """The VPC and the VPC endpoint of its requests."""


def parse_caller(text: str) -> tuple[str, Caller]:
    """Read ``ACCESS_KEY_ID=ARN[,viaService=SERVICE][,sourceVpc=VPC][,sourceVpce=ENDPOINT]``.

    Raises:
        ValueError: the form is wrong, or the ARN is not that of a principal.
    """
    access_key_id, _, rest = text.partition("=")
    arn, *more = _MORE.split(rest)
    fields = dict(part.split("=", 1) for part in more)
    principal = _PRINCIPAL.fullmatch(arn)
    if not _NAME.fullmatch(access_key_id) or principal is None or len(fields) != len(more) or "" in fields.values():
        expected = (
            "ACCESS_KEY_ID=ARN with the ARN of a user or role, and optionally ,viaService= ,sourceVpc= ,sourceVpce="
        )
        raise ValueError(f"{text!r} is not a caller; expected {expected}")
    return access_key_id, Caller(
        principal["account"], arn, fields.get("viaService"), fields.get("sourceVpc"), fields.get("sourceVpce")
    )


@dataclass(frozen=True, slots=True)
class Callers:
    """The principals of access key ids.

    The emulator has no secret access keys. It trusts the Authorization header and verifies no signature.
    """

    region: str
    account: str
    """The account of access key ids that are not in :attr:`known`; their principals are users of the same name."""

    known: Mapping[str, Caller] = field(default_factory=dict)

    def identify(self, authorization: str | None) -> Caller:
        """The caller of a request.

        Raises:
            KmsError: the Authorization header is missing, is not SigV4, or is scoped to another Region or service.
        """
        if not authorization:
            raise KmsError("MissingAuthenticationTokenException", "Missing Authentication Token")
        algorithm, _, rest = authorization.partition(" ")
        credential = next((part for part in re.split(r",\s*", rest.strip()) if part.startswith("Credential=")), "")
        match = _CREDENTIAL.fullmatch(credential.removeprefix("Credential="))
        if algorithm != ALGORITHM or match is None:
            raise KmsError(
                "IncompleteSignatureException", f"Authorization header requires {ALGORITHM} and 'Credential'"
            )
        if match["region"] != self.region:
            expected = f"Credential should be scoped to a valid region, not '{match['region']}': this is {self.region}."
            raise KmsError("InvalidSignatureException", expected)
        if match["service"] != "kms":
            raise KmsError("InvalidSignatureException", "Credential should be scoped to correct service: 'kms'.")
        return self._caller(match["access_key_id"])

    def _caller(self, access_key_id: str) -> Caller:
        if access_key_id in self.known:
            return self.known[access_key_id]
        if not _NAME.fullmatch(access_key_id):
            raise KmsError("UnrecognizedClientException", "The security token included in the request is invalid.")
        return Caller(self.account, f"arn:aws:iam::{self.account}:user/{access_key_id}")
