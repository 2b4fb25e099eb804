"""Signatures, their age and their credentials (R-AUTH-*)."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from xksproxy.sigv4.keyring import Credential
from xksproxy.spec.errors import AuthenticationFailedException
from xksproxy.spec.limits import CLOCK_SKEW_SECONDS
from xksproxy.spec.uri import Operation
from xksproxy_tools.conformance.check import Check, Level
from xksproxy_tools.conformance.expectations import expect_error, expect_success
from xksproxy_tools.conformance.http_connection import HttpResponse
from xksproxy_tools.conformance.messages import Message, Sealed, decryption, encryption, metadata_only
from xksproxy_tools.conformance.outcome import expect, required
from xksproxy_tools.conformance.requests import Request, Signer, timestamp
from xksproxy_tools.conformance.subject import Subject

_HOUR: Final = 3600.0
_DAY: Final = 86400.0
_CLOCK_TOLERANCE: Final = 15.0
"""Seconds by which this clock and the proxy's may differ before a check at the limit of 300 s is wrong."""

_UNKNOWN_ID: Final = "XKSPROXYCONFORMANCEUNKNOWN"


def _message(operation: Operation) -> Message:
    """A valid message, because a proxy may check the message before the signature."""
    match operation:
        case Operation.ENCRYPT:
            return encryption(b"plaintext")
        case Operation.DECRYPT:
            return decryption(Sealed(b"ciphertext", iv=bytes(12), tag=bytes(16)))
        case _:
            return metadata_only(operation)


def _request(subject: Subject, operation: Operation = Operation.GET_KEY_METADATA) -> Request:
    """A complete request without a signature."""
    return subject.request(subject.path(operation), _message(operation))


def _expect_refused(response: HttpResponse, when: str) -> None:
    expect_error(response, AuthenticationFailedException, when=when)


def _expect_accepted(subject: Subject, signer: Signer, when: str) -> None:
    expect_success(subject.send(subject.sign(_request(subject), signer=signer)), when)


def _with_secret(credential: Credential, secret: str) -> Credential:
    return Credential(credential.access_key_id, secret)


# --- The header


def _no_header(subject: Subject) -> None:
    for operation in Operation:
        _expect_refused(subject.send(_request(subject, operation)), f"{operation.value} without any signature")
        dated = subject.sign(_request(subject, operation)).without_header("Authorization")
        _expect_refused(subject.send(dated), f"{operation.value} with X-Amz-Date alone")


def _malformed(header: str) -> Iterator[tuple[str, str]]:
    """Malformed headers with their descriptions."""
    algorithm, rest = header.split(" ", 1)
    credential, names, signature = rest.split(", ")
    yield "an empty header", ""
    yield "another scheme", "Bearer abcdefghijklmnopqrstuvwxyz"
    yield "the algorithm alone", algorithm
    yield "another algorithm", f"AWS4-HMAC-SHA1 {rest}"
    yield "no algorithm", rest
    yield "no Credential", f"{algorithm} {names}, {signature}"
    yield "no SignedHeaders", f"{algorithm} {credential}, {signature}"
    yield "no Signature", f"{algorithm} {credential}, {names}"
    yield "an empty Signature", f"{algorithm} {credential}, {names}, Signature="
    yield "half a Signature", f"{header[:-32]}"
    yield "a Signature that is not hexadecimal", f"{algorithm} {credential}, {names}, Signature={'z' * 64}"
    yield "a scope without its end", header.replace("/aws4_request", "")
    yield "a Credential without scope", f"{algorithm} {credential.partition('/')[0]}, {names}, {signature}"
    yield "empty SignedHeaders", f"{algorithm} {credential}, SignedHeaders=, {signature}"
    yield "a signed header that is missing", header.replace("host;", "host;x-absent;")


def _malformed_header(subject: Subject) -> None:
    signed = subject.sign(_request(subject))
    for what, header in _malformed(signed.header("Authorization")):
        _expect_refused(subject.send(signed.with_header("Authorization", header)), what)


def _malformed_date(subject: Subject) -> None:
    """The signature is correct; only the form of the date is wrong."""
    good = subject.sign(_request(subject))
    _expect_refused(subject.send(good.without_header("X-Amz-Date")), "no X-Amz-Date")
    date = good.header("X-Amz-Date")
    for text in ("", "now", date[:8], date[:-1], f"{date[:8]}T999999Z", f"{date[:4]}-{date[4:6]}-{date[6:]}"):
        request = _request(subject).with_header("X-Amz-Date", text)
        signer = replace(subject.signer, date=date[:8])
        signed = request.with_header("Authorization", signer.authorization(request))
        _expect_refused(subject.send(signed), f"X-Amz-Date {text!r}")


