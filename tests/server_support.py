"""HTTP by hand over TLS, messages of the API, keys of a known value, and proxies of a test's own."""

import base64
import hashlib
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPConnection
from itertools import cycle
from pathlib import Path
from typing import Any, Self, TypeVar

from fault_support import FaultyHsm
from pkcs11 import Attribute, KeyType, ObjectClass
from support import (
    BODY_MS,
    PATIENCE_SECONDS,
    REGION,
    UNHURRIED_MS,
    Process,
    Proxy,
    children,
    eventually,
    free_port,
    lines_with,
    serve,
    wait_for_port,
    wait_until_serving,
    with_free_ports,
)
from xksproxy_tools.development.environment import DevEnvironment

from xksproxy.client.xks import Answer, XksClient
from xksproxy.config.load import load_config
from xksproxy.hsm.instance.session import HsmSession
from xksproxy.sigv4.keyring import Credential, generate_credential
from xksproxy.sigv4.sign import signed_headers
from xksproxy.spec.uri import Operation

AUDIT_KEY = "k" * 64
HEALTH = "/dev/kms/xks/v1/health"
HEALTH_MESSAGE = {"requestMetadata": {"kmsRequestId": "4112f4d6-db54-4af4-ae30-c55a22a8dfae", "kmsOperation": "K"}}
HEALTH_BODY = json.dumps(HEALTH_MESSAGE).encode()

SOCKET_SECONDS = PATIENCE_SECONDS
"""Longer than anything the proxy bounds, so a test that waits this long has found a hang."""

Made = TypeVar("Made")


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def key_path(operation: str, key_id: str = "demo-key", prefix: str = "/dev") -> str:
    return f"{prefix}/kms/xks/v1/keys/{key_id}/{operation}"


@dataclass(frozen=True)
class Reply:
    """An HTTP response as it stood on the wire; header names in lower case."""

    version: str
    status: int
    headers: tuple[tuple[str, str], ...]
    content: bytes

    @property
    def body(self) -> dict[str, Any]:
        return json.loads(self.content)

    def header(self, name: str) -> str | None:
        """The value of a header that may come once at most."""
        values = [value for found, value in self.headers if found == name]
        assert len(values) <= 1, (name, values)
        return values[0] if values else None

    @property
    def closes(self) -> bool:
        return (self.header("connection") or "").lower() == "close"


class ClosedByProxy(Exception):
    """The proxy ended the connection where a response was expected."""


class Wire:
    """One TLS connection, written and read by hand."""

    def __init__(
        self, proxy: Proxy, context: ssl.SSLContext | None = None, *, source: str = "", before: bytes = b""
    ) -> None:
        """``source`` is the address that the proxy sees as the peer's, which may be any of 127.0.0.0/8.

        ``before`` is sent before TLS begins.
        """
        raw = socket.create_connection(("127.0.0.1", proxy.port), SOCKET_SECONDS, (source, 0) if source else None)
        try:
            raw.sendall(before)
            self.socket = (context or proxy.context()).wrap_socket(raw, server_hostname="localhost")
        except BaseException:
            raw.close()
            raise
        self._reader = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._reader.close()
        self.socket.close()

    def send(self, data: bytes) -> Self:
        self.socket.sendall(data)
        return self

    def send_what_is_taken(self, data: bytes) -> Self:
        """Send, and take no offence when the proxy closes before it has read everything."""
        with suppress(OSError):
            self.socket.sendall(data)
        return self

    def reply(self, method: str = "POST") -> Reply:
        """Read one response; informational ones are responses too."""
        try:
            line = self._reader.readline(8192)
            if not line:
                raise ClosedByProxy
            match = re.fullmatch(rb"(HTTP/[0-9]\.[0-9]) ([0-9]{3}) [ -~]*\r\n", line)
            assert match, line
            headers = tuple(self._headers())
            status = int(match[2])
            names = dict(headers)
            assert "transfer-encoding" not in names, headers
            bodiless = method == "HEAD" or status < 200
            length = 0 if bodiless else int(names["content-length"])
            content = self._reader.read(length)
        except TimeoutError:
            raise
        except OSError as error:
            raise ClosedByProxy(str(error)) from error
        assert len(content) == length
        return Reply(match[1].decode(), status, headers, content)

    def _headers(self) -> Iterator[tuple[str, str]]:
        while (line := self._reader.readline(8192)) not in (b"\r\n", b""):
            name, _, value = line.decode("ascii").partition(":")
            yield name.strip().lower(), value.strip()

    def ask(self, data: bytes, method: str = "POST") -> Reply:
        return self.send(data).reply(method)

    def wait_until_closed(self) -> bytes:
        """What the proxy still says before it ends the connection; a TimeoutError if it never does."""
        rest = b""
        try:
            while chunk := self._reader.read1(65536):
                rest += chunk
        except TimeoutError:
            raise
        except OSError:
            pass  # reset instead of closed
        return rest


