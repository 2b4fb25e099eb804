"""Files that somebody else can change: refused with the place and what to do."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from access_lists import let
from msgspec.structs import replace

from xksproxy.config import access_checks
from xksproxy.config.access_checks import access_problems, path_problem
from xksproxy.config.model import Audit, Config
from xksproxy.config.secret import SecretReference
from xksproxy.config.service_user import ServiceUser

_ROOT = ServiceUser(0, frozenset({0}))
_SERVICE = ServiceUser(1000, frozenset({1000, 2000}))

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def whole(sound: Config, tmp_path: Path) -> Config:
    """A configuration that names a file of every kind."""
    (tmp_path / "policies").mkdir(0o755)
    for name, mode in (
        *(("ca.pem", 0o644), ("audit-key", 0o600), ("softhsm2.conf", 0o644), ("policies/a.cedar", 0o644)),
        ("one.cedar", 0o644),
    ):
        (tmp_path / name).write_text("content")
        (tmp_path / name).chmod(mode)
    (tmp_path / "state").mkdir(0o700)
    (tmp_path / "xksproxy.toml").chmod(0o644)
    tls = replace(sound.server.tls, client_ca=str(tmp_path / "ca.pem"))
    policies = (str(tmp_path / "policies"), str(tmp_path / "one.cedar"))
    environment = {"SOFTHSM2_CONF": str(tmp_path / "softhsm2.conf"), "OTHER": "/none", "LEVEL": "info"}
    return replace(
        sound,
        server=replace(sound.server, tls=tls),
        hsm=(replace(sound.hsm[0], environment=environment),),
        keystore=(replace(sound.keystore[0], policies=policies),),
        audit=Audit(chain=True, key=SecretReference(file=str(tmp_path / "audit-key"))),
        state=replace(sound.state, directory=str(tmp_path / "state")),
    )


@pytest.fixture
def problems(whole: Config, tmp_path: Path) -> Callable[..., list[str]]:
    def check(user: ServiceUser = ServiceUser.current()) -> list[str]:  # noqa: B008 - the same for all
        return list(access_problems(tmp_path / "xksproxy.toml", whole, user))

    return check


_PLACES = {
    "xksproxy.toml": "the configuration file",
    "server.pem": "server.tls.certificate",
    "server-key.pem": "server.tls.private_key",
    "ca.pem": "server.tls.client_ca",
    "module.so": "hsm[0].module",
    "softhsm2.conf": "hsm[0].environment.SOFTHSM2_CONF",
    "pin": "hsm[0].pin",
    "credentials": "keystore[0].credentials",
    "policies": "keystore[0].policies",
    "policies/a.cedar": "keystore[0].policies",
    "one.cedar": "keystore[0].policies",
    "audit-key": "audit.key",
    "state": "state.directory",
}


def test_nothing_is_wrong_with_files_that_only_their_owner_can_change(problems: Callable[..., list[str]]) -> None:
    assert problems() == []


@pytest.mark.parametrize(("name", "at"), _PLACES.items())
@pytest.mark.parametrize("bit", [0o002, 0o022])
def test_what_everyone_can_change_is_refused(
    problems: Callable[..., list[str]], tmp_path: Path, name: str, at: str, bit: int
) -> None:
    path = tmp_path / name
    path.chmod(path.stat().st_mode | bit)

    (problem,) = problems()

    assert problem.startswith(f"{at}: {path}: its mode is {path.stat().st_mode & 0o7777:04o}")


def test_a_credential_that_others_can_reach_is_refused(problems: Callable[..., list[str]], tmp_path: Path) -> None:
    (credential,) = (tmp_path / "credentials").iterdir()
    credential.chmod(0o644)

    (problem,) = problems()

    assert problem.startswith(f"keystore[0].credentials: {credential}: its mode is 0644; it holds a secret")


_SECRETS = ("server-key.pem", "pin", "audit-key", "credentials/one.toml")


@pytest.mark.parametrize("name", [*_PLACES, "credentials/one.toml"])
@pytest.mark.parametrize("named", ["user", "group"])
def test_what_an_acl_lets_others_read_or_change_is_refused(
    problems: Callable[..., list[str]], tmp_path: Path, name: str, named: str
) -> None:
    (credential,) = (tmp_path / "credentials").iterdir()
    credential.rename(credential.with_name("one.toml"))
    path = tmp_path / name
    let(path, 4 if name in _SECRETS else 7, **{named: 54321})

    (problem,) = problems()

    verb = "read" if name in _SECRETS else "change"
    assert problem.endswith(f": {path}: its ACL lets {named} 54321 {verb} it; remove the ACL with setfacl -b")


def test_a_directory_above_that_everyone_can_change_is_reported_once(
    problems: Callable[..., list[str]], tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)

    assert problems() == [
        f"the configuration file: {tmp_path}: its mode is 0777, so everyone can change it; use chmod go-w"
    ]


def test_a_sticky_directory_above_is_accepted_but_not_one_whose_files_are_read(
    problems: Callable[..., list[str]], tmp_path: Path
) -> None:
    tmp_path.chmod(0o1777)
    assert problems() == []

    (tmp_path / "credentials").chmod(0o1777)
    (problem,) = problems()
    assert problem.startswith(f"keystore[0].credentials: {tmp_path / 'credentials'}: its mode is 1777")


def test_a_volume_that_is_read_only_may_have_any_mode(
    problems: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Kubernetes mounts the files of a Secret in a directory of mode 3777.
    (tmp_path / "credentials").chmod(0o3777)
    monkeypatch.setattr(access_checks, "_is_read_only", lambda place: place == tmp_path / "credentials")

    assert problems() == []


@needs_root
@pytest.mark.parametrize(("name", "at"), _PLACES.items())
def test_what_belongs_to_somebody_else_is_refused(
    problems: Callable[..., list[str]], tmp_path: Path, name: str, at: str
) -> None:
    os.chown(tmp_path / name, 1001, 0)

    for user in (_ROOT, _SERVICE):
        (problem,) = problems(user)
        assert problem.startswith(f"{at}: {tmp_path / name}: it belongs to user 1001")


@needs_root
@pytest.mark.parametrize("name", _PLACES)
def test_what_belongs_to_the_service_is_accepted(problems: Callable[..., list[str]], tmp_path: Path, name: str) -> None:
    os.chown(tmp_path / name, 1000, 1000)

    assert problems(_SERVICE) == []


@needs_root
def test_a_directory_above_that_belongs_to_somebody_else_is_refused(
    problems: Callable[..., list[str]], tmp_path: Path
) -> None:
    os.chown(tmp_path, 1001, 0)

    (problem,) = problems(_SERVICE)

    assert f"{tmp_path}: it belongs to user 1001" in problem


@needs_root
def test_a_group_may_write_only_if_it_is_one_of_the_service(problems: Callable[..., list[str]], tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.chmod(0o770)
    for gid, accepted in ((0, True), (2000, True), (3000, False)):
        os.chown(state, 0, gid)

        assert (problems(_SERVICE) == []) is accepted


@needs_root
def test_links_count_with_their_owner_and_with_where_they_lead(
    problems: Callable[..., list[str]], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir(0o755)
    (tmp_path / "server.pem").rename(other / "server.pem")
    (tmp_path / "server.pem").symlink_to("other/../other/server.pem")
    assert problems(_SERVICE) == []

    os.chown(other, 1001, 0)
    (problem,) = problems(_SERVICE)
    assert problem.startswith(f"server.tls.certificate: {other}: it belongs to user 1001")

    os.chown(other, 0, 0)
    os.lchown(tmp_path / "server.pem", 1001, 0)
    (problem,) = problems(_SERVICE)
    assert problem.startswith(f"server.tls.certificate: {tmp_path / 'server.pem'}: it belongs to user 1001")


def test_what_does_not_exist_and_links_in_a_circle_are_left_to_other_checks(
    problems: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "state").rmdir()
    (tmp_path / "server.pem").unlink()
    (tmp_path / "server.pem").symlink_to("server.pem")

    assert problems() == []


@needs_root
def test_root_checks_for_the_owner_of_the_state_directory(tmp_path: Path) -> None:
    assert ServiceUser.of_state_directory(tmp_path) == ServiceUser.current()
    assert ServiceUser.of_state_directory(tmp_path / "none") == ServiceUser.current()

    os.chown(tmp_path, 54321, 54322)

    assert ServiceUser.of_state_directory(tmp_path) == ServiceUser(54321, frozenset({54322}))


@pytest.mark.parametrize(
    ("mode", "refused"), [(0o755, False), (0o775, False), (0o1777, False), (0o777, True), (0o757, True)]
)
def test_only_a_directory_of_the_audit_log_that_everyone_can_change_is_refused(
    whole: Config, tmp_path: Path, mode: int, *, refused: bool
) -> None:
    logs, link = tmp_path / "logs", tmp_path / "link"
    logs.mkdir()
    logs.chmod(mode)
    os.chown(logs, -1, 54322 if os.geteuid() == 0 else -1)
    link.symlink_to(logs)
    config = replace(whole, audit=replace(whole.audit, file=str(link / "audit.log")))

    found = list(access_problems(tmp_path / "xksproxy.toml", config, ServiceUser.current()))

    assert found == (
        [f"audit.file: {logs}: its mode is {mode:04o}, so everyone can change it; use chmod go-w"] * refused
    )


@needs_root
@pytest.mark.parametrize(("user", "refused"), [(_ROOT, True), (_SERVICE, False)])
def test_root_writes_no_log_in_a_directory_of_another_user(
    whole: Config, tmp_path: Path, user: ServiceUser, *, refused: bool
) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    os.chown(logs, 54321, 0)
    config = replace(whole, audit=replace(whole.audit, file=str(logs / "audit.log")))

    found = list(access_problems(tmp_path / "xksproxy.toml", config, user))

    assert [problem.startswith(f"audit.file: {logs}: it belongs to user 54321") for problem in found] == [
        True
    ] * refused


@pytest.mark.parametrize("mode", [0o1777, 0o777, 0o755])
def test_a_directory_that_somebody_else_could_make_first_is_refused(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    user = ServiceUser.current()

    missing = path_problem(tmp_path / "state" / "below", user)

    assert (missing is None) == (mode == 0o755)
    assert missing is None or missing.startswith(f"{tmp_path}: its mode is {mode:04o}, so everyone can change it")
    (tmp_path / "state" / "below").mkdir(parents=True)
    assert (path_problem(tmp_path / "state" / "below", user) is None) == (mode != 0o777)


@needs_root
def test_a_directory_of_another_user_at_the_end_of_a_path_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 54321, 54321)

    assert str(path_problem(tmp_path, _ROOT)).startswith(f"{tmp_path}: it belongs to user 54321")
    assert path_problem(tmp_path, ServiceUser(54321, frozenset())) is None


def test_the_state_directory_follows_its_own_rule_where_the_audit_log_is_in_it(whole: Config, tmp_path: Path) -> None:
    (tmp_path / "state").chmod(0o1777)
    config = replace(whole, audit=replace(whole.audit, file=str(tmp_path / "state" / "audit.log")))

    (problem,) = access_problems(tmp_path / "xksproxy.toml", config, ServiceUser.current())

    assert problem.startswith("state.directory: ")
