"""Advice for each failure of a call to a proxy."""

import ssl
from collections.abc import Mapping
from typing import Final

from xksproxy_tools.kms_emulator.proxy.outcome import Outcome, ProxyFailure

_BY_OUTCOME: Final[Mapping[Outcome, str]] = {
    Outcome.VALIDATION: "the proxy refuses a valid request: notify its vendor",
    Outcome.INVALID_STATE: "enable the external key, or its key store, in the proxy or in the key manager",
    Outcome.INVALID_CIPHERTEXT: "the proxy does not decrypt its own ciphertext: notify its vendor",
    Outcome.INVALID_KEY_USAGE: "the external key must be able to encrypt and to decrypt",
    Outcome.AUTHENTICATION_FAILED: "compare access key id, secret access key and path prefix with those of the proxy;"
    " then compare the clocks of both machines, which may differ by five minutes at most",
    Outcome.ACCESS_DENIED: "permit the call in the policies of the proxy; GetHealthStatus must never need permission",
    Outcome.KEY_NOT_FOUND: "use the id of an external key that exists in the proxy",
    Outcome.INVALID_URI_PATH: "compare the path, prefix included, with that of the proxy",
    Outcome.UNSUPPORTED_OPERATION: "the proxy does not implement a required function of the API: notify its vendor",
    Outcome.DEPENDENCY_TIMEOUT: "the key manager does not answer the proxy in time: check the network between them",
    Outcome.THROTTLING: "the proxy is overloaded, or one of its quotas is used up",
    Outcome.INTERNAL: "read the proxy's log: it cannot use its key manager",
    Outcome.NO_TCP: "check that the name has the address of the proxy, that it listens on port 443, and that no"
    " firewall blocks it",
    Outcome.NO_TLS: "check that the proxy uses TLS 1.2 or 1.3, with a certificate for this name",
    Outcome.CONNECTION_LOST: "the proxy closed the connection after the TLS handshake: it may refuse the cipher suite"
    " or the client certificate (see --client-certificate); read its log",
    Outcome.TIMED_OUT: "check the network to the proxy, and how long the proxy waits for its key manager",
    Outcome.MALFORMED: "the response violates the API: check that the path is that of the proxy; if it is, notify its"
    " vendor",
    Outcome.ALL_UNAVAILABLE: "repair the external key manager: the proxy reports that all instances are unavailable",
    Outcome.MATERIAL_REJECTED: "the proxy decrypts to another plaintext than was encrypted: notify its vendor",
}

# By OpenSSL's X509_V_ERR codes.
_BY_VERIFICATION: Final[Mapping[int, str]] = {
    9: "the certificate is not valid yet; check the clock too",
    10: "renew the certificate",
    18: "KMS trusts public CAs only; for a private CA, name the certificate here with --ca",
    19: "KMS trusts public CAs only; for a private CA, name its certificate here with --ca",
    20: "either the proxy does not send its intermediate certificates, or its CA is not trusted: KMS trusts a list"
    " of public CAs; name a private CA here with --ca",
    62: "use a certificate with the endpoint's name among its DNS names",
    64: "use a certificate with the endpoint's address, or better a domain name",
}


def advice_on(failure: ProxyFailure) -> str:
    """What to do about a failure. For a refused certificate the advice depends on the reason."""
    cause = failure.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError) and cause.verify_code in _BY_VERIFICATION:
        return _BY_VERIFICATION[cause.verify_code]
    if isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
        return "the server does not use TLS, or a version before 1.2"
    return _BY_OUTCOME[failure.outcome]
