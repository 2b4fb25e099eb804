"""Presets: named quirks for kinds of PKCS#11 modules. Each setting can be overridden in ``[[hsm]]``.

softhsm2 and nss are tested on the module itself. cloudhsm, luna, nshield and vault come from the vendors' documents and
are tested on an imitation.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from xksproxy.config.model import Hsm
from xksproxy.hsm.pkcs11 import return_values
from xksproxy.hsm.pkcs11.quirks import Quirks

PRESETS: Final[Mapping[str, Quirks]] = {
    # Measured: every bad tag, IV, AAD or length is CKR_GENERAL_ERROR.
    "softhsm2": Quirks(ambiguous=frozenset({0x005})),
    # Measured: the standard's codes, CKR_ENCRYPTED_DATA_INVALID and CKR_DATA_LEN_RANGE. C_CreateObject refuses data
    # objects of the token with CKR_ATTRIBUTE_VALUE_INVALID.
    "nss": Quirks(data_objects=False),
    # Documented: IV into a zeroed buffer, 16 KB, throttling as CKR_FUNCTION_FAILED also inside a GCM decryption
    # (CKR_OPERATION_ACTIVE in SDK 3). Which code a bad tag has is not documented. Objects are keys only.
    "cloudhsm": Quirks(
        iv="written-back",
        maximum_data_bytes=16384,
        busy=frozenset({0x006, 0x090}),
        ambiguous=frozenset({0x005, 0x030}),
        data_objects=False,
    ),
    # Documented: in FIPS mode, it gets no IV, makes one of 16 bytes and appends it.
    "luna": Quirks(iv="appended", ambiguous=frozenset({0x005, 0x006, 0x030})),
    # Reported: CKR_FUNCTION_FAILED for a bad tag.
    "nshield": Quirks(iv="written-back", ambiguous=frozenset({0x005, 0x006})),
    # Documented: no C_GenerateRandom; failures are CKR_DEVICE_ERROR.
    "vault": Quirks(iv_source="system", ambiguous=frozenset({0x005, 0x030})),
    "generic": Quirks(ambiguous=frozenset({0x005, 0x006})),
}


def quirks_of(hsm: Hsm) -> Quirks:
    """The preset of an ``[[hsm]]`` with the settings that override it.

    Raises:
        ValueError: a return value has a name that is not in PKCS#11.
    """
    quirks = PRESETS[hsm.preset]
    by_hand: dict[str, Any] = {
        "iv": hsm.iv,
        "iv_source": hsm.iv_source,
        "read_write_sessions": hsm.read_write_sessions,
        "initialize_string": hsm.initialize_string,
        "maximum_data_bytes": hsm.maximum_data_bytes,
        "rejected": _codes(hsm.rejected_ciphertext_codes),
        "ambiguous": _codes(hsm.ambiguous_codes),
        "busy": _codes(hsm.busy_codes),
    }
    return replace(quirks, **{name: value for name, value in by_hand.items() if value is not None})


def _codes(names: tuple[str, ...] | None) -> frozenset[int] | None:
    return None if names is None else frozenset(return_values.number(name) for name in names)