def _header_case(subject: Subject) -> None:
    """Header names are case-insensitive, in HTTP as in SigV4."""
    signed = subject.sign(_request(subject))
    for change in (str.lower, str.upper):
        headers = tuple((change(name), value) for name, value in signed.headers)
        expect_success(subject.send(replace(signed, headers=headers)), f"header names in {change.__name__} case")


def _more_signed_headers(subject: Subject) -> None:
    """With the headers that curl signs, and with header values that must be trimmed."""
    curl = replace(subject.signer, signed_headers=("content-type", "host", "x-amz-date"))
    _expect_accepted(subject, curl, "content-type is signed too")
    request = _request(subject).with_header("User-Agent", "  conformance check  ").with_header("Accept", "*/*")
    names = ("accept", "content-length", "content-type", "host", "user-agent", "x-amz-date")
    signed = subject.sign(request, signer=replace(subject.signer, signed_headers=names))
    expect_success(subject.send(signed), "six signed headers, one with blanks around its value")


# --- Credentials


def _unknown_id(subject: Subject) -> None:
    for access_key_id in (_UNKNOWN_ID, f"INVALID{subject.target.credential.access_key_id}"[:30]):
        credential = Credential(access_key_id, subject.target.credential.secret_access_key)
        _for_all_apis(subject, credential, "an unknown access key id")


def _wrong_secret(subject: Subject) -> None:
    secret = f"Invalid{subject.target.credential.secret_access_key}"
    _for_all_apis(subject, _with_secret(subject.target.credential, secret), "a wrong secret access key")


def _for_all_apis(subject: Subject, credential: Credential, when: str) -> None:
    signer = replace(subject.signer, credential=credential)
    for operation in Operation:
        signed = subject.sign(_request(subject, operation), signer=signer)
        _expect_refused(subject.send(signed), f"{when}, {operation.value}")


def _two_credentials(subject: Subject) -> None:
    second = required(subject.second_credential, "--second-credential-file")
    for number in range(6):
        credential = second if number % 2 else subject.target.credential
        _expect_accepted(subject, replace(subject.signer, credential=credential), f"the credentials in turn, {number}")


def _crossed_pair(subject: Subject) -> None:
    second = required(subject.second_credential, "--second-credential-file")
    first = subject.target.credential
    for one, other in ((first, second), (second, first)):
        crossed = _with_secret(one, other.secret_access_key)
        signed = subject.sign(_request(subject), signer=replace(subject.signer, credential=crossed))
        _expect_refused(subject.send(signed), "one credential's id with the other's secret")


def _other_store(subject: Subject) -> None:
    other = required(subject.other_store, "--other-path")
    mine, theirs = subject.signer, replace(subject.signer, credential=other.credential)
    path = subject.path(Operation.GET_HEALTH_STATUS)
    other_path = path.replace(subject.target.path_prefix, other.path_prefix, 1)
    message = metadata_only(Operation.GET_HEALTH_STATUS)
    expect_success(subject.send(subject.sign(subject.request(other_path, message), signer=theirs)), "the other store")
    for target, signer in ((path, theirs), (other_path, mine)):
        signed = subject.sign(subject.request(target, message), signer=signer)
        _expect_refused(subject.send(signed), f"a credential of another key store at {target}")


# --- What is signed


def _changed_signature(subject: Subject) -> None:
    signed = subject.sign(_request(subject))
    header = signed.header("Authorization")
    for position in (1, 8, 32, 64):
        digit = "1" if header[-position] == "0" else "0"
        changed = header[:-position] + digit + header[len(header) - position + 1 :]
        _expect_refused(
            subject.send(signed.with_header("Authorization", changed)), "one digit of the signature changed"
        )


def _replayed(change: Callable[[Subject, Request], Iterator[tuple[str, Request]]]) -> Callable[[Subject], None]:
    """A check that sends a signed request, and then changed requests with the same signature."""

    def run(subject: Subject) -> None:
        # The message of Encrypt is valid for GetKeyMetadata too, which accepts unknown members.
        path = subject.path(Operation.GET_KEY_METADATA)
        signed = subject.sign(subject.request(path, encryption(b"plaintext")))
        expect_success(subject.send(signed), "as it was signed")
        for what, changed in change(subject, signed):
            _expect_refused(subject.send(changed), what)

    return run


