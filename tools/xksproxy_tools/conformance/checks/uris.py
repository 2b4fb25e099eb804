"""Paths, methods and external key ids (R-URI-*)."""

from dataclasses import replace
from typing import Final

from xksproxy.spec.errors import (
    AuthenticationFailedException,
    InvalidCiphertextException,
    InvalidUriPathException,
    KeyNotFoundException,
)
from xksproxy.spec.limits import MAXIMUM_KEY_ID_CHARACTERS
from xksproxy.spec.uri import BASE_PATH, Operation
from xksproxy_tools.conformance.check import Check, Level
from xksproxy_tools.conformance.expectations import expect_error, expect_refusal, expect_success
from xksproxy_tools.conformance.messages import encryption, metadata_only
from xksproxy_tools.conformance.outcome import NotApplicable, expect, required
from xksproxy_tools.conformance.subject import Subject

_NOT_ALLOWED: Final = 405


def _all_four_are_served(subject: Subject) -> None:
    expect_success(
        subject.call(Operation.GET_HEALTH_STATUS, metadata_only(Operation.GET_HEALTH_STATUS)), "GetHealthStatus"
    )
    expect_success(
        subject.call(Operation.GET_KEY_METADATA, metadata_only(Operation.GET_KEY_METADATA)), "GetKeyMetadata"
    )
    subject.open(subject.seal(b"plaintext"))


def _get_is_refused(subject: Subject) -> None:
    for operation in Operation:
        request = replace(subject.request(subject.path(operation), b"").without_header("Content-Length"), method="GET")
        response = subject.send(subject.sign(request))
        expect(response.status == _NOT_ALLOWED, f"405 to a GET of {operation.value}", response)
        # The order of the checks of signature and method is not defined.
        response = subject.send(request)
        refused = response.status in (_NOT_ALLOWED, AuthenticationFailedException.http_status)
        expect(refused, f"405 or 401 to an unsigned GET of {operation.value}", response)


def _unknown_operation(subject: Subject) -> None:
    keys = f"{subject.target.path_prefix}{BASE_PATH}/keys/{subject.keys.usable}"
    for path in (f"{keys}/rotate", f"{keys}/encrypt/more", f"{subject.target.path_prefix}{BASE_PATH}/unknown"):
        response = subject.send(subject.sign(subject.request(path, encryption(b"plaintext"))))
        expect_error(response, InvalidUriPathException, when=path)


def _unknown_prefix(subject: Subject) -> None:
    """As in the public test client: signed with a valid credential."""
    for operation in Operation:
        path = subject.path(operation).replace(BASE_PATH, f"/invalid{BASE_PATH}", 1)
        response = subject.send(subject.sign(subject.request(path, metadata_only(operation))))
        expect_error(response, InvalidUriPathException, when=path)


def _unknown_key(subject: Subject) -> None:
    expect_error(
        subject.call(Operation.GET_KEY_METADATA, metadata_only(Operation.GET_KEY_METADATA), subject.keys.absent),
        KeyNotFoundException,
        when="GetKeyMetadata",
    )
    expect_error(subject.encrypt(b"plaintext", key_id=subject.keys.absent), KeyNotFoundException, when="Encrypt")
    sealed = subject.seal(b"plaintext")
    expect_error(subject.decrypt(sealed, subject.keys.absent), KeyNotFoundException, when="Decrypt")


def _longest_key_id(subject: Subject) -> None:
    """A missing key id with every legal character. The error name shows that the id is legal."""
    alphabet = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._"
    key_id = (alphabet * 2)[:MAXIMUM_KEY_ID_CHARACTERS]
    response = subject.call(Operation.GET_KEY_METADATA, metadata_only(Operation.GET_KEY_METADATA), key_id)
    expect_error(response, KeyNotFoundException, when="an id of 128 characters")


def _other_methods(subject: Subject) -> None:
    operation = Operation.GET_KEY_METADATA
    for method in ("PUT", "DELETE", "PATCH"):
        request = replace(subject.request(subject.path(operation), metadata_only(operation)), method=method)
        response = subject.send(subject.sign(request))
        expect(400 <= response.status < 600, f"a refusal of {method}", response)  # noqa: PLR2004


def _illegal_key_id(subject: Subject) -> str:
    """The catalogue does not define the error (Q-12)."""
    operation = Operation.GET_KEY_METADATA
    seen = set()
    for key_id in ("a" * (MAXIMUM_KEY_ID_CHARACTERS + 1), "a" * 1000, f"{subject.keys.usable}*", "a%20b", "~", "a:b"):
        response = subject.call(operation, metadata_only(operation), key_id)
        seen.add(str(expect_refusal(response, f"the id {key_id[:20]}")["errorName"]))
    return f"answered {' and '.join(sorted(seen))}"


def _keys_apart(subject: Subject) -> None:
    """No other key decrypts a ciphertext."""
    other = required(subject.keys.decrypt_only, "--decrypt-only-key")
    response = subject.decrypt(subject.seal(b"plaintext"), other)
    expect_error(response, InvalidCiphertextException, when="decrypted with another key")


def _case_of_key_ids(subject: Subject) -> None:
    swapped = subject.keys.usable.swapcase()
    if swapped == subject.keys.usable:
        raise NotApplicable("the key's id has no letters")
    response = subject.call(Operation.GET_KEY_METADATA, metadata_only(Operation.GET_KEY_METADATA), swapped)
    expect_error(response, KeyNotFoundException, when=swapped)


CHECKS: Final = (
    Check("uri-all-apis", ("R-URI-1",), Level.MUST, "All four APIs are served as POST", _all_four_are_served),
    Check("uri-get", ("R-URI-5", "R-LB-2"), Level.MUST, "GET on an API URI is answered 405", _get_is_refused),
    Check("uri-other-methods", ("R-URI-1",), Level.SHOULD, "Other methods are refused", _other_methods),
    Check("uri-unknown-operation", ("R-URI-11",), Level.MUST, "A path of no API is invalid", _unknown_operation),
    Check("uri-unknown-prefix", ("R-URI-11",), Level.MUST, "A path of no key store is invalid", _unknown_prefix),
    Check("uri-unknown-key", ("R-URI-7",), Level.MUST, "An unknown key is not found", _unknown_key),
    Check("uri-longest-key-id", ("R-URI-6",), Level.MUST, "An id of 128 characters is looked up", _longest_key_id),
    Check("uri-illegal-key-id", ("R-URI-6",), Level.SHOULD, "An illegal id is refused in JSON", _illegal_key_id),
    Check("uri-keys-apart", ("R-URI-7",), Level.MUST, "Two ids are two keys", _keys_apart),
    Check("uri-key-id-case", ("R-URI-7",), Level.SHOULD, "The case of an id matters", _case_of_key_ids),
)
