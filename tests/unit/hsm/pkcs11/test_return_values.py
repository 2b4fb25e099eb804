"""What return values mean, by preset."""

import msgspec
import pytest

from xksproxy.config.model import Hsm
from xksproxy.hsm.pkcs11 import return_values
from xksproxy.hsm.pkcs11.presets import PRESETS, quirks_of
from xksproxy.hsm.pkcs11.return_values import ErrorClass

HSM = Hsm(id="hsm", module="module", token="token")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("code", [0x040, 0x041, 0x042])
def test_the_standards_codes_of_a_wrong_tag_mean_it_everywhere_but_only_from_decrypt(preset: str, code: int) -> None:
    quirks = PRESETS[preset]

    assert return_values.error_class(quirks, "C_Decrypt", code) is ErrorClass.CIPHERTEXT_REJECTED
    assert return_values.error_class(quirks, "C_DecryptInit", code) is ErrorClass.TOKEN_UNAVAILABLE


@pytest.mark.parametrize(
    ("preset", "code", "error_class"),
    [
        ("softhsm2", 0x005, ErrorClass.AMBIGUOUS),
        ("softhsm2", 0x006, ErrorClass.TOKEN_UNAVAILABLE),
        ("nss", 0x005, ErrorClass.TOKEN_UNAVAILABLE),
        ("nshield", 0x006, ErrorClass.AMBIGUOUS),
        ("cloudhsm", 0x006, ErrorClass.BUSY),
        ("cloudhsm", 0x090, ErrorClass.BUSY),
        ("luna", 0x090, ErrorClass.SESSION_LOST),
        ("generic", 0x80000001, ErrorClass.TOKEN_UNAVAILABLE),
    ],
)
def test_what_a_code_of_decrypt_means_depends_on_the_module(preset: str, code: int, error_class: ErrorClass) -> None:
    assert return_values.error_class(PRESETS[preset], "C_Decrypt", code) is error_class


def test_settings_by_hand_override_the_preset() -> None:
    hsm = msgspec.structs.replace(
        HSM,
        preset="cloudhsm",
        iv="caller",
        busy_codes=("CKR_DEVICE_MEMORY",),
        rejected_ciphertext_codes=("0x80000007",),
    )

    quirks = quirks_of(hsm)

    assert (quirks.iv, quirks.busy, quirks.rejected) == ("caller", frozenset({0x031}), frozenset({0x80000007}))
    assert quirks.maximum_data_bytes == PRESETS["cloudhsm"].maximum_data_bytes


@pytest.mark.parametrize("code", ["CKR_NO_SUCH_CODE", "5", "", "0xgg"])
def test_a_code_that_is_none_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match=r"PKCS#11"):
        return_values.number(code)


def test_every_code_has_a_name_or_a_number() -> None:
    assert return_values.name(0x030) == "CKR_DEVICE_ERROR"
    assert return_values.name(0x80000001) == "CK_RV 0x80000001"
