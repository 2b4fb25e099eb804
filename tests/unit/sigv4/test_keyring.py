"""Credentials (R-AUTH-3 to R-AUTH-7) and the signing keys derived from them (R-AUTH-11, R-AUTH-13)."""

import base64
import copy
import dataclasses
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.sigv4.botocore_oracle import CREDENTIALS

from xksproxy.sigv4.authorization import CredentialScope
from xksproxy.sigv4.canonical import derive_signing_key
from xksproxy.sigv4.keyring import Credential, Keyring, generate_credential, recorded_access_key_id

FIRST = Credential("A" * 20, "first" + "s" * 40)
SECOND = Credential("B" * 20, "second" + "s" * 40)
SCOPE = CredentialScope("20240515", "us-east-1")
UNKNOWN = "UNKNOWNUNKNOWNUNKNOWN"


def scopes(count: int) -> list[CredentialScope]:
    return [CredentialScope("20240515", f"region-{number}") for number in range(count)]


@pytest.fixture
def derivations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The secrets that signing keys are derived from, as it happens."""
    seen: list[str] = []

    def counted(secret: str, scope: CredentialScope) -> bytes:
        seen.append(secret)
        return derive_signing_key(secret, scope)

    monkeypatch.setattr("xksproxy.sigv4.keyring.derive_signing_key", counted)
    return seen


# What KMS takes for a credential.


@given(credential=CREDENTIALS)
def test_every_credential_of_the_legal_form_has_no_problem_r_auth_3_r_auth_4(credential: Credential) -> None:
    assert credential.problem() is None


@pytest.mark.parametrize("length", [20, 30])
def test_the_shortest_and_the_longest_access_key_id_are_legal_r_auth_3(length: int) -> None:
    assert Credential("A" * length, "s" * 43).problem() is None


@pytest.mark.parametrize("length", [43, 64])
def test_the_shortest_and_the_longest_secret_are_legal_r_auth_4(length: int) -> None:
    assert Credential("A" * 20, "s" * length).problem() is None


@pytest.mark.parametrize(
    "access_key_id",
    ["", "A" * 19, "A" * 31, *("A" * 20 + wrong for wrong in "a0189-_+/= \n\t\u00c4\uff21")],
)
def test_an_access_key_id_that_kms_refuses_is_a_problem_r_auth_3(access_key_id: str) -> None:
    problem = Credential(access_key_id, "s" * 43).problem()

    assert problem == "the access key id must have 20 to 30 characters of A-Z and 2-7"


@pytest.mark.parametrize("secret", ["", "s" * 42, "s" * 65, *("s" * 43 + wrong for wrong in "-_ \n\t.\u00e4\uff21")])
def test_a_secret_that_kms_refuses_is_a_problem_that_does_not_quote_it_r_auth_4(secret: str) -> None:
    problem = Credential("A" * 20, secret).problem()

    assert problem == "the secret access key must have 43 to 64 characters of A-Z a-z 0-9 + / ="


# New credentials.


def test_new_credentials_are_legal_and_of_full_length_r_auth_4() -> None:
    for _ in range(200):
        credential = generate_credential()
        assert credential.problem() is None
        assert re.fullmatch(r"[A-Z2-7]{26}", credential.access_key_id)
        assert len(base64.b64decode(credential.secret_access_key, validate=True)) == 48


def test_new_credentials_are_all_different_and_use_their_whole_alphabets() -> None:
    made = [generate_credential() for _ in range(200)]

    assert len({credential.access_key_id for credential in made}) == len(made)
    assert len({credential.secret_access_key for credential in made}) == len(made)
    assert set("".join(credential.access_key_id for credential in made)) == set(string.ascii_uppercase + "234567")
    assert set("".join(credential.secret_access_key for credential in made)) == set(
        string.ascii_letters + string.digits + "+/"
    )


# Secrets stay secret.


@given(credential=CREDENTIALS)
def test_no_text_of_a_credential_or_a_keyring_shows_the_secret_r_auth_7(credential: Credential) -> None:
    keyring = Keyring([credential])
    keyring.keep(SCOPE)

    for shown in (repr(credential), str(credential), f"{[credential]}", repr(keyring), str(keyring)):
        assert credential.secret_access_key not in shown
        assert keyring._dummy_secret not in shown


def test_a_credential_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        copy.copy(FIRST).secret_access_key = "other"  # type: ignore[misc]


# The keyring.


def test_a_signing_key_is_that_of_its_scope_also_from_the_cache() -> None:
    keyring = Keyring([FIRST])
    wanted = [SCOPE, CredentialScope("20240516", "us-east-1"), CredentialScope("20240515", "us-east-2")]

    for scope in (*wanted, *wanted):
        key, _ = keyring.signing_key(FIRST.access_key_id, scope)
        assert key == derive_signing_key(FIRST.secret_access_key, scope)
        keyring.keep(scope)


def test_an_unknown_id_gets_a_key_that_is_not_of_any_credential() -> None:
    keyring = Keyring([FIRST, SECOND])

    key, known = keyring.signing_key(UNKNOWN, SCOPE)

    assert not known
    assert len(key) == 32
    assert key not in {keyring.signing_key(credential.access_key_id, SCOPE)[0] for credential in (FIRST, SECOND)}


def test_each_keyring_has_a_random_dummy_secret() -> None:
    dummies = {Keyring([FIRST])._dummy_secret for _ in range(50)}

    assert len(dummies) == 50
    assert all(len(dummy) == 64 for dummy in dummies)


@pytest.mark.parametrize("asked", [FIRST.access_key_id, SECOND.access_key_id, UNKNOWN])
def test_in_a_scope_without_a_right_signature_every_id_costs_one_derivation_each_time_r_auth_13(
    asked: str, derivations: list[str]
) -> None:
    keyring = Keyring([FIRST, SECOND])

    for times in (1, 2, 3):
        keyring.signing_key(asked, SCOPE)
        assert len(derivations) == times


def test_in_a_scope_that_is_kept_no_id_costs_a_derivation_r_auth_13(derivations: list[str]) -> None:
    keyring = Keyring([FIRST, SECOND])
    keyring.keep(SCOPE)
    assert sorted(derivations) == sorted([FIRST.secret_access_key, SECOND.secret_access_key, keyring._dummy_secret])

    for access_key_id in (FIRST.access_key_id, SECOND.access_key_id, UNKNOWN, "OTHER"):
        keyring.signing_key(access_key_id, SCOPE)
    assert len(derivations) == 3


def test_no_more_than_16_scopes_are_kept() -> None:
    keyring = Keyring([FIRST])

    for scope in scopes(40):
        keyring.keep(scope)
        assert len(keyring._cache) <= 16

    assert list(keyring._cache) == scopes(40)[-16:]


def test_16_scopes_in_turn_are_derived_once_each(derivations: list[str]) -> None:
    keyring = Keyring([FIRST])

    for scope in scopes(16) * 3:
        keyring.keep(scope)

    assert derivations.count(FIRST.secret_access_key) == 16


def test_a_scope_in_use_outlasts_any_number_of_others(derivations: list[str]) -> None:
    keyring = Keyring([FIRST])

    for scope in scopes(100):
        keyring.keep(SCOPE)
        keyring.keep(scope)

    assert derivations.count(FIRST.secret_access_key) == 101


def test_requests_of_made_up_regions_displace_nothing_and_cost_the_same_with_any_number_of_credentials(
    derivations: list[str],
) -> None:
    keyring = Keyring([FIRST, SECOND, *(Credential(f"ID{number:018}", "s" * 43) for number in range(100))])
    keyring.keep(SCOPE)
    derivations.clear()

    for scope in scopes(50):
        keyring.signing_key(UNKNOWN, scope)
    assert len(derivations) == 50

    keyring.signing_key(FIRST.access_key_id, SCOPE)
    assert len(derivations) == 50


@given(st.lists(CREDENTIALS, max_size=4, unique_by=lambda pair: pair.access_key_id), st.text(max_size=30))
def test_an_id_is_known_exactly_if_a_credential_has_it(credentials: list[Credential], other: str) -> None:
    keyring = Keyring(credentials)
    ids = [credential.access_key_id for credential in credentials]

    for access_key_id in (*ids, other):
        assert keyring.signing_key(access_key_id, SCOPE)[1] == (access_key_id in ids) == (access_key_id in keyring)


@pytest.mark.parametrize(
    ("claimed", "recorded"),
    [
        ("A" * 20, "A" * 20),
        ("ABCDEFGHIJKLMNOPQRSTUVWXYZ2345", "ABCDEFGHIJKLMNOPQRSTUVWXYZ2345"),
        ("A" * 31, "AAAA… of 31 characters"),
        ("s3cretSecretSecretSecretSecretSecretSecret12", "s3cr… of 44 characters"),
        ("abc", "abc… of 3 characters"),
    ],
)
def test_a_claimed_access_key_id_of_another_form_is_not_recorded(claimed: str, recorded: str) -> None:
    # A client that mixes the two up sends its secret as its id.
    assert recorded_access_key_id(claimed) == recorded