def _other_body(_: Subject, signed: Request) -> Iterator[tuple[str, Request]]:
    yield "another body", signed.with_body(signed.body.replace(b"user/conformance", b"user/somebodyelse"))
    yield "a body with one more blank", signed.with_body(signed.body + b" ")


def _other_path(subject: Subject, signed: Request) -> Iterator[tuple[str, Request]]:
    yield "the path of another API", replace(signed, target=subject.path(Operation.ENCRYPT))


def _other_date(_: Subject, signed: Request) -> Iterator[tuple[str, Request]]:
    date = signed.header("X-Amz-Date")
    digit = "1" if date[-2] == "0" else "0"
    yield "another X-Amz-Date", signed.with_header("X-Amz-Date", f"{date[:-2]}{digit}Z")


def _other_scope(subject: Subject, signed: Request) -> Iterator[tuple[str, Request]]:
    header, region = signed.header("Authorization"), subject.target.region
    yield "another Region in the scope", signed.with_header("Authorization", header.replace(region, "xx-conform-1"))


def _other_host(subject: Subject) -> str:
    """A load balancer in front of the proxy may refuse the name, so any refusal passes."""
    request = subject.sign(_request(subject)).with_header("Host", f"other.{subject.target.authority}")
    response = subject.send(request)
    expect(400 <= response.status < 500, "a refusal of another Host than the signed one", response)  # noqa: PLR2004
    return f"answered {response.status}"


# --- Time


def _stale(subject: Subject) -> None:
    for late_by in (_HOUR, _DAY, -_HOUR, -_DAY):
        _expect_late(subject, late_by)


def _beyond_the_skew(subject: Subject) -> None:
    for late_by in (CLOCK_SKEW_SECONDS + _CLOCK_TOLERANCE, -CLOCK_SKEW_SECONDS - _CLOCK_TOLERANCE):
        _expect_late(subject, late_by)


def _expect_late(subject: Subject, late_by: float) -> None:
    response = subject.send(subject.sign(_request(subject), late_by=late_by))
    _expect_refused(response, f"signed {abs(late_by):g} s {'ago' if late_by > 0 else 'ahead'}")


def _within_the_skew(subject: Subject) -> str:
    for late_by in (CLOCK_SKEW_SECONDS - _CLOCK_TOLERANCE, _CLOCK_TOLERANCE - CLOCK_SKEW_SECONDS):
        response = subject.send(subject.sign(_request(subject), late_by=late_by))
        expect_success(response, f"signed {abs(late_by):g} s {'ago' if late_by > 0 else 'ahead'}")
    return f"by this machine's clock, to within {_CLOCK_TOLERANCE:g} s"


# --- Hardening


def _scope_service(subject: Subject) -> None:
    for service in ("kms", "execute-api"):
        signed = subject.sign(_request(subject), signer=replace(subject.signer, service=service))
        _expect_refused(subject.send(signed), f"signed for the service {service}")


def _scope_terminator(subject: Subject) -> None:
    signed = subject.sign(_request(subject), signer=replace(subject.signer, terminator="aws5_request"))
    _expect_refused(subject.send(signed), "signed for aws5_request")


def _scope_date(subject: Subject) -> None:
    signed = subject.sign(_request(subject))
    date = timestamp(0)[:8]
    signer = replace(subject.signer, date=date)
    again = signed.with_header("Authorization", signer.authorization(signed))
    _expect_refused(subject.send(again), f"the scope's date is {date}, that of X-Amz-Date is today")


def _must_be_signed(subject: Subject) -> None:
    for names in (("x-amz-date",), ("host",), ("content-type",)):
        signed = subject.sign(_request(subject), signer=replace(subject.signer, signed_headers=names))
        _expect_refused(subject.send(signed), f"only {', '.join(names)} is signed")


def _one_answer(subject: Subject) -> None:
    credential = subject.target.credential
    unknown = replace(subject.signer, credential=Credential(_UNKNOWN_ID, credential.secret_access_key))
    wrong = replace(subject.signer, credential=_with_secret(credential, "A" * 43))
    request = _request(subject)
    answers = {
        "unknown id": subject.send(subject.sign(request, signer=unknown)),
        "wrong secret": subject.send(subject.sign(request, signer=wrong)),
        "stale": subject.send(subject.sign(request, late_by=_HOUR)),
    }
    bodies = {
        cause: expect_error(answer, AuthenticationFailedException, when=cause) for cause, answer in answers.items()
    }
    messages = {cause: str(body.get("errorMessage")) for cause, body in bodies.items()}
    expect(len(set(messages.values())) == 1, "one answer for every cause", messages)