def request(
    method: str,
    target: str,
    headers: Mapping[str, str] | Iterable[tuple[str, str]],
    body: bytes = b"",
    version: str = "HTTP/1.1",
) -> bytes:
    """A request's bytes; nothing is added and nothing is checked."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    lines = [f"{method} {target} {version}", *(f"{name}: {value}" for name, value in pairs), "", ""]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + body


def signed(
    proxy: Proxy, path: str, body: bytes, *, credential: Credential | None = None, late_by: float = 0.0
) -> dict[str, str]:
    """The headers of a signed POST, Content-Length among them. ``late_by``: seconds the client's clock is behind."""
    headers = signed_headers(
        credential or proxy.credential, REGION, host=proxy.host, path=path, body=body, now=time.time() - late_by
    )
    return {**headers, "Content-Length": str(len(body))}


def signed_post(proxy: Proxy, path: str = HEALTH, body: bytes = HEALTH_BODY, **changes: str | None) -> bytes:
    """A signed POST; ``changes`` replace headers (underscores for hyphens), or remove them when None."""
    headers = signed(proxy, path, body)
    for name, value in changes.items():
        known = next((key for key in headers if key.lower() == name.replace("_", "-").lower()), name.replace("_", "-"))
        if value is None:
            del headers[known]
        else:
            headers[known] = value
    return request("POST", path, headers, body)


def assert_json(reply: Reply) -> None:
    """What every answer of the proxy has: JSON on one line, and no word on what it is made of (R-REQ-1)."""
    assert reply.header("content-type") == "application/json"
    assert reply.header("server") == "xksproxy"
    assert not re.search(r"aiohttp|gunicorn|uvloop|python", str(reply.headers), re.IGNORECASE)
    assert b"\n" not in reply.content


def assert_error(reply: Reply, status: int, name: str) -> None:
    """An error to the letter of R-ERR-1, R-ERR-2 and R-ERR-4."""
    assert (reply.status, reply.body.get("errorName")) == (status, name), reply.content
    assert_json(reply)
    assert_error_body(reply.body)


def assert_error_body(body: dict[str, Any]) -> None:
    assert body.keys() == {"errorName", "errorMessage"}
    assert re.fullmatch(r"[ -~]{1,511}", body["errorMessage"])


def assert_refused(answer: Answer, status: int, name: str) -> None:
    assert (answer.status, answer.body.get("errorName")) == (status, name), answer.body
    assert_error_body(answer.body)


def assert_serving(proxy: Proxy, times: int = 4) -> None:
    """An answer of a serving HSM on each of several new connections, which find every worker sooner or later."""
    # DEGRADED for a second: SoftHSM2 fails a check that meets another process just logging in to the token.
    assert health_on_connections(proxy, times) <= {"ACTIVE", "DEGRADED"}


def health_on_connections(proxy: Proxy, times: int) -> set[str]:
    """What GetHealthStatus says of the first HSM on so many new connections."""
    found = set()
    for _ in range(times):
        with Wire(proxy) as wire:
            reply = wire.ask(signed_post(proxy))
        assert reply.status == 200, reply.content
        found.add(reply.body["ekmFleetDetails"][0]["healthStatus"])
    return found


class RoamingClient:
    """Calls over several connections in turn, and so on more than one worker."""

    def __init__(self, clients: Iterable[XksClient]) -> None:
        self._clients = cycle(clients)

    def call(self, operation: Operation, message: dict[str, Any], key_id: str = "") -> Answer:
        return next(self._clients).call(operation, message, key_id)


@contextmanager
def roaming_caller(proxy: Proxy, metadata: dict[str, Any]) -> Iterator["Caller"]:
    """A caller over ten connections in turn: enough of them to find every worker."""
    with ExitStack() as stack:
        clients = [stack.enter_context(XksClient(proxy.endpoint(), proxy.context())) for _ in range(10)]
        yield Caller(RoamingClient(clients), metadata)


