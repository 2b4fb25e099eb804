"""Who is calling, by the access key id that signed the request."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from xksproxy.emulator.errors import KmsError
from xksproxy.sigv4.authorization import ALGORITHM

_CREDENTIAL: Final = re.compile(
    r"(?P<access_key_id>[^/\s,]+)/(?P<date>[0-9]{8})/(?P<region>[^/\s,]+)/(?P<service>[^/\s,]+)/aws4_request"
)
_PRINCIPAL: Final = re.compile(r"arn:aws[a-z-]*:(?:iam|sts)::(?P<account>[0-9]{12}):[\x21-\x7e]{1,1024}")
_NAME: Final = re.compile(r"[A-Za-z0-9+=,.@_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Caller:
    """A principal of an AWS account."""

    account: str
    """Twelve digits."""

    principal_arn: str
    """What the proxy reads in ``awsPrincipalArn``."""


def parse_principal(arn: str) -> Caller:
    """The caller that an IAM or STS ARN names.

    Raises:
        ValueError: it is no such ARN.
    """
    match = _PRINCIPAL.fullmatch(arn)
    if match is None:
        raise ValueError(f"{arn!r} is no principal; expected arn:aws:iam::123456789012:user/Alice or the like")
    return Caller(match["account"], arn)


@dataclass(frozen=True, slots=True)
class Callers:
    """Access key ids and the principals they belong to.

    The emulator holds nobody's secret, so it believes the Authorization header and verifies no signature.
    """

    region: str
    account: str
    """The account of every access key id that is not in :attr:`known`; its principal is the user of that name."""

    known: Mapping[str, Caller] = field(default_factory=dict)

    def identify(self, authorization: str | None) -> Caller:
        """The caller of a request.

        Raises:
            KmsError: there is no Authorization header, it is not SigV4's, or its scope is another Region or service.
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
