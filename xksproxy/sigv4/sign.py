"""Signing a request, as a client does."""

import hashlib
from datetime import UTC, datetime

from xksproxy.sigv4.authorization import ALGORITHM, CredentialScope
from xksproxy.sigv4.canonical import HttpRequest, canonical_request, derive_signing_key, sign_string, string_to_sign
from xksproxy.sigv4.keyring import Credential


def signed_headers(
    credential: Credential,
    region: str,
    *,
    host: str,
    path: str,
    body: bytes,
    now: float,
) -> dict[str, str]:
    """The headers of a signed POST, as KMS sends them: ``SignedHeaders=host;x-amz-date`` (R-AUTH-8).

    ``now`` is the Unix time in seconds. ``host`` includes the port if it is not the default.
    """
    timestamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = CredentialScope(timestamp[:8], region)
    request = HttpRequest("POST", path, {"host": [host], "x-amz-date": [timestamp]}, body)
    names = ("host", "x-amz-date")
    canonical = canonical_request(request, names, hashlib.sha256(body).hexdigest())
    key = derive_signing_key(credential.secret_access_key, scope)
    signature = sign_string(key, string_to_sign(timestamp, scope, canonical))
    return {
        "Host": host,
        "X-Amz-Date": timestamp,
        "Content-Type": "application/json",
        "Authorization": f"{ALGORITHM} Credential={credential.access_key_id}/{scope},"
        f" SignedHeaders={';'.join(names)}, Signature={signature}",
    }
