"""Generators that repeat themselves."""

import os

import pytest

from xksproxy.hsm.errors import GeneratorFailed
from xksproxy.hsm.pkcs11.generator_check import GeneratorCheck, IvHistory


def test_draws_that_differ_are_accepted() -> None:
    check = GeneratorCheck()
    for length in (48, 768, 48, 768):
        check.require_new(os.urandom(length), 12)


@pytest.mark.parametrize("later", [48, 768, 12])
def test_a_draw_that_begins_as_the_one_before_is_refused(later: int) -> None:
    check, stream = GeneratorCheck(), os.urandom(768)
    check.require_new(stream[:48], 12)

    with pytest.raises(GeneratorFailed):
        check.require_new(stream[:later], 12)


@pytest.mark.parametrize("draw", [bytes(48), b"\xff" * 48, b"twelve bytes" * 4, b"\0" * 12])
def test_a_draw_that_is_constant_or_repeats_itself_is_refused(draw: bytes) -> None:
    with pytest.raises(GeneratorFailed):
        GeneratorCheck().require_new(draw, 12)


def test_an_iv_is_used_once_for_a_key() -> None:
    history = IvHistory()
    history.require_new("key", b"1" * 12)
    history.require_new("another key", b"1" * 12)

    with pytest.raises(GeneratorFailed):
        history.require_new("key", b"1" * 12)


def test_the_last_1024_ivs_of_a_key_are_remembered() -> None:
    history = IvHistory()
    for number in range(1025):
        history.require_new("key", number.to_bytes(12, "big"))

    history.require_new("key", (0).to_bytes(12, "big"))
    with pytest.raises(GeneratorFailed):
        history.require_new("key", (2).to_bytes(12, "big"))
