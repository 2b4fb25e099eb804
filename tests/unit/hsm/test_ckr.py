"""What return values mean, by preset."""

import msgspec
import pytest

from xksproxy.config.model import Hsm
from xksproxy.hsm import ckr
from xksproxy.hsm.ckr import Consequence
from xksproxy.hsm.presets import PRESETS, quirks_of

HSM = Hsm(id="hsm", module="module", token="token")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("code", [0x040, 0x041, 0x042])
def test_the_standards_codes_of_a_wrong_tag_mean_it_everywhere_but_only_from_decrypt(preset: str, code: int) -> None:
    quirks = PRESETS[preset]

    assert ckr.consequence(quirks, "C_Decrypt", code) is Consequence.CIPHERTEXT_REJECTED
    assert ckr.consequence(quirks, "C_DecryptInit", code) is Consequence.TOKEN_UNAVAILABLE


@pytest.mark.parametrize(
    ("preset", "code", "consequence"),
    [
        ("softhsm2", 0x005, Consequence.AMBIGUOUS),
        ("softhsm2", 0x006, Consequence.TOKEN_UNAVAILABLE),
        ("nss", 0x005, Consequence.TOKEN_UNAVAILABLE),
        ("nshield", 0x006, Consequence.AMBIGUOUS),
        ("cloudhsm", 0x006, Consequence.BUSY),
        ("cloudhsm", 0x090, Consequence.BUSY),
        ("luna", 0x090, Consequence.SESSION_LOST),
        ("generic", 0x80000001, Consequence.TOKEN_UNAVAILABLE),
    ],
)
def test_what_a_code_of_decrypt_means_depends_on_the_module(preset: str, code: int, consequence: Consequence) -> None:
    assert ckr.consequence(PRESETS[preset], "C_Decrypt", code) is consequence


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
        ckr.number(code)


def test_every_code_has_a_name_or_a_number() -> None:
    assert ckr.name(0x030) == "CKR_DEVICE_ERROR"
    assert ckr.name(0x80000001) == "CK_RV 0x80000001"
