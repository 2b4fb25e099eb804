"""Several HSMs on one token: none of them costs another one a try of its PIN."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fault_support import FaultyHsm, with_second_token

from xksproxy.config.model import Hsm
from xksproxy.config.pins import read_pin
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.state.usage import UsageBook

Faulty = Callable[..., FaultyHsm]
NAMES = ["token", "serial", "uri", "slot"]

_WORKER = """
import json, sys
from pathlib import Path
import msgspec
from xksproxy.config.model import Hsm
from xksproxy.config.pins import read_pin
from xksproxy.hsm.errors import LoginBarred, LoginRefused
from xksproxy.hsm.pkcs11.modules import Modules
from xksproxy.hsm.pkcs11.pin_guard import PinGuard
from xksproxy.state.usage import UsageBook
state, hsms = Path(sys.argv[1]), {hsm.id: hsm for hsm in msgspec.json.decode(sys.argv[2], type=list[Hsm])}
modules, failures = Modules(PinGuard(state), UsageBook(state), hsms.values()), {}
for hsm_id in json.loads(sys.argv[3]):
    try:
        modules.connect(hsms[hsm_id], read_pin(hsms[hsm_id]))
    except (LoginBarred, LoginRefused) as error:
        failures[hsm_id] = str(error)
    else:
        modules.log_out(hsms[hsm_id])
print(json.dumps(failures))
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir(0o700)
    return tmp_path / "state"


@pytest.fixture
def look(state: Path) -> Modules:
    """For what this process looks up on a token."""
    return Modules(PinGuard(state), UsageBook(state))


def named(faulty: FaultyHsm, look: Modules, name: str, **changes: Any) -> Hsm:
    """The token of an HSM, called by another of its attributes."""
    connection = look.connect(msgspec.structs.replace(faulty.hsm, id="looks", pin=None), None)
    ways = {
        "token": {"token": faulty.hsm.token},
        "serial": {"serial": connection.info.serial},
        "uri": {"uri": f"pkcs11:model=SoftHSM%20v2;serial={connection.info.serial}"},
        "slot": {"uri": f"pkcs11:slot-id={connection.slot}"},
    }
    return msgspec.structs.replace(faulty.hsm, **{"token": None, **ways[name], **changes})


def tries(state: Path, hsms: Sequence[Hsm], order: Sequence[Hsm]) -> dict[str, str]:
    """Connect HSMs of a configuration in some order in a process of its own: the error of each, by its id."""
    arguments = [str(state), *(msgspec.json.encode(part).decode() for part in (hsms, [hsm.id for hsm in order]))]
    done = subprocess.run([sys.executable, "-c", _WORKER, *arguments], check=True, capture_output=True)
    failures: dict[str, str] = json.loads(done.stdout)
    return failures


@pytest.mark.parametrize(("first_name", "second_name"), [*permutations(NAMES, 2)])
def test_the_hsm_with_another_pin_is_refused_by_name_before_c_login_also_if_it_connects_first(
    make_faulty: Faulty, state: Path, look: Modules, first_name: str, second_name: str
) -> None:
    faulty = make_faulty()
    first = named(faulty, look, first_name, id="first")
    second = named(faulty, look, second_name, id="second", pin="wrong-pin")
    faulty.tell("note C_Login")

    failures = tries(state, [first, second], [second, first, second])

    assert set(failures) == {"second"}
    assert failures["second"].startswith("HSM first is on the same token")
    assert "wrong-pin" not in failures["second"]
    assert faulty.noted_calls() == 1


def test_the_first_hsm_does_not_try_another_pin_than_the_one_that_its_token_accepted(
    make_faulty: Faulty, state: Path, look: Modules
) -> None:
    faulty = make_faulty()
    good = named(faulty, look, "serial", id="good")
    bad = msgspec.structs.replace(faulty.hsm, id="bad", pin="wrong-pin")
    assert tries(state, [good], [good]) == {}
    faulty.tell("note C_Login")

    failures = tries(state, [bad, good], [bad, good])

    assert set(failures) == {"bad"}
    assert failures["bad"].startswith("HSM good is on the same token")
    assert faulty.noted_calls() == 1


def test_two_sources_of_one_pin_are_one_pin(make_faulty: Faulty, state: Path, look: Modules) -> None:
    faulty = make_faulty()
    pin = read_pin(faulty.hsm)
    assert pin is not None
    second = named(faulty, look, "serial", id="second", pin=pin.reveal())

    assert tries(state, [faulty.hsm, second], [second, faulty.hsm]) == {}


def test_a_wrong_pin_is_tried_once_by_whatever_path_of_the_module_and_name_of_the_token(
    make_faulty: Faulty, state: Path, look: Modules, tmp_path: Path
) -> None:
    faulty = make_faulty(pin="wrong-pin")
    link = tmp_path / "link.so"
    link.symlink_to(faulty.hsm.module)
    second = named(faulty, look, "slot", id="second", module=str(link))
    faulty.tell("note C_Login")
    for hsms in ([faulty.hsm, second], [faulty.hsm, msgspec.structs.replace(second, id="third")]):
        assert len(tries(state, hsms, hsms)) == 2

    assert faulty.noted_calls() == 1


def test_another_token_of_the_module_has_its_own_pin(make_faulty: Faulty, state: Path) -> None:
    faulty = make_faulty()
    second = with_second_token(faulty).hsm

    assert tries(state, [faulty.hsm, second], [second, faulty.hsm]) == {}


def test_an_hsm_whose_name_two_tokens_have_does_not_bar_another_one(
    make_faulty: Faulty, state: Path, look: Modules
) -> None:
    faulty = make_faulty()
    by_serial = named(faulty, look, "serial", id="by-serial")
    by_label = msgspec.structs.replace(faulty.hsm, id="by-label", pin="4321")
    with_second_token(faulty)
    faulty.tell(f"label {faulty.hsm.token}")

    assert tries(state, [by_label, by_serial], [by_serial]) == {}
