"""What the tests of SigV4 share: requests signed by botocore, which shares no code with us, and ways to draw them."""

import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import strategies as st

from xksproxy.sigv4.canonical import HttpRequest, group_headers
from xksproxy.sigv4.keyring import Credential, Keyring

Lines = Sequence[tuple[str, str]]
"""Header lines as they stand on the wire."""


class _SigV4AuthAt(SigV4Auth):
    """botocore's signer, with a clock that stands still."""

    def __init__(self, credential: Credential, region: str, now: float) -> None:
        keys = Credentials(credential.access_key_id, credential.secret_access_key)
        super().__init__(keys, "kms-xks-proxy", region)
        self._timestamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")

    def _modify_request_before_signing(self, request: AWSRequest) -> None:
        request.context["timestamp"] = self._timestamp
        super()._modify_request_before_signing(request)

    def string_to_sign(self, request: AWSRequest, canonical_request: str) -> str:
        self.canonical_request_signed = canonical_request
        return super().string_to_sign(request, canonical_request)


@dataclass(frozen=True)
class Signed:
    """A request signed by botocore, and with what."""

    credential: Credential
    region: str
    now: int
    path: str
    lines: Lines
    body: bytes
    canonical: str

    @property
    def keyring(self) -> Keyring:
        return Keyring([self.credential])

    @property
    def request(self) -> HttpRequest:
        return HttpRequest("POST", self.path, group_headers(on_the_wire(self.lines)), self.body)

    @property
    def signed_names(self) -> list[str]:
        return self.authorization.split("SignedHeaders=")[1].split(",")[0].split(";")

    @property
    def authorization(self) -> str:
        return dict(self.lines)["Authorization"]

    def with_authorization(self, change: Callable[[str], str]) -> HttpRequest:
        """The request with another Authorization header; changing nothing is a mistake of the test."""
        changed = change(self.authorization)
        assert changed != self.authorization
        return replace(self, lines=_changed(self.lines, "Authorization", [changed])).request

    def with_header(self, name: str, values: Sequence[str]) -> HttpRequest:
        """The request with other values of a header: several make several lines, none removes it."""
        return replace(self, lines=_changed(self.lines, name, values)).request


def on_the_wire(lines: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """Header lines as the HTTP parser hands them on."""
    return [
        (name.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape")) for name, value in lines
    ]


def _changed(lines: Lines, name: str, values: Sequence[str]) -> Lines:
    kept = [line for line in lines if line[0].lower() != name.lower()]
    return [*kept, *((name, value) for value in values)]


def signed_by_botocore(
    credential: Credential, region: str, *, url: str, body: bytes, now: int, headers: Lines = ()
) -> Signed:
    request = AWSRequest("POST", url, data=body)
    for name, value in headers:
        request.headers[name] = value  # which adds a line, even where the name is there already
    signer = _SigV4AuthAt(credential, region, now)
    signer.add_auth(request)
    host = signer.headers_to_sign(request)["host"]
    lines = list(request.headers.items())
    if "host" not in request.headers:
        lines.append(("Host", host))
    return Signed(credential, region, now, urlsplit(url).path, lines, body, signer.canonical_request_signed)


CREDENTIALS = st.builds(
    Credential,
    st.text(string.ascii_uppercase + "234567", min_size=20, max_size=30),
    st.text(string.ascii_letters + string.digits + "+/=", min_size=43, max_size=64),
)
REGIONS = st.sampled_from(["us-east-1", "eu-west-1", "us-gov-west-1", "cn-north-1"]) | st.from_regex(
    r"[a-z]{2}-[a-z]{4,9}-[1-9]", fullmatch=True
)
TIMES = st.integers(1_000_000_000, 4_000_000_000)
BODIES = st.binary(max_size=300)
KEY_IDS = st.text(string.ascii_letters + string.digits + "-._", min_size=1, max_size=128).filter(
    lambda text: text not in {".", ".."}
)
_SEGMENTS = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=12)
PREFIXES = st.lists(_SEGMENTS, max_size=3).map(lambda segments: "".join(f"/{segment}" for segment in segments))
PATHS = st.builds(
    "{}/kms/xks/v1/{}".format,
    PREFIXES,
    st.just("health") | st.builds("keys/{}/{}".format, KEY_IDS, st.sampled_from(["metadata", "encrypt", "decrypt"])),
)
_NAMES = st.from_regex(r"x-[a-z0-9]{1,10}", fullmatch=True) | st.sampled_from(["content-type", "accept", "via"])
_WORDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E) | st.sampled_from("äß€"), max_size=8)
VALUES = st.builds(
    lambda words, blank: blank.join(words),
    st.lists(_WORDS, max_size=4),
    st.sampled_from([" ", "  ", "    "]),
)
_HOSTS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}(\.[a-z]{2,8}){1,3}", fullmatch=True)
_PORTS = st.none() | st.just(443) | st.integers(1, 65535)


def _any_case(name: str) -> st.SearchStrategy[str]:
    return st.sampled_from([name, name.title(), name.upper()])


@st.composite
def signed_requests(draw: st.DrawFn) -> Signed:
    """Requests to any API path with any legal credential, Region, body, time, and more headers than KMS would send."""
    host, port = draw(_HOSTS), draw(_PORTS)
    if port is not None:
        host = f"{host}:{port}"
    headers = [
        (draw(_any_case(name)), value)
        for name, values in draw(st.dictionaries(_NAMES, st.lists(VALUES, min_size=1, max_size=3), max_size=4)).items()
        for value in values
    ]
    if draw(st.booleans()):  # otherwise botocore takes the host from the URL, without port 443
        headers.append(("Host", draw(st.sampled_from([host, host.title()]))))
    return signed_by_botocore(
        draw(CREDENTIALS),
        draw(REGIONS),
        url=f"https://{host}{draw(PATHS)}",
        body=draw(BODIES),
        now=draw(TIMES),
        headers=headers,
    )