def _nothing_about_keys(subject: Subject) -> None:
    operation = Operation.GET_KEY_METADATA
    bodies = []
    for key_id in (subject.keys.usable, subject.keys.absent):
        response = subject.send(subject.request(subject.path(operation, key_id), metadata_only(operation)))
        bodies.append(expect_error(response, AuthenticationFailedException, when=f"unsigned, for {key_id}"))
    same = bodies[0].get("errorMessage") == bodies[1].get("errorMessage")
    expect(same, "one answer whether the key exists or not", bodies)


CHECKS: Final[tuple[Check, ...]] = (
    Check("auth-none", ("R-AUTH-1", "R-AUTH-2"), Level.MUST, "All APIs refuse unsigned requests", _no_header),
    Check("auth-malformed", ("R-AUTH-2",), Level.MUST, "A malformed header is refused", _malformed_header),
    Check("auth-malformed-date", ("R-AUTH-2",), Level.MUST, "X-Amz-Date must be there, and a time", _malformed_date),
    Check("auth-header-case", ("R-AUTH-8",), Level.MUST, "The case of header names does not matter", _header_case),
    Check("auth-more-headers", ("R-AUTH-8",), Level.MUST, "More headers may be signed", _more_signed_headers),
    Check("auth-unknown-id", ("R-AUTH-2",), Level.MUST, "All APIs refuse an unknown access key id", _unknown_id),
    Check("auth-wrong-secret", ("R-AUTH-1",), Level.MUST, "All APIs refuse a wrong secret", _wrong_secret),
    Check("auth-two-credentials", ("R-AUTH-11",), Level.SHOULD, "Two credentials work side by side", _two_credentials),
    Check("auth-crossed-pair", ("R-AUTH-5",), Level.MUST, "An id is valid only with its own secret", _crossed_pair),
    Check("auth-other-store", ("R-AUTH-13",), Level.SHOULD, "Another key store's credential is refused", _other_store),
    Check("auth-signature", ("R-AUTH-1",), Level.MUST, "A changed signature is refused", _changed_signature),
    Check("auth-body", ("R-AUTH-1",), Level.MUST, "The body is signed", _replayed(_other_body)),
    Check("auth-path", ("R-AUTH-1",), Level.MUST, "The path is signed", _replayed(_other_path)),
    Check("auth-date", ("R-AUTH-1", "R-AUTH-9"), Level.MUST, "X-Amz-Date is signed", _replayed(_other_date)),
    Check("auth-host", ("R-AUTH-1",), Level.MUST, "Host is signed", _other_host),
    Check("auth-scope", ("R-AUTH-1",), Level.MUST, "The credential scope is signed", _replayed(_other_scope)),
    Check("auth-stale", ("R-AUTH-9",), Level.MUST, "A request of an hour ago, or ahead, is refused", _stale),
    Check("auth-skew-beyond", ("R-AUTH-10",), Level.SHOULD, "Just beyond 300 s is refused", _beyond_the_skew),
    Check("auth-skew-within", ("R-AUTH-10",), Level.SHOULD, "Just within 300 s is accepted", _within_the_skew),
    Check("auth-scope-service", ("R-AUTH-13",), Level.SHOULD, "The scope names kms-xks-proxy", _scope_service),
    Check("auth-scope-terminator", ("R-AUTH-13",), Level.SHOULD, "The scope ends in aws4_request", _scope_terminator),
    Check("auth-scope-date", ("R-AUTH-13",), Level.SHOULD, "The scope's date is that of X-Amz-Date", _scope_date),
    Check("auth-required-headers", ("R-AUTH-13",), Level.SHOULD, "Host and X-Amz-Date must be signed", _must_be_signed),
    Check("auth-one-answer", ("R-AUTH-13",), Level.SHOULD, "The response does not reveal the cause", _one_answer),
    Check(
        "auth-keys-hidden",
        ("R-AUTH-13",),
        Level.SHOULD,
        "Without a signature, nothing is revealed about keys",
        _nothing_about_keys,
    ),
)
