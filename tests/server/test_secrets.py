"""What is logged of a request, and what never is (R-LOG-1 to R-LOG-4, R-ENC-11, R-DEC-6, R-AUTH-7, R-ERR-3)."""

import base64
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_support import (
    HEALTH,
    HEALTH_BODY,
    Caller,
    OwnProxy,
    Reply,
    SealedMessage,
    Wire,
    encoded,
    key_path,
    request,
    signed,
    signed_post,
    workers,
    written_log,
)
from support import Proxy, lines_with

from xksproxy.client.xks import XksClient
from xksproxy.sigv4.authorization import CredentialScope
from xksproxy.sigv4.canonical import derive_signing_key
from xksproxy.sigv4.keyring import Credential, generate_credential


def forms(secret: bytes) -> Iterator[bytes]:
    """The ways in which bytes may stand in a text: as they are, in hexadecimal, and in Base64 at each alignment."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    yield secret.hex(" ").encode()
    yield repr(secret).strip("b'\"").encode()
    yield json.dumps(secret.decode("latin-1")).strip('"').encode()
    yield str(list(secret)).strip("[]").encode()
    for shift in range(3):
        text = base64.b64encode(bytes(shift) + secret)
        inner = text[4 if shift else 0 : -4]  # what does not depend on the neighbours
        yield inner
        yield inner.replace(b"+", b"-").replace(b"/", b"_")
        yield inner.replace(b"/", b"\\/")


def pin(proxy: Proxy) -> bytes:
    return (proxy.environment.directory / "pin").read_text().strip().encode()


def secrets_of(proxy: Proxy) -> list[bytes]:
    """The PIN, the key store credentials' secrets, and the signing keys derived from them today."""
    credentials = (proxy.credential, proxy.second_credential, proxy.other_credential)
    today = CredentialScope(signed(proxy, HEALTH, b"")["X-Amz-Date"][:8], "eu-west-1")
    return [
        pin(proxy),
        *(credential.secret_access_key.encode() for credential in credentials),
        *(derive_signing_key(credential.secret_access_key, today) for credential in credentials),
    ]


def assert_absent(found_in: bytes, secrets: list[bytes]) -> None:
    for secret in secrets:
        for form in forms(secret):
            assert len(form) >= 8
            assert form not in found_in, form


class Spread:
    """A spread of good and bad requests around one recognisable plaintext, and what was answered to the bad ones."""

    def __init__(self, proxy: Proxy, metadata: dict[str, Any]) -> None:
        self.proxy = proxy
        self.metadata = metadata
        self.plaintext = os.urandom(40)
        self.text = f"plaintext-{os.urandom(20).hex()}"
        self.refusals: list[Reply] = []

    @property
    def plaintexts(self) -> list[bytes]:
        return [self.plaintext, self.text.encode()]

    def run(self) -> None:
        for plaintext in self.plaintexts:
            with XksClient(self.proxy.endpoint(), self.proxy.context()) as client:
                caller = Caller(client, self.metadata)
                self._serve(caller, plaintext)
                for body in self._bad_bodies(caller, plaintext):
                    self._refuse(signed_post(self.proxy, key_path("encrypt"), body))
                for key_id in ("no-such-key", "disabled-key", "impotent-key", "x" * 129):
                    body = json.dumps(caller.encryption(plaintext, plaintext)).encode()
                    self._refuse(signed_post(self.proxy, key_path("encrypt", key_id), body))
        for data in self._bad_requests():
            self._refuse(data)

    def _serve(self, caller: Caller, plaintext: bytes) -> None:
        for cdiv in (False, True):
            sealed = SealedMessage.of(caller.encrypt("demo-key", plaintext, b"aad", cdiv=cdiv), b"aad")
            assert caller.decrypt("demo-key", sealed).body == {"plaintext": encoded(plaintext)}
            assert caller.decrypt("demo-key", SealedMessage(sealed.iv, plaintext, sealed.tag)).status == 400
            assert caller.decrypt("demo-key", SealedMessage(plaintext, plaintext, plaintext)).status == 400
        assert caller.encrypt("encrypt-only-key", plaintext, cdiv=True).status == 400

    def _bad_bodies(self, caller: Caller, plaintext: bytes) -> Iterator[bytes]:
        good = caller.encryption(plaintext, plaintext)
        text = encoded(plaintext)
        changes: list[dict[str, Any]] = [
            {"plaintext": f"{text}*"},
            {"plaintext": [text]},
            {"encryptionAlgorithm": text},
            {"ciphertextDataIntegrityValueAlgorithm": text},
            {"requestMetadata": text},
            {"requestMetadata": {text: text}},
            {text: text, "plaintext": 7},
            {"additionalAuthenticatedData": {"x": text}},
            {"plaintext": encoded(plaintext * 300)},
        ]
        for change in changes:
            yield json.dumps(good | change).encode()
        yield json.dumps(good).encode()[:-1]
        yield json.dumps(good).encode() + text.encode()
        yield plaintext
        yield text.encode()

    def _bad_requests(self) -> Iterator[bytes]:
        proxy = self.proxy
        for secret in (proxy.credential.secret_access_key, self.text, pin(proxy).decode()):
            body = json.dumps({"requestMetadata": {}, "plaintext": secret}).encode()
            yield signed_post(proxy, HEALTH, body, Authorization=f"AWS4-HMAC-SHA256 Credential={secret}")
            yield signed_post(proxy, HEALTH, body, Authorization=f"Basic {secret}")
            yield signed_post(proxy, HEALTH, body, Authorization=None, X_Secret=secret)
            yield signed_post(proxy, HEALTH, body, X_Amz_Date=secret)
            yield signed_post(proxy, HEALTH, body, Content_Type=secret)
            yield signed_post(proxy, HEALTH, body, Content_Length=secret)
            yield signed_post(proxy, HEALTH, body, Transfer_Encoding=secret)
            yield signed_post(proxy, HEALTH, body, Host=secret)
            yield request(secret, HEALTH, {"Host": proxy.host}, body)
            yield request("POST", HEALTH, {secret: secret}, body)
            yield f"{secret}\r\n\r\n".encode()
            yield request("POST", HEALTH, {"Host": proxy.host, "Transfer-Encoding": "chunked"}, secret.encode())
            yield request("POST", HEALTH, {"Host": proxy.host, "Content-Length": "5000"}, secret.encode())
        wrong = Credential(proxy.credential.access_key_id, generate_credential().secret_access_key)
        yield request("POST", HEALTH, signed(proxy, HEALTH, HEALTH_BODY, credential=wrong), HEALTH_BODY)

    def _refuse(self, data: bytes) -> None:
        with Wire(self.proxy) as wire:
            reply = wire.send_what_is_taken(data).reply()
        assert reply.status >= 400, reply
        self.refusals.append(reply)


