"""What can be meant as a PIN."""

from pathlib import Path

import pytest

from xksproxy.config.model import Hsm
from xksproxy.config.pins import read_pin
from xksproxy.config.secret import SecretError, SecretReference


def in_file(path: Path, content: str) -> Hsm:
    path.write_bytes(content.encode())
    path.chmod(0o600)
    return Hsm(id="hsm", module="m", token="t", pin=SecretReference(file=str(path)))


def in_variable(name: str, content: str, monkeypatch: pytest.MonkeyPatch) -> Hsm:
    monkeypatch.setenv(name, content)
    return Hsm(id="hsm", module="m", token="t", pin=SecretReference(env=name))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("4711\n0815\n", "it has 2 lines; a PIN is one line"),
        ("4711\r\n\r\n0815", "it has 3 lines"),
        ("4711\u20280815", "it has 2 lines"),
        ("4711\x850815", "it has 2 lines"),
        ("4711\t0815", "it has a control character"),
        ("\x1b[200~4711", "it has a control character"),
        ("47\x7f11", "it has a control character"),
        ("4711\u200b", "it has an invisible character (zero width space)"),
        ("4711\ufeff", "it has an invisible character (zero width no-break space)"),
        ("\u202a4711", "it has an invisible character (left-to-right embedding)"),
    ],
)
def test_a_pin_with_a_line_break_a_control_or_an_invisible_character_is_refused_without_quoting_it(
    content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inline = Hsm(id="hsm", module="m", token="t", pin=content.removesuffix("\n"))
    named = {
        str(tmp_path / "pin"): in_file(tmp_path / "pin", content),
        "the environment variable PIN_OF_TEST": in_variable("PIN_OF_TEST", content, monkeypatch),
        "the text": inline,
    }
    for source, hsm in named.items():
        with pytest.raises(SecretError) as raised:
            read_pin(hsm)

        assert str(raised.value).startswith(f"{source}: {message}")
        assert "4711" not in str(raised.value).replace(source, "")


@pytest.mark.parametrize("pin", ["user:pass word", "pässwörd-密码", "üñí çödé", "0000"])
def test_any_other_text_may_be_a_pin(pin: str, tmp_path: Path) -> None:
    read = read_pin(in_file(tmp_path / "pin", f"{pin}\n"))

    assert read is not None
    assert read.reveal() == pin
