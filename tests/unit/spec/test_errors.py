"""The error table (R-ERR-1) and the form of an error message (R-ERR-2)."""

import copy
import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from xksproxy.spec import errors
from xksproxy.spec.errors import (
    AccessDeniedException,
    AuthenticationFailedException,
    DependencyTimeoutException,
    InternalException,
    InvalidCiphertextException,
    InvalidKeyUsageException,
    InvalidStateException,
    InvalidUriPathException,
    KeyNotFoundException,
    MethodNotAllowed,
    ThrottlingException,
    UnsupportedOperationException,
    ValidationException,
    XksError,
)

TABLE = {
    ValidationException: ("ValidationException", 400),
    InvalidStateException: ("InvalidStateException", 400),
    InvalidCiphertextException: ("InvalidCiphertextException", 400),
    InvalidKeyUsageException: ("InvalidKeyUsageException", 400),
    AuthenticationFailedException: ("AuthenticationFailedException", 401),
    AccessDeniedException: ("AccessDeniedException", 403),
    KeyNotFoundException: ("KeyNotFoundException", 404),
    InvalidUriPathException: ("InvalidUriPathException", 404),
    ThrottlingException: ("ThrottlingException", 429),
    InternalException: ("InternalException", 500),
    UnsupportedOperationException: ("UnsupportedOperationException", 501),
    DependencyTimeoutException: ("DependencyTimeoutException", 503),
}


@pytest.mark.parametrize(("error_type", "name_and_status"), TABLE.items(), ids=[name for name, _ in TABLE.values()])
def test_each_error_has_the_name_and_the_status_of_the_table_r_err_1(
    error_type: type[XksError], name_and_status: tuple[str, int]
) -> None:
    error = error_type("why")

    assert (error.name, error.http_status) == name_and_status


def test_there_is_no_error_outside_of_the_table_but_the_405_r_err_1() -> None:
    defined = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, XksError) and value is not XksError
    }

    assert defined == TABLE.keys() | {MethodNotAllowed}


def test_a_405_borrows_a_name_that_kms_knows_r_uri_5_r_err_4() -> None:
    error = MethodNotAllowed("why")

    assert error.http_status == 405
    assert error.name in {name for name, _ in TABLE.values()}


@given(st.text(max_size=1500))
@example("x" * 511)
@example("x" * 512)
@example("\u20ac" * 512)
@example("\x00\x1f\x20\x7e\x7f\x80\r\n\t")
@example("\U0001f511" * 600)
@example("\ud800")
def test_a_message_is_printable_ascii_of_fewer_than_512_characters_r_err_2(text: str) -> None:
    message = ValidationException(text).message

    assert len(message) < 512
    assert all(0x20 <= ord(character) <= 0x7E for character in message)


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=511))
@example("x" * 511)
def test_a_message_that_fits_is_kept_as_it_is(text: str) -> None:
    error = InternalException(text)

    assert error.message == text
    assert str(error) == text


def test_a_message_that_is_too_long_ends_in_dots() -> None:
    assert InternalException("x" * 512).message == "x" * 508 + "..."


def test_other_characters_of_a_message_become_question_marks() -> None:
    assert InternalException("line\nbreak, \u00fcmlaut, \x7f").message == "line?break, ?mlaut, ?"


def test_the_detail_is_for_the_log_alone() -> None:
    error = InternalException("told", detail="kept \u2026\n")

    assert error.detail == "kept \u2026\n"
    assert "kept" not in f"{error} {error!r} {error.message}"


def test_every_authentication_failure_has_one_message_r_auth_13() -> None:
    one, other = AuthenticationFailedException("unknown id"), AuthenticationFailedException("wrong secret")

    assert one.message == other.message == str(one)
    assert (one.detail, other.detail) == ("unknown id", "wrong secret")
    assert "unknown" not in one.message


@pytest.mark.parametrize("error", [InternalException("told", detail="kept"), AuthenticationFailedException("kept")])
def test_an_error_survives_being_copied_and_pickled(error: XksError) -> None:
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(again) is type(error)
        assert (again.message, again.detail) == (error.message, error.detail)
