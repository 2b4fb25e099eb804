"""TLS, HTTP/1.1 and client certificates (R-TLS-*)."""

import ssl
from typing import Any, Final

from xksproxy.spec.errors import InvalidUriPathException, ValidationException
from xksproxy.spec.uri import Operation
from xksproxy_tools.conformance.check import Check, Level
from xksproxy_tools.conformance.client_contexts import self_signed, with_certificate, without_certificate
from xksproxy_tools.conformance.client_hello import (
    OBSOLETE_VERSIONS,
    SUITES_BEFORE_TLS_1_2,
    SUITES_OF_KMS,
    HandshakeRefused,
    exchange_hello,
)
from xksproxy_tools.conformance.expectations import expect_error, expect_success
from xksproxy_tools.conformance.http_connection import HttpConnection, NotHttp
from xksproxy_tools.conformance.messages import metadata_only
from xksproxy_tools.conformance.outcome import CheckFailed, expect, required
from xksproxy_tools.conformance.requests import Request
from xksproxy_tools.conformance.subject import Subject

_REQUESTS_ON_ONE_CONNECTION: Final = 20
_CURRENT_VERSIONS: Final = ("TLSv1.2", "TLSv1.3")


def _health(subject: Subject) -> Request:
    operation = Operation.GET_HEALTH_STATUS
    return subject.sign(subject.request(subject.path(operation), metadata_only(operation)))


# --- TLS


def _server_name(subject: Subject) -> None:
    try:
        subject.connect().close()
    except ssl.SSLCertVerificationError as error:
        raise CheckFailed(f"a certificate for {subject.target.host}", error.verify_message) from None


def _certificate(subject: Subject) -> str:
    context = subject.target.context()
    context.check_hostname = False
    try:
        with HttpConnection((subject.target.host, subject.target.port), context, timeout=subject.timeout) as wire:
            shown: dict[str, Any] = wire.socket.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        raise CheckFailed("a valid certificate of a trusted CA", error.verify_message) from None
    pieces = [value for part in shown.get("issuer", ()) for _, value in part]
    private = "; a private CA, as of --ca, is not trusted by KMS" if subject.target.ca else ""
    return f"issued by {', '.join(pieces)}, valid until {shown.get('notAfter')}{private}"


def _versions(subject: Subject) -> str:
    with subject.connect() as wire:
        version = str(wire.socket.version())
        expect(version in _CURRENT_VERSIONS, "TLS 1.2 or 1.3", version)
        expect_success(wire.exchange(_health(subject).encode()), version)
    return version


def _old_versions(subject: Subject) -> None:
    address = subject.target.host, subject.target.port
    for name, version in OBSOLETE_VERSIONS.items():
        try:
            hello = exchange_hello(address, version=version, suites=SUITES_BEFORE_TLS_1_2, timeout=subject.timeout)
        except HandshakeRefused:
            continue
        raise CheckFailed(f"no answer to {name}", f"the suite 0x{hello.suite:04X} of version 0x{hello.version:04X}")


def _suites(subject: Subject) -> str:
    address = subject.target.host, subject.target.port
    accepted = []
    for name, (version, suite) in SUITES_OF_KMS.items():
        try:
            hello = exchange_hello(address, version=version, suites=(suite,), timeout=subject.timeout)
        except HandshakeRefused:
            continue
        if (hello.version, hello.suite) == (version, suite):
            accepted.append(name)
    expect(accepted, f"one of {', '.join(SUITES_OF_KMS)}", "none of them")
    return ", ".join(accepted)


# --- HTTP


def _http_1_1(subject: Subject) -> None:
    for protocols in ([], ["http/1.1"], ["h2", "http/1.1"]):
        context = subject.target.context()
        if protocols:
            context.set_alpn_protocols(protocols)
        with HttpConnection((subject.target.host, subject.target.port), context, timeout=subject.timeout) as wire:
            if wire.socket.selected_alpn_protocol() == "h2":
                continue  # allowed if both are offered
            response = wire.exchange(_health(subject).encode())
        offered = f"with the protocols {', '.join(protocols) or '(none)'} offered by ALPN"
        expect(response.version == "HTTP/1.1", f"HTTP/1.1 {offered}", response.version)
        expect_success(response, offered)


def _split(subject: Subject) -> None:
    """Headers and body in separate writes, as many clients send them."""
    request = _health(subject)
    whole = request.encode()
    head = len(whole) - len(request.body)
    with subject.connect() as wire:
        for piece in (whole[:20], whole[20:head], whole[head : head + 10]):
            wire.send(piece)
        expect_success(wire.exchange(whole[head + 10 :]), "a request in four pieces")


