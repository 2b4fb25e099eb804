"""Two [[hsm]] that name one token must have one PIN, whatever the token is called and wherever the PIN is."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from xksproxy.config.check import check_config
from xksproxy.config.model import Config
from xksproxy.config.secret import SecretReference

URI = "pkcs11:token=production"
SAME = "hsm[1].pin: second names the same token as first; expected the same PIN"


def problems(sound: Config, first: dict[str, Any], second: dict[str, Any], secrets: Any = "all") -> list[str]:
    base = replace(sound.hsm[0], token=None, pin="1234")
    hsms = replace(base, **{"id": "first", **first}), replace(base, **{"id": "second", **second})
    return [item for item in check_config(replace(sound, hsm=hsms), secrets) if item.startswith("hsm[1]")]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"token": "production"}, {"token": "production"}),
        ({"token": "production"}, {"uri": URI}),
        ({"token": "production "}, {"uri": URI}),
        ({"token": "production"}, {"token": "production", "serial": "7"}),
        ({"uri": f"{URI};serial=7"}, {"serial": "7"}),
        ({"uri": f"{URI};slot-id=3"}, {"uri": "pkcs11:slot-id=3"}),
        ({"serial": "7"}, {"serial": "7"}),
    ],
)
def test_another_pin_for_a_token_is_refused_in_whichever_way_the_two_name_it(
    sound: Config, first: dict[str, Any], second: dict[str, Any]
) -> None:
    assert problems(sound, first, {**second, "pin": "9999"}) == [SAME]
    assert problems(sound, second, {**first, "pin": "9999"}) == [SAME]
    assert problems(sound, first, second) == []


@pytest.mark.parametrize(
    "second", [{"token": "other"}, {"serial": "7"}, {"uri": "pkcs11:slot-id=3"}, {"uri": "pkcs11:token=other;serial=7"}]
)
def test_names_that_only_the_token_can_tell_apart_may_have_two_pins(sound: Config, second: dict[str, Any]) -> None:
    assert problems(sound, {"token": "production"}, {**second, "pin": "9999"}) == []


def test_two_files_with_one_pin_are_no_problem_and_two_with_two_pins_are(sound: Config, tmp_path: Path) -> None:
    references = []
    for name in ("one", "two"):
        (tmp_path / name).write_text("4321\n")
        (tmp_path / name).chmod(0o600)
        references.append(SecretReference(file=str(tmp_path / name)))
    first, second = ({"token": "production", "pin": reference} for reference in references)

    assert problems(sound, first, second) == []
    (tmp_path / "two").write_text("1234\n")
    assert problems(sound, first, second) == [SAME]
    assert problems(sound, first, second, "none") == []


def test_two_paths_of_one_module_are_one_module(sound: Config, tmp_path: Path) -> None:
    link = tmp_path / "link.so"
    link.symlink_to(sound.hsm[0].module)
    second = {"token": "production", "module": str(link)}

    assert problems(sound, {"token": "production"}, {**second, "pin": "9999"}) == [SAME]
    assert problems(sound, {"token": "production"}, {**second, "environment": {"A": "b"}}) == [
        "hsm[1].environment: differs from another [[hsm]] with the same module; expected the same"
    ]
