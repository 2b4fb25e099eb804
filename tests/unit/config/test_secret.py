"""Secrets by reference, and that no text of theirs gives them away."""

import contextlib
import errno
import logging
import os
import pprint
import socket
import stat
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from access_lists import let

from xksproxy.config import secret
from xksproxy.config.held_secrets import copy_pins, hold_secrets, pin_files, refresh_pins
from xksproxy.config.load import load_config
from xksproxy.config.model import Config, Hsm
from xksproxy.config.pins import read_pin
from xksproxy.config.secret import Secret, SecretError, SecretReference, access_problem, read_secret, write_private_file
from xksproxy.config.service_user import ServiceUser

_PIN = "sesame-4711"
_USER = ServiceUser(1000, frozenset({1000, 2000}))


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


def test_a_secret_cannot_be_encoded_by_mistake() -> None:
    with pytest.raises(TypeError):
        msgspec.json.encode({"pin": Secret(_PIN)})


def test_the_text_of_a_configuration_with_an_inline_pin_does_not_hold_it(
    minimal: str, written: Callable[..., Path]
) -> None:
    config = load_config(written(minimal.replace('{ file = "pin" }', f'"{_PIN}"'), 0o600))

    assert _PIN not in _texts(config.hsm[0])
    assert _PIN not in _texts(config)


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
def test_a_file_gives_its_content_without_the_final_line_break(put: Callable[..., Path], ending: bytes) -> None:
    path = put(_PIN.encode() + ending)

    assert read_secret(SecretReference(file=str(path))).reveal() == _PIN


def test_inner_blanks_and_letters_of_any_script_belong_to_the_secret(put: Callable[..., Path]) -> None:
    path = put("p w\tключ\n".encode())

    assert read_secret(SecretReference(file=str(path))).reveal() == "p w\tключ"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_file_for_owner_and_group_is_accepted(put: Callable[..., Path], mode: int) -> None:
    assert read_secret(SecretReference(file=str(put(mode=mode)))).reveal() == _PIN


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o644, 0o620, 0o610])
def test_a_file_that_others_can_read_or_its_group_can_write_is_refused(put: Callable[..., Path], mode: int) -> None:
    path = put(mode=mode)

    assert _refusal(SecretReference(file=str(path))).startswith(f"{path}: its mode is {mode:04o}")


def _status(uid: int, gid: int, mode: int) -> os.stat_result:
    return os.stat_result((stat.S_IFREG | mode, 1, 1, 1, uid, gid, 1, 0, 0, 0))


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize(("gid", "mode"), [(3000, 0o600), (3000, 0o400), (2000, 0o440), (1000, 0o640)])
def test_a_secret_belongs_to_root_or_the_service_and_is_read_by_its_groups_alone(
    put: Callable[..., Path], uid: int, gid: int, mode: int
) -> None:
    assert access_problem(put(), _status(uid, gid, mode), _USER) is None


@pytest.mark.parametrize(
    ("uid", "gid", "mode", "problem"),
    [
        (1001, 1000, 0o600, "it belongs to user 1001"),
        (0, 3000, 0o640, "group 3000 can read it"),
        (0, 3000, 0o440, "group 3000 can read it"),
    ],
)
def test_a_secret_of_another_user_or_group_is_refused(
    put: Callable[..., Path], uid: int, gid: int, mode: int, problem: str
) -> None:
    assert problem in str(access_problem(put(), _status(uid, gid, mode), _USER))


def test_a_secret_that_an_acl_lets_others_read_is_refused(put: Callable[..., Path]) -> None:
    path = put()
    os.chown(path, -1, os.getegid())
    let(path, 4, user=54321)

    assert "its ACL lets user 54321 read it" in str(access_problem(path, path.stat(), ServiceUser.current()))


def test_a_missing_file_or_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir(0o700)

    assert _refusal(SecretReference(file=str(tmp_path / "none"))).endswith("none: No such file or directory")
    assert "it is a directory; expected a regular file" in _refusal(SecretReference(file=str(tmp_path / "directory")))


@pytest.mark.timeout(10)
def test_a_pipe_a_socket_and_a_device_are_refused_by_name_and_at_once(tmp_path: Path) -> None:
    pipe, link, address = tmp_path / "pipe", tmp_path / "link", tmp_path / "socket"
    os.mkfifo(pipe, 0o600)
    link.symlink_to(pipe)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(address))
        kinds = {pipe: "a named pipe (FIFO)", link: "a named pipe (FIFO)", address: "a socket"}
        kinds[Path("/dev/zero")] = "a device"
        for path, kind in kinds.items():
            refusal = _refusal(SecretReference(file=str(path)))

            assert refusal.startswith(f"{path}: it is {kind}; expected a regular file, or {{ env = ")


@pytest.mark.timeout(10)
def test_a_pipe_that_is_open_as_a_file_descriptor_is_refused() -> None:
    reader, writer = os.pipe()
    try:
        assert "a named pipe" in _refusal(SecretReference(file=f"/dev/fd/{reader}"))
    finally:
        os.close(reader)
        os.close(writer)


def test_a_systemd_credential_is_a_regular_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pin", 0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))

    assert "a named pipe" in _refusal(SecretReference(credential="pin"))


