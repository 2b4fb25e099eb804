"""Secrets by reference, and that no text of theirs gives them away."""

import logging
import pprint
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from xksproxy.config.load import load_config
from xksproxy.config.model import Hsm
from xksproxy.config.secret import Secret, SecretError, SecretReference, read_private_file, read_secret

_PIN = "sesame-4711"


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Write a file that holds a secret."""

    def write(content: bytes = _PIN.encode(), mode: int = 0o600) -> Path:
        path = tmp_path / "pin"
        path.write_bytes(content)
        path.chmod(mode)
        return path

    return write


def _texts(value: object) -> str:
    """The ways in which a value comes into a message."""
    record = logging.LogRecord("x", logging.INFO, "", 0, "%s %r", (value, value), None)
    return "\n".join(
        (f"{value} {value!r} {value!s} {value!a} {[value]} {(value,)}", pprint.pformat(value), record.getMessage())
    )


def _refusal(reference: SecretReference) -> str:
    with pytest.raises(SecretError) as caught:
        read_secret(reference)
    assert _PIN not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def test_a_secret_reveals_itself_only_when_asked_to() -> None:
    secret = Secret(_PIN)

    assert secret.reveal() == _PIN
    assert _PIN not in _texts(secret)
    assert f"{secret}" == repr(secret) == "<secret>"
    assert not hasattr(secret, "__dict__")


def test_a_secret_inside_a_dataclass_or_a_dictionary_stays_hidden() -> None:
    @dataclass
    class Holder:
        pin: Secret

    assert _PIN not in _texts(Holder(Secret(_PIN)))
    assert _PIN not in _texts({"pin": Secret(_PIN)})


def test_a_secret_cannot_be_encoded_by_mistake() -> None:
    with pytest.raises(TypeError):
        msgspec.json.encode({"pin": Secret(_PIN)})


def test_an_error_while_a_secret_is_at_hand_does_not_tell_it() -> None:
    secret = Secret(_PIN)
    with pytest.raises(KeyError) as caught:
        {}[secret]

    assert _PIN not in "".join(traceback.format_exception(caught.value))


def test_the_text_of_a_configuration_with_references_does_not_hold_the_secret(
    put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XKSPROXY_TEST_PIN", _PIN)
    for reference in (SecretReference(env="XKSPROXY_TEST_PIN"), SecretReference(file=str(put()))):
        hsm = Hsm(id="a", module="/m", token="t", pin=reference)

        assert read_secret(reference).reveal() == _PIN
        assert _PIN not in _texts(reference)
        assert _PIN not in _texts(hsm)


def test_the_text_of_a_configuration_with_an_inline_pin_does_not_hold_it(
    minimal: str, written: Callable[..., Path]
) -> None:
    config = load_config(written(minimal.replace('{ file = "pin" }', f'"{_PIN}"'), 0o600))

    assert _PIN not in _texts(config.hsm[0])
    assert _PIN not in _texts(config)


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"\n\n"])
def test_a_file_gives_its_content_without_the_final_line_break(put: Callable[..., Path], ending: bytes) -> None:
    path = put(_PIN.encode() + ending)

    assert read_secret(SecretReference(file=str(path))).reveal() == _PIN


def test_blanks_and_letters_of_any_script_belong_to_the_secret(put: Callable[..., Path]) -> None:
    path = put(" p w\tключ \n".encode())

    assert read_secret(SecretReference(file=str(path))).reveal() == " p w\tключ "


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_file_for_owner_and_group_is_accepted(put: Callable[..., Path], mode: int) -> None:
    assert read_secret(SecretReference(file=str(put(mode=mode)))).reveal() == _PIN


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o644, 0o666, 0o777])
def test_a_file_open_to_others_is_refused(put: Callable[..., Path], mode: int) -> None:
    path = put(mode=mode)

    assert _refusal(SecretReference(file=str(path))).startswith(f"{path}: its mode is {mode:04o}")


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610])
def test_where_the_group_is_excluded_too_a_file_open_to_it_is_refused(put: Callable[..., Path], mode: int) -> None:
    path = put(mode=mode)

    with pytest.raises(SecretError, match=f"its mode is {mode:04o}"):
        read_private_file(path, group_may_read=False)


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n\n"])
def test_an_empty_file_is_refused(put: Callable[..., Path], content: bytes) -> None:
    path = put(content)

    assert _refusal(SecretReference(file=str(path))) == f"{path}: it is empty"


def test_a_file_that_is_not_text_is_refused_without_its_content(put: Callable[..., Path]) -> None:
    path = put(_PIN.encode() + b"\xff")

    assert _refusal(SecretReference(file=str(path))) == f"{path}: it is not UTF-8 text"


def test_a_missing_file_or_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir(0o700)

    assert _refusal(SecretReference(file=str(tmp_path / "none"))).endswith("none: No such file or directory")
    assert _refusal(SecretReference(file=str(tmp_path / "directory"))).endswith("directory: Is a directory")


def test_a_variable_gives_its_value_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XKSPROXY_TEST_PIN", f" {_PIN}\n")

    assert read_secret(SecretReference(env="XKSPROXY_TEST_PIN")).reveal() == f" {_PIN}\n"


def test_a_variable_that_is_empty_or_not_set_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("", None):
        monkeypatch.delenv("XKSPROXY_TEST_PIN", raising=False)
        if value is not None:
            monkeypatch.setenv("XKSPROXY_TEST_PIN", value)

        refusal = _refusal(SecretReference(env="XKSPROXY_TEST_PIN"))

        assert refusal == "the environment variable XKSPROXY_TEST_PIN is not set"


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o444])
def test_a_systemd_credential_is_read_from_the_directory_that_systemd_made(
    put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    # systemd guards the directory itself, and chooses the modes of the files.
    path = put(_PIN.encode() + b"\n", mode)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))

    assert read_secret(SecretReference(credential="pin")).reveal() == _PIN


def test_a_systemd_credential_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    assert _refusal(SecretReference(credential="none")) == f"{tmp_path / 'none'}: No such file or directory"


def test_a_systemd_credential_outside_of_a_unit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)

    assert _refusal(SecretReference(credential="pin")).startswith("CREDENTIALS_DIRECTORY is not set")


@pytest.mark.parametrize(
    "reference",
    [
        SecretReference(),
        SecretReference(file="/a", env="A"),
        SecretReference(file="/a", credential="a"),
        SecretReference(env="A", credential="a"),
        SecretReference(file="/a", env="A", credential="a"),
    ],
)
def test_a_reference_leads_to_exactly_one_place(reference: SecretReference) -> None:
    assert _refusal(reference).startswith("expected exactly one of")