class Caller:
    """Encrypt and Decrypt with bytes in place of Base64."""

    def __init__(self, client: XksClient | RoamingClient, metadata: dict[str, Any]) -> None:
        self.client = client
        self.metadata = metadata

    def encrypt(self, key_id: str, plaintext: bytes, aad: bytes | None = None, *, cdiv: bool = False) -> Answer:
        return self.client.call(Operation.ENCRYPT, self.encryption(plaintext, aad, cdiv=cdiv), key_id)

    def encryption(self, plaintext: bytes, aad: bytes | None = None, *, cdiv: bool = False) -> dict[str, Any]:
        message = {
            "requestMetadata": self.metadata,
            "plaintext": encoded(plaintext),
            "encryptionAlgorithm": "AES_GCM",
        }
        if aad is not None:
            message["additionalAuthenticatedData"] = encoded(aad)
        if cdiv:
            message["ciphertextDataIntegrityValueAlgorithm"] = "SHA_256"
        return message

    def decrypt(self, key_id: str, sealed: "SealedMessage") -> Answer:
        return self.client.call(Operation.DECRYPT, self.decryption(sealed), key_id)

    def decryption(self, sealed: "SealedMessage") -> dict[str, Any]:
        message = {
            "requestMetadata": self.metadata,
            "encryptionAlgorithm": "AES_GCM",
            "ciphertext": encoded(sealed.ciphertext),
            "initializationVector": encoded(sealed.iv),
            "authenticationTag": encoded(sealed.tag),
        }
        if sealed.aad is not None:
            message["additionalAuthenticatedData"] = encoded(sealed.aad)
        if sealed.ctm is not None:
            message["ciphertextMetadata"] = encoded(sealed.ctm)
        return message

    def seal(self, key_id: str, plaintext: bytes, aad: bytes | None = None) -> "SealedMessage":
        """Encrypt, which must succeed."""
        answer = self.encrypt(key_id, plaintext, aad)
        assert answer.status == 200, answer.body
        return SealedMessage.of(answer, aad)

    def open(self, key_id: str, sealed: "SealedMessage") -> bytes:
        """Decrypt, which must succeed."""
        answer = self.decrypt(key_id, sealed)
        assert answer.status == 200, answer.body
        return decoded(answer.body["plaintext"])


@dataclass(frozen=True)
class SealedMessage:
    """What Decrypt takes, decoded; None for a field that is absent."""

    iv: bytes
    ciphertext: bytes
    tag: bytes
    aad: bytes | None = None
    ctm: bytes | None = None

    @classmethod
    def of(cls, answer: Answer, aad: bytes | None = None) -> Self:
        body = answer.body
        return cls(
            decoded(body["initializationVector"]),
            decoded(body["ciphertext"]),
            decoded(body["authenticationTag"]),
            aad,
            decoded(body["ciphertextMetadata"]) if "ciphertextMetadata" in body else None,
        )

    def integrity_value(self) -> bytes:
        """R-CDIV-5, written down again."""
        digest = hashlib.sha256()
        for part in (self.aad or b"", self.ctm or b"", self.iv, self.ciphertext, self.tag):
            digest.update(part)
        return digest.digest()


def hand_composed_aad(aad: bytes, ctm: bytes) -> bytes:
    """R-CDIV-2, written down again."""
    return len(aad).to_bytes(2, "big") + aad + bytes([len(ctm)]) + ctm


def import_key(session: HsmSession, label: str, value: bytes, **attributes: bool) -> Any:
    """A key whose value the test knows, so that software can check what the token does."""
    template = {
        Attribute.CLASS: ObjectClass.SECRET_KEY,
        Attribute.KEY_TYPE: KeyType.AES,
        Attribute.TOKEN: True,
        Attribute.PRIVATE: True,
        Attribute.LABEL: label,
        Attribute.VALUE: value,
        Attribute.ENCRYPT: attributes.get("encrypt", True),
        Attribute.DECRYPT: attributes.get("decrypt", True),
    }
    return session._session.create_object(template)


def find_key(session: HsmSession, label: str) -> Any:
    """The binding's object for the key of a label."""
    return session._session.get_key(object_class=ObjectClass.SECRET_KEY, label=label)


