"""TLS towards KMS: versions, suites, certificates, and who may come (R-TLS-*, Q-15)."""

import re
import signal
import socket
import ssl
import subprocess
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from server_support import ClosedByProxy, OwnProxy, Wire, assert_serving, signed_post
from support import PATIENCE_SECONDS, Proxy, eventually
from xksproxy_tools.development.certificates import (
    Authority,
    certificate_pem,
    create_authority,
    load_authority,
    private_key_pem,
    write_private,
)

KMS_NAME = "cks.kms.eu-west-1.amazonaws.com"
SECOND_NAME = "cks.kms.eu-central-1.amazonaws.com"
TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def only(context: ssl.SSLContext, version: ssl.TLSVersion, suites: str | None = None) -> ssl.SSLContext:
    """The context, reduced to one version and, in TLS 1.2, to some suites."""
    context.minimum_version = context.maximum_version = version
    if suites is not None:
        context.set_ciphers(suites)
    return context


def status(proxy: Proxy, context: ssl.SSLContext) -> int | None:
    """The status of a signed request, or None where the proxy says nothing."""
    try:
        with Wire(proxy, context) as wire:
            return wire.ask(signed_post(proxy)).status
    except (OSError, ClosedByProxy):
        return None


def openssl(proxy: Proxy, *options: str) -> bytes:
    """What the proxy answers to a signed request through `openssl s_client`, which can choose TLS 1.3 suites."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{proxy.port}", "-servername", "localhost", "-quiet"]
    command += ["-CAfile", str(proxy.environment.authority), "-verify_return_error", "-verify_quiet", *options]
    done = subprocess.run(
        command,
        input=signed_post(proxy, Connection="close"),
        capture_output=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    return done.stdout


@contextmanager
def logged(proxy: Proxy, text: str) -> Iterator[None]:
    """What is done inside makes the proxy log a text."""
    before = proxy.log.stat().st_size
    yield
    eventually(lambda: text.encode() in proxy.log.read_bytes()[before:])


# --- Versions and suites


@pytest.mark.parametrize(("version", "name"), [(TLS_1_2, "TLSv1.2"), (TLS_1_3, "TLSv1.3")])
def test_tls_1_2_and_1_3_work(proxy: Proxy, version: ssl.TLSVersion, name: str) -> None:
    with Wire(proxy, only(proxy.context(), version)) as wire:
        assert wire.socket.version() == name
        assert wire.ask(signed_post(proxy)).status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_older_versions_are_refused_by_the_proxy(proxy: Proxy, version: ssl.TLSVersion) -> None:
    """R-TLS-1; the proxy's log shows that the client did offer them."""
    context = proxy.context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        only(context, version, "ALL:@SECLEVEL=0")

    with logged(proxy, "UNSUPPORTED_PROTOCOL"), pytest.raises(ssl.SSLError):
        Wire(proxy, context)

    assert_serving(proxy)


def test_the_suite_of_tls_1_2_works(proxy: Proxy) -> None:
    context = only(proxy.context(), TLS_1_2, "ECDHE-ECDSA-AES256-GCM-SHA384")

    with Wire(proxy, context) as wire:
        assert wire.ask(signed_post(proxy)).status == 200


@pytest.mark.parametrize(
    "suite",
    [
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES256-SHA384",
        "ECDHE-ECDSA-AES128-SHA256",
        "ECDHE-ECDSA-AES256-SHA",
        "ECDHE-RSA-AES256-GCM-SHA384",
    ],
)
def test_other_suites_of_tls_1_2_are_refused(proxy: Proxy, suite: str) -> None:
    context = only(proxy.context(), TLS_1_2, f"{suite}:@SECLEVEL=0")

    with logged(proxy, "NO_SHARED_CIPHER"), pytest.raises(ssl.SSLError):
        Wire(proxy, context)

    assert_serving(proxy)


