"""What an HSM answers to a wrong tag, when the settings are tested."""

from itertools import count
from typing import cast

import pytest

from xksproxy.config.model import Hsm
from xksproxy.hsm.errors import SettingsMismatch, TokenUnavailable
from xksproxy.hsm.instance.gcm_calls import GcmCalls
from xksproxy.hsm.instance.self_test import SelfTest
from xksproxy.hsm.keys import Sealed
from xksproxy.hsm.pkcs11.calls_inside import CallsInside
from xksproxy.hsm.pkcs11.cryptoki import CryptokiError
from xksproxy.hsm.pkcs11.presets import quirks_of

DEVICE_ERROR, SESSION_HANDLE_INVALID, ENCRYPTED_DATA_INVALID = 0x30, 0xB3, 0x40


class Device:
    """Answers a wrong tag with one return value after another, the last one again and again; None: it accepts it."""

    def __init__(self, *to_wrong_tag: int | None) -> None:
        self._answers = list(to_wrong_tag)
        self._numbers = count(1)

    def draw(self, length: int) -> bytes:
        return bytes(length)

    def encrypt(self, _: int, plaintext: bytes, __: bytes) -> Sealed:
        number = next(self._numbers).to_bytes(12, "big")
        return Sealed(number, number + plaintext, bytes(16))

    def decrypt(self, _: int, sealed: Sealed, __: bytes) -> bytes:
        if any(sealed.tag):
            answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
            if answer is not None:
                raise CryptokiError("C_Decrypt", answer)
        return sealed.ciphertext[12:]


def check(device: Device) -> None:
    hsm = Hsm(id="hsm", module="m", token="t", preset="generic")
    calls_inside = CallsInside()
    tested = SelfTest(None, cast(GcmCalls, device), quirks_of(hsm), calls_inside, require_present=lambda: None)
    tested._key_handle = 1
    tested.check_settings()


@pytest.mark.parametrize(
    "answers", [(ENCRYPTED_DATA_INVALID,), (DEVICE_ERROR, ENCRYPTED_DATA_INVALID), (DEVICE_ERROR,) * 2 + (0x40,)]
)
def test_a_device_that_fails_in_passing_is_no_wrong_setting(answers: tuple[int, ...]) -> None:
    check(Device(*answers))


def test_an_answer_that_the_settings_do_not_name_is_a_wrong_setting_if_it_comes_each_time() -> None:
    with pytest.raises(SettingsMismatch, match=r"CKR_DEVICE_ERROR.*ambiguous_codes"):
        check(Device(DEVICE_ERROR))


def test_a_lost_session_is_no_wrong_setting() -> None:
    with pytest.raises(TokenUnavailable):
        check(Device(SESSION_HANDLE_INVALID))


def test_a_wrong_tag_that_is_accepted_is_a_wrong_setting_although_the_device_failed_before() -> None:
    with pytest.raises(SettingsMismatch, match="wrong tag was accepted"):
        check(Device(DEVICE_ERROR, None))
