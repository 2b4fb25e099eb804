"""What the checks of `transport` must find."""

import ssl
import warnings
from dataclasses import replace

from stub_proxy.behaviour import Defect
from stub_proxy.http import Request, Response

MUTUAL_TLS = ("tls-client-without-certificate", "tls-client-foreign-ca")


def old_versions(context: ssl.SSLContext) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("ALL:@SECLEVEL=0")


def only_old_versions(context: ssl.SSLContext) -> None:
    old_versions(context)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.maximum_version = ssl.TLSVersion.TLSv1_1


def weak_suite(context: ssl.SSLContext) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")


def certificates_are_optional(context: ssl.SSLContext) -> None:
    context.verify_mode = ssl.CERT_OPTIONAL


def certificates_are_not_asked_for(context: ssl.SSLContext) -> None:
    context.verify_mode = ssl.CERT_NONE


def http_1_0(request: Request, response: Response) -> Response:
    return replace(response, version="HTTP/1.0")


DEFECTS: tuple[Defect, ...] = (
    Defect("certificate-for-another-name", ("tls-server-name",), {"certificate": "elsewhere"}),
    Defect("certificate-expired", ("tls-certificate",), {"certificate": "expired"}),
    Defect("only-tls-1-1", ("tls-versions",), {"adjust_tls": only_old_versions}),
    Defect("tls-1-0-too", ("tls-old-versions",), {"adjust_tls": old_versions}),
    Defect("only-aes-128", ("tls-suites",), {"adjust_tls": weak_suite}),
    Defect("http-1-0", ("tls-http-1-1",), {"finish": http_1_0}),
    Defect("one-read-is-one-request", ("tls-split-request", "tls-pipelining"), {"one_read": True}),
    Defect("no-keep-alive", ("tls-keep-alive", "tls-kept-after-errors"), {"keep_alive": False}),
    Defect("closes-after-errors", ("tls-kept-after-errors",), {"closes_after_errors": True}),
    Defect(
        "client-certificates-are-optional",
        ("tls-client-without-certificate",),
        {"adjust_tls": certificates_are_optional, "admit": lambda name: True},
    ),
    Defect(
        "client-certificates-are-not-asked-for",
        (*MUTUAL_TLS, "tls-client-wrong-name"),
        {"adjust_tls": certificates_are_not_asked_for, "admit": lambda name: True},
    ),
    Defect("any-client-name", ("tls-client-wrong-name",), {"admit": bool}),
)