@pytest.mark.parametrize("suite", ["TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"])
def test_each_suite_of_tls_1_3_works(proxy: Proxy, suite: str) -> None:
    """R-TLS-2."""
    assert openssl(proxy, "-tls1_3", "-ciphersuites", suite).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("suite", ["TLS_AES_128_GCM_SHA256", "TLS_AES_128_CCM_SHA256"])
def test_other_suites_of_tls_1_3_are_dropped_unanswered(proxy: Proxy, suite: str) -> None:
    assert openssl(proxy, "-tls1_3", "-ciphersuites", suite) == b""
    assert_serving(proxy)


def test_the_proxy_chooses_the_suite_where_the_client_prefers_another(proxy: Proxy) -> None:
    suites = "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_256_GCM_SHA384"
    assert openssl(proxy, "-tls1_3", "-ciphersuites", suites).startswith(b"HTTP/1.1 200 OK\r\n")

    older = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"
    with Wire(proxy, only(proxy.context(), TLS_1_2, older)) as wire:
        assert (wire.socket.cipher() or ("",))[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"


@pytest.mark.parametrize("protocols", [["h2", "http/1.1"], ["http/1.1"], []])
def test_a_client_of_http_1_1_is_served_whatever_else_it_offers(proxy: Proxy, protocols: list[str]) -> None:
    """R-TLS-3."""
    context = proxy.context()
    if protocols:
        context.set_alpn_protocols(protocols)

    with Wire(proxy, context) as wire:
        assert wire.socket.selected_alpn_protocol() == ("http/1.1" if protocols else None)
        assert wire.ask(signed_post(proxy)).status == 200


@pytest.mark.parametrize("data", [b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n" * 50, bytes(1000), b"\xff" * 1000])
def test_what_is_not_tls_gets_nothing_and_does_no_harm(proxy: Proxy, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE_SECONDS) as raw:
        raw.sendall(data)
        with suppress(ConnectionResetError):
            answer = raw.recv(1000)
            assert answer == b"" or answer[0] == 0x15  # a TLS alert at most

    assert_serving(proxy)


@pytest.mark.slow
def test_an_rsa_certificate_works_with_its_suite_and_no_other(own_proxy: OwnProxy) -> None:
    directory = own_proxy.environment.directory / "tls"
    authority = load_authority((directory / "ca.pem").read_bytes(), (directory / "ca-key.pem").read_bytes())
    key = rsa.generate_private_key(65537, 2048)
    certificate = issued(authority, ["localhost"], key=key, hosts=["localhost"], client=False)
    write_private(own_proxy.directory / "rsa.pem", certificate + pem(key))
    path = own_proxy.directory / "rsa.pem"
    proxy = own_proxy.start(
        server="workers = 1",
        edit=lambda text: text.replace('"tls/server.pem"', f'"{path}"').replace('"tls/server-key.pem"', f'"{path}"'),
    )

    def suite(suites: str) -> str | None:
        try:
            with Wire(proxy, only(proxy.context(), TLS_1_2, f"{suites}:@SECLEVEL=0")) as wire:
                assert wire.ask(signed_post(proxy)).status == 200
                return (wire.socket.cipher() or ("",))[0]
        except ssl.SSLError:
            return None

    assert suite("ECDHE-RSA-AES256-GCM-SHA384") == "ECDHE-RSA-AES256-GCM-SHA384"
    for other in ("ECDHE-RSA-AES128-GCM-SHA256", "AES256-GCM-SHA384", "ECDHE-RSA-AES256-SHA384", "AES256-SHA"):
        assert suite(other) is None
    assert status(proxy, only(proxy.context(), TLS_1_3)) == 200


# --- Mutual TLS


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def issued(
    authority: Authority,
    common_names: Sequence[str],
    *,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    hosts: Sequence[str] = (),
    client: bool = True,
    starts: timedelta = timedelta(hours=-1),
    ends: timedelta = timedelta(days=30),
) -> bytes:
    """A certificate in PEM with as many common names as asked for, valid between two moments from now."""
    now = datetime.now(UTC)
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in common_names]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + starts)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.private_key.public_key()), critical=False
        )
    )
    if hosts:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False
        )
    return builder.sign(authority.private_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


@dataclass
class Club:
    """A proxy that wants client certificates of one authority with one of two names, and a way to come."""

    proxy: Proxy
    authority: Authority
    directory: Path

    def context(self, certificate: bytes, key: bytes) -> ssl.SSLContext:
        path = self.directory / "client.pem"
        write_private(path, certificate + key)
        context = self.proxy.context()
        context.load_cert_chain(path)
        return context

    def member(
        self,
        *common_names: str,
        authority: Authority | None = None,
        hosts: Sequence[str] = (),
        client: bool = True,
        starts: timedelta = timedelta(hours=-1),
        ends: timedelta = timedelta(days=30),
    ) -> ssl.SSLContext:
        """A client context with a certificate of these common names."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = issued(
            authority or self.authority, common_names, key=key, hosts=hosts, client=client, starts=starts, ends=ends
        )
        return self.context(certificate, pem(key))


@pytest.fixture
def club(own_proxy: OwnProxy) -> Club:
    """A proxy with mutual TLS, one worker, so that a session can be resumed."""
    authority = create_authority("client CA")
    (own_proxy.directory / "clients.pem").write_bytes(certificate_pem(authority.certificate))
    proxy = own_proxy.start(
        server="workers = 1",
        tls=f'client_ca = "{own_proxy.directory / "clients.pem"}"\nclient_names = ["{KMS_NAME}", "{SECOND_NAME}"]',
    )
    club = Club(proxy, authority, own_proxy.directory)
    eventually(lambda: status(proxy, club.member(KMS_NAME)) == 200)
    return club


VERSIONS = [TLS_1_2, TLS_1_3]


@pytest.mark.slow
def test_mutual_tls_accepts_each_right_name_of_the_right_authority(club: Club) -> None:
    for version in VERSIONS:
        for name in (KMS_NAME, SECOND_NAME):
            assert status(club.proxy, only(club.member(name), version)) == 200
        assert status(club.proxy, only(club.member(KMS_NAME, hosts=["elsewhere.example"]), version)) == 200


@pytest.mark.slow
def test_changed_rules_for_clients_end_the_connections_that_were_made_under_others(club: Club) -> None:
    config, log = club.proxy.environment.config, club.proxy.log
    text = config.read_text()

    def reload(changed: str) -> None:
        before = log.read_text().count("configuration in place")
        config.write_text(changed)
        club.proxy.process.send_signal(signal.SIGHUP)
        eventually(lambda: log.read_text().count("configuration in place") > before)

    with Wire(club.proxy, club.member(SECOND_NAME)) as wire:
        assert wire.ask(signed_post(club.proxy)).status == 200
        reload(text)
        assert wire.ask(signed_post(club.proxy)).status == 200
        reload(text.replace(f', "{SECOND_NAME}"', ""))
        with pytest.raises((ClosedByProxy, OSError)):
            wire.ask(signed_post(club.proxy))
    with Wire(club.proxy, club.member(KMS_NAME)) as wire:
        assert wire.ask(signed_post(club.proxy)).status == 200
        authority = create_authority("another client CA")
        (club.directory / "clients.pem").write_bytes(certificate_pem(authority.certificate))
        eventually(lambda: log.read_text().count("changed credentials or certificates in place"))
        with pytest.raises((ClosedByProxy, OSError)):
            wire.ask(signed_post(club.proxy))
    config.write_text(re.sub(r"(?m)^client_(ca|names) = .*$", "", text))
    reload(config.read_text())
    with Wire(club.proxy) as wire:
        assert wire.ask(signed_post(club.proxy)).status == 200
        reload(text)
        with pytest.raises((ClosedByProxy, OSError)):
            wire.ask(signed_post(club.proxy))


@pytest.mark.slow
def test_mutual_tls_never_replaces_sigv4(club: Club) -> None:
    """R-TLS-6."""
    with Wire(club.proxy, club.member(KMS_NAME)) as wire:
        assert wire.ask(signed_post(club.proxy, Authorization=None)).status == 401


@pytest.mark.slow
def test_mutual_tls_refuses_everybody_else_before_any_answer(club: Club) -> None:
    """R-TLS-8, R-TLS-10: a refused client reads not one byte, signed or not."""
    other = create_authority("client CA")
    lone_key = ec.generate_private_key(ec.SECP256R1())
    lone = Authority(x509.load_pem_x509_certificate(issued(club.authority, [KMS_NAME], key=lone_key)), lone_key)
    contexts = {
        "no certificate": club.proxy.context(),
        "another authority of the same name": club.member(KMS_NAME, authority=other),
        "self-signed": club.context(
            issued(Authority(lone.certificate, lone_key), [KMS_NAME], key=lone_key), private_key_pem(lone_key)
        ),
        "issued by a member": club.member(KMS_NAME, authority=lone),
        "expired": club.member(KMS_NAME, starts=timedelta(days=-9), ends=timedelta(hours=-1)),
        "not yet valid": club.member(KMS_NAME, starts=timedelta(days=1)),
        "for servers": club.member(KMS_NAME, client=False),
        "wrong name": club.member("beta.cks.kms.eu-west-1.amazonaws.com"),
        "name in upper case": club.member(KMS_NAME.upper()),
        "name with a dot": club.member(f"{KMS_NAME}."),
        "longer name": club.member(f"{KMS_NAME}.example"),
        "shorter name": club.member(KMS_NAME[:-1]),
        "wildcard": club.member("*.kms.eu-west-1.amazonaws.com"),
        "two names": club.member(KMS_NAME, "other"),
        "two names, the right one last": club.member("other", KMS_NAME),
        "the right name twice": club.member(KMS_NAME, KMS_NAME),
        "both right names": club.member(KMS_NAME, SECOND_NAME),
        "a list of names in one": club.member(f"{KMS_NAME}, {KMS_NAME[:20]}"),
        "no name": club.member(),
        "right name in SAN only": club.member("other", hosts=[KMS_NAME]),
        "no name, right name in SAN": club.member(hosts=[KMS_NAME]),
    }

    for version in VERSIONS:
        for who, context in contexts.items():
            assert (who, answer(club.proxy, only(context, version))) == (who, b"")
    assert status(club.proxy, club.member(KMS_NAME)) == 200


def answer(proxy: Proxy, context: ssl.SSLContext) -> bytes:
    """The first that a client reads which sends a signed request and a ping as soon as it can."""
    try:
        with Wire(proxy, context) as wire:
            return first_bytes(wire.send_what_is_taken(signed_post(proxy) + b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"))
    except TimeoutError:
        raise
    except OSError:
        return b""


def first_bytes(wire: Wire) -> bytes:
    try:
        return wire.socket.recv(100)
    except TimeoutError:
        raise
    except OSError:
        return b""


@pytest.mark.slow
def test_the_log_says_why_a_client_was_refused(club: Club) -> None:
    with logged(club.proxy, "stranger.example"):
        assert status(club.proxy, club.member("stranger.example")) is None
    with logged(club.proxy, "PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        assert status(club.proxy, club.proxy.context()) is None


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_is_resumed_for_the_right_name(club: Club, version: ssl.TLSVersion) -> None:
    context = only(club.member(KMS_NAME), version)
    with Wire(club.proxy, context) as wire:
        assert wire.ask(signed_post(club.proxy)).status == 200
        session = wire.socket.session

    assert session is not None
    assert session.has_ticket
    for _ in range(3):
        with resumed(club.proxy, context, session) as wire:
            assert wire.ask(signed_post(club.proxy)).status == 200
            assert wire.socket.session_reused


def resumed(proxy: Proxy, context: ssl.SSLContext, session: ssl.SSLSession | None) -> Wire:
    class Resuming(ssl.SSLContext):
        def wrap_socket(self, *args: object, **keywords: object) -> ssl.SSLSocket:
            return context.wrap_socket(*args, **keywords, session=session)

    return Wire(proxy, Resuming(ssl.PROTOCOL_TLS_CLIENT))


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_a_resumed_session_does_not_get_past_the_check_of_the_name(club: Club, version: ssl.TLSVersion) -> None:
    """A client of the right authority and a wrong name gets no ticket; were there one, it would be of no use."""
    context = only(club.member("stranger.example"), version)
    session = None
    with suppress(OSError), Wire(club.proxy, context) as wire:
        assert first_bytes(wire) == b""  # and so all that there is has been read
        session = wire.socket.session
    assert session is None or not session.has_ticket

    for _ in range(3):
        with suppress(ssl.SSLError, ConnectionError), resumed(club.proxy, context, session) as wire:
            assert first_bytes(wire.send_what_is_taken(signed_post(club.proxy))) == b""
    assert status(club.proxy, club.member(KMS_NAME)) == 200


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_ends_with_the_certificate_of_the_client(club: Club, version: ssl.TLSVersion) -> None:
    """A ticket lives longer than the certificate may; and a connection that is kept is closed after its next answer."""
    expires = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=6)
    context = only(club.member(KMS_NAME, ends=expires - datetime.now(UTC)), version)
    with Wire(club.proxy, context) as kept, Wire(club.proxy, context) as wire:
        for each in (kept, wire):
            reply = each.ask(signed_post(club.proxy))
            assert (reply.status, reply.closes) == (200, False)
        session = wire.socket.session
        assert session is not None
        assert session.has_ticket

        eventually(lambda: datetime.now(UTC) > expires + timedelta(seconds=1))

        with logged(club.proxy, "the client certificate expired"):
            for _ in range(3):
                with suppress(ssl.SSLError, ConnectionError), resumed(club.proxy, context, session) as again:
                    assert first_bytes(again.send_what_is_taken(signed_post(club.proxy))) == b""
        reply = kept.ask(signed_post(club.proxy))
        assert (reply.status, reply.closes) == (200, True)
    assert status(club.proxy, club.member(KMS_NAME)) == 200


@pytest.mark.slow
def test_a_certificate_that_comes_before_its_key_is_not_used_without_it(own_proxy: OwnProxy) -> None:
    """Every connection meets a chain and a key that fit, whatever is on disk in between."""
    proxy = own_proxy.start(server="workers = 1")
    directory = proxy.environment.directory / "tls"
    authority = load_authority((directory / "ca.pem").read_bytes(), (directory / "ca-key.pem").read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = issued(authority, ["localhost"], key=key, hosts=["localhost"], client=False)

    def serial() -> int:
        with Wire(proxy) as wire:
            assert wire.ask(signed_post(proxy)).status == 200
            return x509.load_der_x509_certificate(wire.socket.getpeercert(binary_form=True) or b"").serial_number

    old, new = serial(), x509.load_pem_x509_certificate(certificate).serial_number
    with logged(proxy, "changed credentials or certificates refused"):
        (directory / "server.pem").write_bytes(certificate)
        assert serial() == old
    assert serial() == old
    (directory / "server-key.pem").write_bytes(pem(key))
    eventually(lambda: serial() == new)


@pytest.mark.slow
def test_a_proxy_without_client_ca_asks_for_no_certificate(own_proxy: OwnProxy, proxy: Proxy) -> None:
    """R-TLS-6 is an option."""
    assert (
        b"No client certificate CA names sent"
        in subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{proxy.port}", "-CAfile", str(proxy.environment.authority)],
            input=b"",
            capture_output=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        ).stdout
    )
