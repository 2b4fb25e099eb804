"""Checks the connection to a proxy: name, TCP, TLS."""

import asyncio
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from xksproxy.client.target import Target
from xksproxy.config.certificate_checks import dns_names
from xksproxy_tools.kms_emulator.diagnose.advice import advice_on
from xksproxy_tools.kms_emulator.diagnose.diagnosis import Result, Step, failed_connection, good
from xksproxy_tools.kms_emulator.proxy.address import HTTPS_PORT
from xksproxy_tools.kms_emulator.proxy.connection import (
    TLS_1_2_SUITES,
    TLS_1_3_SUITES,
    Peer,
    SocketAddress,
    connect_tcp,
    kms_tls_context,
    resolve,
    start_tls,
)
from xksproxy_tools.kms_emulator.proxy.outcome import Outcome, ProxyFailure

_WARN_DAYS: Final = 10
_WARN_ROUND_TRIP_MS: Final = 35
_VERSIONS: Final = {"TLS 1.3": ssl.TLSVersion.TLSv1_3, "TLS 1.2": ssl.TLSVersion.TLSv1_2}


@dataclass(frozen=True, slots=True)
class Handshake:
    """The result of a TLS handshake; the certificate is in DER."""

    version: str
    suite: str
    certificate: bytes


class Network:
    """Connects to a proxy without sending requests."""

    def __init__(self, target: Target, rules: Mapping[Peer, Peer], time_limit: float) -> None:
        """``time_limit`` is in seconds, for each step.

        Raises:
            TargetError: a PEM file cannot be used.
        """
        self._target = target
        self._rules = rules
        self._time_limit = time_limit
        self._addresses: list[SocketAddress] = []
        self._context()  # a file that cannot be used is reported here, not as a failure of the proxy

    async def check(self) -> AsyncIterator[Step]:
        """Check name, TCP, certificate and cipher suites, up to the first failure."""
        steps = {
            "name": self._check_name,
            "tcp": self._check_tcp,
            "certificate": self._check_certificate,
            "suites": self._check_suites,
        }
        for name, check in steps.items():
            try:
                step = await check()
            except ProxyFailure as failure:
                yield failed_connection(name, await self._with_certificate(failure), advice_on(failure))
                return
            yield step

    async def _check_name(self) -> Step:
        host = self._target.host
        async with _limited(self._time_limit, Outcome.NO_TCP, "the name service does not answer in time"):
            self._addresses = await resolve(host, HTTPS_PORT, self._rules)
        seen = f"{host} is at {', '.join(dict.fromkeys(str(address) for address in self._addresses))}"
        if self._rules.get((host.lower(), HTTPS_PORT), (host, HTTPS_PORT))[0] != host:
            return good("name", f"{seen}, by --resolve")
        if any(_is_private(address) for address in self._addresses):
            advice = "KMS reaches this address through a VPC endpoint service only, not as a public endpoint"
            return Step("name", Result.WARNING, f"{seen}, which is not a public address", advice)
        return good("name", seen)

    async def _check_tcp(self) -> Step:
        started = time.perf_counter()
        (await self._connect()).close()
        milliseconds = 1000 * (time.perf_counter() - started)
        seen = f"connected in {milliseconds:.1f} ms"
        if milliseconds > _WARN_ROUND_TRIP_MS:
            advice = f"AWS recommends at most {_WARN_ROUND_TRIP_MS} ms between the Region and the proxy"
            return Step("tcp", Result.WARNING, seen, advice)
        return good("tcp", seen)

    async def _check_certificate(self) -> Step:
        certificate = _certificate(await self._handshake(self._context()))
        if certificate is None:
            return good("certificate", "accepted")
        left = certificate.not_valid_after_utc - datetime.now(UTC)
        seen = f"{_described(certificate)}, expires in {left.days} days"
        if left.days < _WARN_DAYS:
            return Step("certificate", Result.WARNING, seen, "renew the certificate before it expires")
        return good("certificate", seen)

    async def _check_suites(self) -> Step:
        found = [handshake async for handshake in self._handshakes_by_version()]
        seen = "; ".join(f"{handshake.version} {handshake.suite}" for handshake in found)
        if any(handshake.suite in TLS_1_2_SUITES + TLS_1_3_SUITES for handshake in found):
            return good("suites", seen)
        # Python offers more TLS 1.3 suites than KMS does, so the proxy may support others as well.
        kms_suites = ", ".join(TLS_1_3_SUITES + TLS_1_2_SUITES)
        advice = f"KMS offers none of these; check that the proxy also has one of {kms_suites}"
        return Step("suites", Result.WARNING, seen, advice)

    async def _handshakes_by_version(self) -> AsyncIterator[Handshake]:
        for version in _VERSIONS.values():
            context = self._context()
            context.minimum_version = context.maximum_version = version
            try:
                yield await self._handshake(context)
            except ProxyFailure:
                continue

    async def _with_certificate(self, failure: ProxyFailure) -> ProxyFailure:
        """The failure, with a description of the certificate if the certificate was refused."""
        if not isinstance(failure.__cause__, ssl.SSLCertVerificationError):
            return failure
        context = self._context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            certificate = _certificate(await self._handshake(context))
        except ProxyFailure:
            return failure
        if certificate is None:
            return failure
        return ProxyFailure(failure.outcome, f"{failure.detail}; it is {_described(certificate)}")

    async def _connect(self) -> socket.socket:
        async with _limited(self._time_limit, Outcome.NO_TCP, "no connection in time; a firewall may drop packets"):
            return await connect_tcp(self._addresses)

    async def _handshake(self, context: ssl.SSLContext) -> Handshake:
        connection = await self._connect()
        async with _limited(self._time_limit, Outcome.TIMED_OUT, "the TLS handshake is not finished in time"):
            transport, _ = await start_tls(connection, context, self._target.host, asyncio.Protocol)
        try:
            connected = transport.get_extra_info("ssl_object")
            return Handshake(connected.version(), connected.cipher()[0], connected.getpeercert(binary_form=True))
        finally:
            transport.abort()

    def _context(self) -> ssl.SSLContext:
        return kms_tls_context(self._target.ca, self._target.client_certificate, self._target.client_key)


@asynccontextmanager
async def _limited(seconds: float, outcome: Outcome, detail: str) -> AsyncIterator[None]:
    """Limit the time of a block. After that it fails with an outcome."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise ProxyFailure(outcome, f"{detail} ({1000 * seconds:.0f} ms)") from None


def _certificate(handshake: Handshake) -> x509.Certificate | None:
    """The server's certificate; None if only OpenSSL can read it."""
    try:
        return x509.load_der_x509_certificate(handshake.certificate)
    except ValueError:
        return None


def _described(certificate: x509.Certificate) -> str:
    try:
        names = ", ".join(dns_names(certificate)) or "no DNS name"
    except ValueError:
        names = "names that cannot be read"
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return f"a certificate for {names}, by {_issuer(certificate)}, valid from {start:%Y-%m-%d} to {end:%Y-%m-%d}"


def _issuer(certificate: x509.Certificate) -> str:
    names = certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else certificate.issuer.rfc4514_string()


def _is_private(address: SocketAddress) -> bool:
    return not ipaddress.ip_address(str(address.address[0]).partition("%")[0]).is_global