def test_a_secret_has_a_maximum_length(put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    longest, longer = b"x" * 65536, b"x" * 65537
    monkeypatch.setenv("XKSPROXY_TEST_PIN", longer.decode())

    assert len(read_secret(SecretReference(file=str(put(longest)))).reveal()) == 65536
    assert "more than 65536 bytes" in _refusal(SecretReference(file=str(put(longer))))
    assert "more than 65536 bytes" in _refusal(SecretReference(env="XKSPROXY_TEST_PIN"))


_NOT_MEANT = [
    ("\ufeff" + _PIN, "byte-order mark"),
    (f" {_PIN}", "a blank or a line break at its beginning or end"),
    (f"{_PIN} ", "a blank or a line break at its beginning or end"),
    (f"{_PIN}\n\n", "a blank or a line break at its beginning or end"),
    (f"{_PIN}\r\r\n", "a blank or a line break at its beginning or end"),
    (f"{_PIN}\t\n", "a blank or a line break at its beginning or end"),
    (f"{_PIN}\u00a0", "a blank or a line break at its beginning or end"),
    ("\n", "it is empty"),
]


@pytest.mark.parametrize(("text", "reason"), _NOT_MEANT)
def test_unintended_characters_are_refused_in_every_source(
    put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    path = put(text.encode())
    monkeypatch.setenv("XKSPROXY_TEST_PIN", text)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))

    for source in ({"file": str(path)}, {"env": "XKSPROXY_TEST_PIN"}, {"credential": "pin"}):
        assert reason in _refusal(SecretReference(**source))
    with pytest.raises(SecretError, match=reason):
        read_pin(Hsm(id="a", module="/m", token="t", pin=text))


@pytest.mark.parametrize("content", ["\ufeff1234".encode("utf-16-le"), b"\xfe\xff\x001", b"12\x0034"])
def test_other_encodings_and_a_nul_are_refused(put: Callable[..., Path], content: bytes) -> None:
    assert any(reason in _refusal(SecretReference(file=str(put(content)))) for reason in ("byte-order mark", "NUL"))


def test_a_pin_has_a_smaller_maximum_length(put: Callable[..., Path]) -> None:
    for length, fits in ((4096, True), (4097, False)):
        hsm = Hsm(id="a", module="/m", token="t", pin=SecretReference(file=str(put(b"x" * length))))
        with contextlib.nullcontext() if fits else pytest.raises(SecretError, match="more than 4096 bytes"):
            read_pin(hsm)


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_variable_gives_its_value_without_the_final_line_break(monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    # As Kubernetes secrets made by echo have it.
    monkeypatch.setenv("XKSPROXY_TEST_PIN", f"{_PIN}{ending}")

    assert read_secret(SecretReference(env="XKSPROXY_TEST_PIN")).reveal() == _PIN


def test_a_variable_that_is_not_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XKSPROXY_TEST_PIN", os.fsdecode(b"sesame\xff"))

    assert _refusal(SecretReference(env="XKSPROXY_TEST_PIN")).endswith("it is not UTF-8 text")


def test_a_held_secret_is_read_once_and_again_when_its_source_changes(sound: Config, tmp_path: Path) -> None:
    held = hold_secrets(sound)
    (tmp_path / "pin").unlink()

    assert _pin(held) == "content"
    with pytest.raises(SecretError):
        refresh_pins(held)
    assert _pin(held) == "content"

    (tmp_path / "pin").write_text("another")
    (tmp_path / "pin").chmod(0o600)
    refresh_pins(held)

    assert _pin(held) == "another"
    assert pin_files(held) == (str(tmp_path / "pin"),)


def test_the_pin_of_a_newly_loaded_configuration_reaches_who_holds_the_old_one(sound: Config, tmp_path: Path) -> None:
    old = hold_secrets(sound)
    (tmp_path / "pin").write_text("another")
    new = hold_secrets(sound)

    assert (old, _pin(old), _pin(new)) == (new, "content", "another")
    copy_pins(new, old)

    assert _pin(old) == "another"
    assert "another" not in _texts(old)


def _pin(config: Config) -> str:
    pin = read_pin(config.hsm[0])
    assert pin is not None
    return pin.reveal()


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


def test_the_name_of_a_systemd_credential_leads_to_no_other_file(
    put: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    readable_by_all = put(_PIN.encode(), 0o644)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(readable_by_all.parent))

    for name in (str(readable_by_all), f"../{readable_by_all.parent.name}/pin", "./pin", "..", ""):
        assert "expected the name of a systemd credential, which is no path" in _refusal(
            SecretReference(credential=name)
        )


@pytest.mark.parametrize("directory", [None, ""])
def test_a_systemd_credential_outside_of_a_unit_is_refused(
    monkeypatch: pytest.MonkeyPatch, directory: str | None
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    if directory is not None:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", directory)

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


def test_what_a_killed_process_left_of_a_secret_is_removed_by_the_next_one(tmp_path: Path) -> None:
    left, younger, other = (
        tmp_path / name for name in (f".{'0a' * 8}.partial", f".{'1b' * 8}.partial", ".mine.partial")
    )
    for path in (left, younger, other):
        path.write_text("secret")
    for path in (left, other):
        os.utime(path, (1.0, 1.0))

    write_private_file(tmp_path / "new", "text")

    assert {path.name for path in tmp_path.iterdir()} == {"new", younger.name, other.name}


def test_a_file_whose_directory_cannot_be_synced_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(secret, "sync_directory", fail)

    with pytest.raises(OSError, match="Input/output error"):
        write_private_file(tmp_path / "new", "text")

    assert list(tmp_path.iterdir()) == []