@dataclass
class OwnProxy:
    """Starts proxies of a test's own on the token that all tests share, and ends them."""

    environment: DevEnvironment
    directory: Path
    _processes: list[Process] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(
        self,
        name: str = "own",
        *,
        server: str = "",
        tls: str = "",
        edit: Callable[[str], str] = str,
        deadline_ms: int | None = UNHURRIED_MS,
        body_ms: int = BODY_MS,
        serving: bool = True,
        forked: bool = True,
    ) -> Proxy:
        """A proxy that listens, and of which every worker serves unless ``serving`` is False.

        ``server`` and ``tls`` are lines added to these tables; ``edit`` may change the text of the whole file. Without
        ``deadline_ms`` it has the bounds of time of production. ``forked`` is that of :func:`~support.serve`.
        """
        directory = self.directory / name
        shutil.copytree(
            self.environment.directory, directory, ignore=shutil.ignore_patterns("tokens", "log", "audit", "*.partial")
        )
        port = free_port()
        text = (directory / "xksproxy.toml").read_text()
        text = with_free_ports(text, port)
        if "workers" in server:
            text = re.sub(r"(?m)^workers = .*\n", "", text)
        text = text.replace("[server]\n", f"[server]\n{server}\n", 1)
        text = text.replace("[server.tls]\n", f"[server.tls]\n{tls}\n", 1)
        (directory / "xksproxy.toml").write_text(edit(text))
        environment = DevEnvironment(directory, port)
        log = directory / "log"
        process = serve(environment.config, log, deadline_ms=deadline_ms, body_ms=body_ms, forked=forked)
        self._processes.append(process)
        wait_for_port(port, process)
        if serving:
            wait_until_serving(environment.config, process)
        return Proxy(environment, process, log, environment.credential, environment.credential, generate_credential())

    def adopt(self, process: Process) -> None:
        """End another process with the rest."""
        self._processes.append(process)

    def end(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGQUIT)  # which waits for no client
        for process in self._processes:
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def on(faulty: FaultyHsm, text: str, setting: str = "") -> str:
    """The text of a configuration, on another HSM and with one more setting of it."""
    table = f'module = "{faulty.hsm.module}"\n{setting}'
    text = re.sub(r"(?m)^module = .*$", table, re.sub(r"(?m)^check_interval_s = .*\n", "", text))
    return re.sub(r'SOFTHSM2_CONF = "[^"]*"', f'SOFTHSM2_CONF = "{faulty.hsm.environment["SOFTHSM2_CONF"]}"', text)


def ask_admin(proxy: Proxy, path: str, *, host: str | None = None) -> Reply:
    """A GET to the admin listener, with its address as Host or with another one."""
    address = load_config(proxy.environment.config).admin.listen
    connection = HTTPConnection(address, timeout=SOCKET_SECONDS)
    connection.request("GET", path, headers={} if host is None else {"Host": host})
    answer = connection.getresponse()
    headers = tuple((name.lower(), value) for name, value in answer.getheaders())
    try:
        return Reply("HTTP/1.1", answer.status, headers, answer.read())
    finally:
        connection.close()


def encrypt_body(plaintext: bytes) -> bytes:
    """The body of an Encrypt."""
    metadata = {"awsPrincipalArn": "a", "kmsKeyArn": "k", "kmsOperation": "Encrypt", "kmsRequestId": "r"}
    message = {"requestMetadata": metadata, "plaintext": encoded(plaintext), "encryptionAlgorithm": "AES_GCM"}
    return json.dumps(message).encode()


def stop(proxy: Proxy) -> int:
    """SIGTERM, and the exit code."""
    proxy.process.send_signal(signal.SIGTERM)
    return proxy.process.wait(PATIENCE_SECONDS)


def lines_of_signals(proxy: Proxy, name: str) -> list[str]:
    """The log lines that say that a signal was ignored."""
    return [line for line in proxy.log.read_text().splitlines() if "signal ignored" in line and name in line]


def copy_state(state: Path, copy: Path) -> None:
    """Copy a state directory that is in use, without what others make and remove meanwhile."""
    shutil.copytree(state, copy, ignore=shutil.ignore_patterns(".*", "audit"))


def workers(proxy: Proxy) -> set[int]:
    """The process ids of the workers."""
    return children(proxy.process.pid)


def wait_for_every_worker(proxy: Proxy) -> set[int]:
    """The process ids of the workers, once each of them serves with an HSM behind it."""
    return wait_until_serving(proxy.environment.config, proxy.process)