def _keep_alive(subject: Subject) -> None:
    with subject.connect() as wire:
        for number in range(1, _REQUESTS_ON_ONE_CONNECTION + 1):
            response = wire.exchange(_health(subject).encode())
            expect_success(response, f"request {number} of a connection")
            expect(not response.closes, "a persistent connection", f"Connection: close after request {number}")


def _kept_after_errors(subject: Subject) -> None:
    path = subject.path(Operation.GET_HEALTH_STATUS)
    empty = subject.sign(subject.request(path, {}))
    astray = subject.sign(subject.request(f"{path}/astray", {}))
    with subject.connect() as wire:
        for request, error in ((empty, ValidationException), (astray, InvalidUriPathException)):
            response = wire.exchange(request.encode())
            expect_error(response, error)
            expect(not response.closes, f"a connection that outlives {error.__name__}", "Connection: close")
        expect_success(wire.exchange(_health(subject).encode()), "after two errors")


def _pipelining(subject: Subject) -> None:
    astray = subject.sign(subject.request(f"{subject.path(Operation.GET_HEALTH_STATUS)}/astray", {}))
    with subject.connect() as wire:
        wire.send(_health(subject).encode() + astray.encode() + _health(subject).encode())
        expect_success(wire.read(), "the first of three requests")
        expect_error(wire.read(), InvalidUriPathException, when="the second of three requests")
        expect_success(wire.read(), "the third of three requests")


# --- Mutual TLS


def _no_client_certificate(subject: Subject) -> str:
    required(subject.target.client_certificate, "--client-certificate")
    return _refused(subject, without_certificate(subject.target), "a client without certificate")


def _foreign_authority(subject: Subject) -> str:
    required(subject.target.client_certificate, "--client-certificate")
    return _refused(subject, self_signed(subject.target), "a self-signed certificate with the right name")


def _wrong_client_name(subject: Subject) -> str:
    certificate, key = required(subject.wrong_client, "--wrong-client-certificate")
    return _refused(subject, with_certificate(subject.target, certificate, key), "a certificate with another name")


def _refused(subject: Subject, context: ssl.SSLContext, client: str) -> str:
    """In TLS 1.3 a client finishes before the server checks its certificate, so a request is needed."""
    expected = f"no connection for {client}"
    try:
        wire = HttpConnection((subject.target.host, subject.target.port), context, timeout=subject.timeout)
    except ssl.SSLCertVerificationError:
        raise
    except OSError as error:
        return str(error)
    with wire:
        try:
            response = wire.exchange(_health(subject).encode())
        except TimeoutError:
            raise CheckFailed(expected, f"one that is neither answered nor ended in {subject.timeout:g} s") from None
        except NotHttp as error:
            raise CheckFailed(expected, str(error)) from None
        except OSError as error:
            return str(error)
    raise CheckFailed(expected, str(response))


CHECKS: Final[tuple[Check, ...]] = (
    Check("tls-server-name", ("R-TLS-4",), Level.MUST, "The server certificate names the host", _server_name),
    Check("tls-certificate", ("R-TLS-5",), Level.MUST, "The server certificate is valid", _certificate),
    Check("tls-versions", ("R-TLS-1",), Level.MUST, "TLS 1.2 or 1.3 is used", _versions),
    Check("tls-old-versions", ("R-TLS-1",), Level.SHOULD, "SSL 3.0, TLS 1.0 and TLS 1.1 are refused", _old_versions),
    Check("tls-suites", ("R-TLS-2",), Level.MUST, "A cipher suite of KMS is supported", _suites),
    Check("tls-http-1-1", ("R-TLS-3",), Level.MUST, "HTTP/1.1 is served, whatever ALPN offers", _http_1_1),
    Check("tls-split-request", ("R-TLS-3",), Level.MUST, "A request may arrive in pieces", _split),
    Check("tls-keep-alive", ("R-TLS-3",), Level.SHOULD, "A connection serves many requests", _keep_alive),
    Check("tls-kept-after-errors", ("R-TLS-3",), Level.SHOULD, "A connection outlives errors", _kept_after_errors),
    Check("tls-pipelining", ("R-TLS-3",), Level.SHOULD, "Pipelined requests are answered in order", _pipelining),
    Check(
        "tls-client-without-certificate",
        ("R-TLS-6",),
        Level.SHOULD,
        "With mutual TLS, a client without certificate is refused",
        _no_client_certificate,
    ),
    Check(
        "tls-client-foreign-ca",
        ("R-TLS-8",),
        Level.MUST,
        "With mutual TLS, a client certificate of another CA is refused",
        _foreign_authority,
    ),
    Check(
        "tls-client-wrong-name",
        ("R-TLS-8",),
        Level.MUST,
        "With mutual TLS, a client certificate with another name is refused",
        _wrong_client_name,
    ),
)