def check(proxy: Proxy, metadata: dict[str, Any]) -> None:
    spread = Spread(proxy, {**metadata, "kmsRequestId": f"request-{os.urandom(8).hex()}"})
    spread.run()

    secrets = [*spread.plaintexts, *secrets_of(proxy)]
    assert spread.metadata["kmsRequestId"] in written_log(proxy)
    assert_absent(proxy.log.read_bytes(), secrets)
    assert_absent(b"".join(reply.content + repr(reply.headers).encode() for reply in spread.refusals), secrets)


def test_no_secret_stands_in_the_log_or_in_an_error(proxy: Proxy, request_metadata: dict[str, Any]) -> None:
    check(proxy, request_metadata)


@pytest.mark.slow
@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_secret_stands_in_the_most_talkative_log(
    own_proxy: OwnProxy, request_metadata: dict[str, Any], log_format: str
) -> None:
    proxy = own_proxy.start(
        edit=lambda text: text.replace('format = "console"', f'format = "{log_format}"').replace(
            "[logging]", '[logging]\nlevel = "debug"'
        )
    )

    check(proxy, request_metadata)


def test_no_secret_stands_in_arguments_or_environment_of_the_processes(proxy: Proxy) -> None:
    secrets = secrets_of(proxy)

    for pid in (proxy.process.pid, *workers(proxy)):
        for name in ("cmdline", "environ"):
            assert_absent(Path(f"/proc/{pid}/{name}").read_bytes(), secrets)


# --- What is logged


def lines_about(proxy: Proxy, text: str) -> list[str]:
    """All that is ever written about what has happened so far."""
    written_log(proxy)
    return lines_with(proxy.log, text)


def test_each_call_leaves_one_line_with_its_metadata_time_and_outcome(proxy: Proxy, caller: Caller) -> None:
    """R-LOG-1, R-LOG-4."""
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: caller.encrypt("demo-key", b"x"), "status=200"),
        (lambda: caller.encrypt("impotent-key", b"x"), 'error="InvalidKeyUsageException"'),
        (lambda: caller.encrypt("no-such-key", b"x"), "status=404"),
    ]
    for call, outcome in cases:
        caller.metadata["kmsRequestId"] = request_id = f"request-{os.urandom(8).hex()}"
        call()

        (line,) = lines_about(proxy, request_id)
        for part in (outcome, *(value for name, value in caller.metadata.items() if name != "kmsRequestId")):
            assert part in line
        assert re.search(r" ms=[0-9.]+", line)
        assert proxy.credential.access_key_id in line


def test_a_caller_cannot_forge_a_line(proxy: Proxy, caller: Caller) -> None:
    """R-LOG-3."""
    mark = os.urandom(8).hex()
    forged = f"{mark}\n2026-01-01T00:00:00.000+00:00 info request  status=200 forged-{mark}\r\x1b[2J\u2028"
    caller.metadata |= {"kmsRequestId": forged, "awsPrincipalArn": forged, "kmsOperation": forged}

    caller.encrypt("demo-key", b"x")

    (line,) = lines_about(proxy, mark)
    assert "\x1b" not in line


def test_a_long_value_is_cut_in_the_log(proxy: Proxy, caller: Caller) -> None:
    mark = os.urandom(8).hex()
    caller.metadata |= {"kmsRequestId": f"{mark}{'x' * 40_000}", "kmsViaService": "y" * 10_000}

    assert caller.encrypt("demo-key", b"x").status == 200

    (line,) = lines_about(proxy, mark)
    assert len(line) < 8192
