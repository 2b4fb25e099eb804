"""Limits of the machine below what the configuration may use."""

import resource
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from xksproxy.config import resource_checks
from xksproxy.config.model import Audit, Config, Hsm, KeyStore, Server, State, Tls
from xksproxy.config.resource_checks import open_files_findings, resource_findings

GIBIBYTE = 2**30


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        server=Server(tls=Tls(certificate="c", private_key="k"), workers=4, max_connections=1000),
        hsm=(Hsm(id="h", module="m"),),
        keystore=tuple(
            KeyStore(
                name=name, uri_path_prefix=f"/{name}", hsms=("h",), credentials="c", keys=(), requests_per_second=per_s
            )
            for name, per_s in (("a", None), ("b", 200.0))
        ),
        audit=Audit(file=str(tmp_path / "audit.log")),
        state=State(directory=str(tmp_path)),
    )


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine that has enough of everything; the directory of its control groups."""
    limits = {resource.RLIMIT_NOFILE: 100_000}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits.get(which, -1),) * 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100 * GIBIBYTE))
    monkeypatch.setattr(resource_checks, "_OWN_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(resource_checks, "_CGROUPS", tmp_path / "cgroups")
    return tmp_path / "cgroups"


def limit_memory(machine: Path, own: str, limits: dict[str, str]) -> None:
    machine.with_name("cgroup").write_text(own)
    for name, limit in limits.items():
        (machine / name).parent.mkdir(parents=True, exist_ok=True)
        (machine / name).write_text(f"{limit}\n")


def test_a_machine_that_has_enough_is_not_warned_of(config: Config) -> None:
    assert list(resource_findings(config)) == []


@pytest.mark.parametrize(("limit", "warned"), [(150, True), (1399, True), (1400, False), (-1, False)])
def test_a_low_limit_of_open_files_is_a_warning_with_the_number_that_would_do(
    monkeypatch: pytest.MonkeyPatch, limit: int, warned: bool
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))

    findings = list(open_files_findings(1000))

    assert [finding.serious for finding in findings] == [False] * warned
    assert all("raise the limit to 1400" in finding.text for finding in findings)


@pytest.mark.parametrize(
    ("own", "limits", "warned"),
    [
        ("0::/a/b", {"a/b/memory.max": "max", "a/memory.max": "536870912"}, True),
        ("0::/a/b", {"a/b/memory.max": "536870912", "a/memory.max": "max"}, True),
        ("0::/a/b", {"a/b/memory.max": str(GIBIBYTE), "a/memory.max": "max"}, False),
        ("0::/", {"memory.max": "536870912"}, True),
        ("0::/a", {}, False),
        ("5:cpu:/a\n4:memory:/a", {"memory/a/memory.limit_in_bytes": "536870912"}, True),
        ("5:cpu:/a\n4:memory:/a", {"memory/a/memory.limit_in_bytes": "9223372036854771712"}, False),
    ],
)
def test_a_low_memory_limit_is_a_warning_with_the_number_that_would_do(
    machine: Path, config: Config, own: str, limits: dict[str, str], warned: bool
) -> None:
    limit_memory(machine, own, limits)

    texts = [finding.text for finding in resource_findings(config)]

    assert len(texts) == warned
    assert all("may use 811 MiB" in text and "is 512 MiB; raise it to 811 MiB" in text for text in texts)


@pytest.mark.parametrize(("mebibytes", "warned"), [(1375, True), (1376, False), (None, False)])
def test_a_low_limit_of_address_space_is_a_warning(
    config: Config, monkeypatch: pytest.MonkeyPatch, mebibytes: int | None, warned: bool
) -> None:
    limit = -1 if mebibytes is None else mebibytes * 2**20
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit if which == resource.RLIMIT_AS else -1, -1))

    found = list(resource_findings(config))

    assert [finding.serious for finding in found] == ([False] if warned else [])
    assert not warned or "may reserve 1376 MiB of address space, and this process may have 1375 MiB" in found[0].text


def test_a_disk_with_little_room_is_a_warning_with_the_number_that_would_do(
    monkeypatch: pytest.MonkeyPatch, config: Config, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10 * 2**20))

    texts = [finding.text for finding in resource_findings(config)]

    state, audit = texts
    assert state == f"state.directory: the state may need 64 MiB, and {tmp_path} has 10 MiB free; make room for 64 MiB"
    assert audit.startswith("audit.file: an hour of requests")
    assert audit.endswith(f"may need 7032 MiB, and {tmp_path} has 10 MiB free; make room for 7032 MiB")
    on_standard_output = replace(config, audit=Audit())
    assert len(list(resource_findings(on_standard_output))) == 1
