"""What to do about each way in which a call to a proxy fails."""

import ssl
from collections.abc import Mapping
from typing import Final

from xksproxy_tools.kms_emulator.proxy.outcome import Outcome, ProxyFailure

_BY_OUTCOME: Final[Mapping[Outcome, str]] = {
    Outcome.VALIDATION: "the proxy takes a good request for a bad one: tell its vendor",
    Outcome.INVALID_STATE: "enable the external key, or its key store, in the proxy or in the key manager",
    Outcome.INVALID_CIPHERTEXT: "the proxy does not decrypt what it has just encrypted: tell its vendor",
    Outcome.INVALID_KEY_USAGE: "the external key must be able to encrypt and to decrypt",
    Outcome.AUTHENTICATION_FAILED: "compare access key id and secret with those of the proxy, and the path with the one"
    " they are for; then the clocks of both machines, which may differ by five minutes",
    Outcome.ACCESS_DENIED: "let the proxy's own rules permit the call; GetHealthStatus may not need permission at all",
    Outcome.KEY_NOT_FOUND: "use an external key id that the proxy knows",
    Outcome.INVALID_URI_PATH: "compare the path, prefix included, with that of the proxy",
    Outcome.UNSUPPORTED_OPERATION: "the proxy does not implement what the API demands: tell its vendor",
    Outcome.DEPENDENCY_TIMEOUT: "the key manager does not answer the proxy in time: look at the way between the two",
    Outcome.THROTTLING: "the proxy is overloaded, or a quota of its own is used up",
    Outcome.INTERNAL: "look into the proxy's log: it cannot use its key manager",
    Outcome.NO_TCP: "see that the name leads to the proxy, that it listens on port 443, and that no firewall is in its"
    " way",
    Outcome.NO_TLS: "see that the proxy speaks TLS 1.2 or 1.3 there, with a certificate of this name",
    Outcome.CONNECTION_LOST: "TLS worked, and then the proxy hung up: it may refuse the cipher suite, or the client's"
    " certificate (see --client-certificate); its log should say",
    Outcome.TIMED_OUT: "look at the way to the proxy, and at how long it waits for its key manager",
    Outcome.MALFORMED: "the answer breaks the API: if the path leads to the proxy and not to something else, tell its"
    " vendor",
    Outcome.ALL_UNAVAILABLE: "bring the external key manager back: the proxy reports that no instance of it can serve",
    Outcome.MATERIAL_REJECTED: "the proxy decrypts to something else than was encrypted: tell its vendor",
}

# By OpenSSL's X509_V_ERR codes.
_BY_VERIFICATION: Final[Mapping[int, str]] = {
    9: "the certificate is not valid yet; look at the clock too",
    10: "renew the certificate",
    18: "KMS trusts public CAs only; of a private one, name the certificate here with --ca",
    19: "KMS trusts public CAs only; of a private one, name its certificate here with --ca",
    20: "either the proxy does not send its intermediate certificates, or its CA is none of the trusted ones: KMS"
    " trusts the public CAs of its list, and here a private one is named with --ca",
    62: "use a certificate with the endpoint's name among its DNS names",
    64: "use a certificate with the endpoint's address, or rather a name",
}


def advice_on(failure: ProxyFailure) -> str:
    """What to do about a failure; about a refused certificate by the reason for which it is refused."""
    cause = failure.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError) and cause.verify_code in _BY_VERIFICATION:
        return _BY_VERIFICATION[cause.verify_code]
    if isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
        return "what listens there speaks no TLS, or a version before 1.2"
    return _BY_OUTCOME[failure.outcome]