def on_each_worker(proxy: Proxy, connect: Callable[[], Made]) -> list[Made]:
    """What ``connect`` makes, once with each worker; the others stand still meanwhile.

    It must do no more than make a connection, and send what needs neither HSM nor state: they may hold locks of these.
    """
    made = []
    pids = sorted(workers(proxy))
    for pid in pids:
        others = [other for other in pids if other != pid]
        try:
            for other in others:
                os.kill(other, signal.SIGSTOP)
            eventually(lambda others=others: all(map(_stands_still, others)))
            made.append(connect())
        finally:
            for other in others:
                os.kill(other, signal.SIGCONT)
    return made


def on_every_worker(proxy: Proxy, ask: bytes) -> set[int]:
    """The statuses of one request to each worker, over connections that are made before."""
    statuses = set()
    for wire in on_each_worker(proxy, lambda: Wire(proxy)):
        with wire:
            statuses.add(wire.ask(ask).status)
    return statuses


def encrypt_on_every_worker(proxy: Proxy) -> set[int]:
    """The statuses of an Encrypt with `demo-key` in each worker."""
    return on_every_worker(proxy, signed_post(proxy, key_path("encrypt"), encrypt_body(b"text")))


def _stands_still(pid: int) -> bool:
    """Whether a process, each of its threads, has stopped."""
    try:
        states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:  # a thread has ended since the listing, and so not all of them stand still
        return False
    return set(states) == {"T"}


def written_log(proxy: Proxy) -> str:
    """The log, once it holds all that was caused before: what it lacks by then never comes.

    Each worker writes its audit lines and its other lines in order. So it is asked for one more of either: for an audit
    line by a request, for another by SIGHUP, since the lines that requests cause are limited.
    """

    def leave_mark() -> str:
        mark = ".".join(["127", *(str(random.randint(1, 254)) for _ in range(3))])
        with Wire(proxy, source=mark) as wire:
            assert wire.ask(signed_post(proxy)).status == 200
        return mark

    def reloads() -> int:
        return len(
            re.findall("configuration (in place|in use already|refused|left to)", proxy.log.read_text(errors="replace"))
        )

    for mark in on_each_worker(proxy, leave_mark):
        eventually(lambda mark=mark: lines_with(proxy.log, mark, "request"))
    before, asked = reloads(), workers(proxy)
    for pid in asked:
        os.kill(pid, signal.SIGHUP)
    eventually(lambda: reloads() >= before + len(asked))
    return proxy.log.read_text(errors="replace")


def sockets(pid: int) -> int:
    """How many sockets a process holds."""
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since the listing
            count += str(entry.readlink()).startswith("socket:")
    return count


def settled_sockets(pid: int) -> int:
    """How many sockets a process holds once their number has stood still for half a second."""
    counts = [sockets(pid)]
    while len(counts) < 25:
        time.sleep(0.02)
        if (count := sockets(pid)) != counts[-1]:
            counts.clear()
        counts.append(count)
    return counts[-1]


def wait_until_sockets_are_closed(before: Mapping[int, int]) -> None:
    """Until each process holds no more sockets than ``before``."""
    eventually(lambda: {pid: sockets(pid) for pid, count in before.items() if sockets(pid) > count}, {})


def audit_lines(path: Path, *parts: str) -> list[dict[str, Any]]:
    """The lines of an audit log in JSON that hold all of these."""
    return [json.loads(line) for line in lines_with(path, *parts)]


def chained(text: str, log: Path, more: str = "") -> str:
    """The text of a configuration whose audit log is chained and goes to a file; ``more`` settings of it."""
    key = log.with_name("audit-key")
    key.write_text(AUDIT_KEY)
    key.chmod(0o600)
    table = f'[audit]\nfile = "{log}"\nchain = true\nkey = {{ file = "{key}" }}\ncheckpoint_interval_s = 1\n{more}'
    return re.sub(r"(?s)\[audit\]\nformat = \"console\"\n", table + "\n", text)


@contextmanager
def connections(proxy: Proxy, count: int, *, used: bool = False) -> Iterator[list[Wire]]:
    """Connections whose TLS handshakes are done; ``used``: each has served a request before the next is made."""
    made: list[Wire] = []
    try:
        for _ in range(count):
            made.append(Wire(proxy))
            if used:
                assert made[-1].ask(signed_post(proxy)).status == 200
        yield made
    finally:
        for wire in made:
            wire.close()


def health(proxy: Proxy) -> set[str]:
    """What GetHealthStatus says of the HSMs of the key store `dev` (R-HLTH-*)."""
    with Wire(proxy) as wire:
        details = wire.ask(signed_post(proxy)).body["ekmFleetDetails"]
    return {instance["healthStatus"] for instance in details}
