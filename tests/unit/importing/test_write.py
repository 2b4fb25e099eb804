"""The directory: what the plan says, private, whole or not at all."""

import stat
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from importing_support import ACCESS_KEY_ID, PIN, SECRET, SETTINGS
from msgspec.structs import replace as replace_struct

from xksproxy.config.credentials import load_credentials
from xksproxy.config.load import load_config
from xksproxy.config.secret import SecretReference, read_secret
from xksproxy.importing import write
from xksproxy.importing.findings import to_do
from xksproxy.importing.plan import Plan, make_plan
from xksproxy.importing.render import render_config
from xksproxy.importing.settings import read_settings
from xksproxy.importing.write import write_plan

MakePlan = Callable[..., Plan]


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _load(text: str, directory: Path) -> object:
    (directory / "xksproxy.toml").write_text(text, "utf-8")
    return load_config(directory / "xksproxy.toml")


def _expected(plan: Plan, directory: Path) -> object:
    """The plan's configuration as it is loaded: with its relative paths counted from the directory."""
    config, tls = plan.config, plan.config.server.tls
    tls = replace_struct(
        tls,
        certificate=str(directory / tls.certificate),
        private_key=str(directory / tls.private_key),
        client_ca=tls.client_ca and str(directory / tls.client_ca),
    )
    return replace_struct(
        config,
        server=replace_struct(config.server, tls=tls),
        hsm=(replace_struct(config.hsm[0], pin=SecretReference(file=str(directory / "pin"))),),
        keystore=tuple(
            replace_struct(store, credentials=str(directory / store.credentials)) for store in config.keystore
        ),
    )


@pytest.mark.parametrize(
    "changes",
    [
        (),
        (("is_tls_enabled = true", "is_tls_enabled = false"), ("is_mtls_enabled = false", "is_mtls_enabled = true")),
        (
            ("[tls]", '[tls]\nmtls_client_ca_pem = "a"\nmtls_client_dns_name = "b"'),
            ("mtls_enabled = false", "mtls_enabled = true"),
        ),
        (("port = 8443", 'port = 80\nciphertext_metadata_b64 = "djE="'), ("192.0.2.7", "::1")),
        (("can_generate_iv = false", "can_generate_iv = true"), ('["key-b", "key-a"]', '["a", "a.v2"]')),
    ],
)
def test_the_file_says_exactly_what_the_plan_says(
    plan: MakePlan, tmp_path: Path, changes: tuple[tuple[str, str], ...]
) -> None:
    made = plan(*changes)

    assert _load(render_config(made), tmp_path) == _expected(made, tmp_path)


@example('\x7f\x1b[0m\n\r\u2028\u0085"\\\\#')
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: "\0" not in text))
def test_no_text_breaks_out_of_its_value_or_comment(text: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        settings = directory / "settings.toml"
        settings.write_text(SETTINGS, "utf-8")
        made = make_plan(read_settings(settings), Path("/srv"), text)
        (store,) = made.config.keystore
        store = replace_struct(store, uri_path_prefix=text)
        config = replace_struct(made.config, keystore=(store,))
        made = replace(made, config=config, findings=(to_do("x", text, "hsm[0].token"),))

        assert _load(render_config(made), directory) == _expected(made, directory)


def test_a_task_is_a_comment_above_its_key(plan: MakePlan) -> None:
    lines = render_config(plan(token=None)).splitlines()

    index = next(number for number, line in enumerate(lines) if line.startswith("token = "))
    comment = [line for line in lines[index - 4 : index] if line.startswith("# TO DO: The sample used the first slot")]
    assert len(comment) == 1


def test_files_are_private_and_hold_what_they_should(plan: MakePlan, tmp_path: Path) -> None:
    files = write_plan(plan(), tmp_path / "deep" / "out")

    out = tmp_path / "deep" / "out"
    assert files == ("xksproxy.toml", "pin", f"credentials/payments-eu/{ACCESS_KEY_ID}.toml")
    assert {_mode(out / file) for file in files} == {0o600}
    assert {_mode(path) for path in (out, out / "credentials", out / "credentials/payments-eu")} == {0o700}
    assert read_secret(SecretReference(file=str(out / "pin"))).reveal() == PIN
    (credential,) = load_credentials(out / "credentials/payments-eu")
    assert (credential.access_key_id, credential.secret_access_key) == (ACCESS_KEY_ID, SECRET)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("pin", ["ü€😀", "user:pass word", '"quoted" \\ #', "a\tb"])
def test_a_pin_is_written_unchanged(plan: MakePlan, tmp_path: Path, pin: str) -> None:
    escaped = pin.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")

    write_plan(plan((f'"{PIN}"', f'"{escaped}"')), tmp_path / "out")

    assert read_secret(SecretReference(file=str(tmp_path / "out/pin"))).reveal() == pin


def test_without_a_credential_its_directory_is_empty_and_without_a_pin_there_is_no_file(
    plan: MakePlan, tmp_path: Path
) -> None:
    files = write_plan(plan((ACCESS_KEY_ID, ""), (PIN, "")), tmp_path / "out")

    assert files == ("xksproxy.toml",)
    assert list((tmp_path / "out/credentials/payments-eu").iterdir()) == []
    assert not (tmp_path / "out/pin").exists()


def test_an_empty_directory_is_used(plan: MakePlan, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(0o755)

    write_plan(plan(), tmp_path / "out")

    assert _mode(tmp_path / "out") == 0o700


@pytest.mark.parametrize("kind", ["full", "file", "link", "dangling"])
def test_nothing_that_is_there_is_ever_overwritten(plan: MakePlan, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "full":
        out.mkdir()
        (out / "xksproxy.toml").write_text("mine")
    elif kind == "file":
        out.write_text("mine")
    else:
        (tmp_path / "elsewhere").mkdir()
        out.symlink_to(tmp_path / ("elsewhere" if kind == "link" else "nowhere"))
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(FileExistsError):
        write_plan(plan(), out)

    # The settings file was written by the plan's fixture.
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "settings.toml"] == before


def test_a_directory_that_fills_meanwhile_is_not_overwritten(
    plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, fill = tmp_path / "out", write._fill

    def slow_fill(directory: Path, plan: Plan) -> tuple[str, ...]:
        (out / "sub").mkdir(parents=True)
        return fill(directory, plan)

    monkeypatch.setattr(write, "_fill", slow_fill)

    with pytest.raises(OSError, match="not empty"):
        write_plan(plan(), out)

    assert [path.name for path in out.iterdir()] == ["sub"]
    assert {path.name for path in tmp_path.iterdir()} == {"out", "settings.toml"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_no_files(
    plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: object) -> Path:
        raise error

    monkeypatch.setattr(write, "save_credential", fail)

    with pytest.raises(type(error)):
        write_plan(plan(), tmp_path / "out")

    assert [path.name for path in tmp_path.iterdir()] == ["settings.toml"]
