"""The distribution xksproxy holds and needs only what runs beside an HSM; xksproxy-tools is separate and optional."""

import os
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Callable
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import find_namespace_packages

_ROOT = Path(__file__).parents[2]
_PYPROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))
_COMMANDS_OF_THE_TOOLS = ("bench", "conformance", "dev", "kms-emulator")

_IMPORT_EVERY_MODULE = """
import sys
from pathlib import Path

root = Path(sys.argv[1])
optional = root / "xksproxy" / "telemetry" / "tracing.py"
for path in sorted({*(root / "xksproxy").rglob("*.py")} - {optional}):
    __import__(".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"))
"""

Run = Callable[..., subprocess.CompletedProcess[str]]


def _installed(name: str) -> Distribution:
    """An installed distribution. The source tree, which may hold older metadata, is not searched."""
    (installed,) = distributions(name=name, path=[sysconfig.get_path("purelib")])
    return installed


def _applies(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def _needed_distributions() -> set[str]:
    """The distributions that the installed xksproxy needs, directly or not, by canonical name."""
    needed: set[str] = set()
    waiting = ["xksproxy"]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in needed:
            needed.add(name)
            requirements = map(Requirement, _installed(name).requires or [])
            waiting += [requirement.name for requirement in requirements if _applies(requirement)]
    return needed


@pytest.fixture(scope="module")
def production_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of installed packages that holds the dependencies of xksproxy and nothing else."""
    packages = tmp_path_factory.mktemp("packages")
    for name in _needed_distributions() - {"xksproxy"}:
        installed = _installed(name)
        for top in {file.parts[0] for file in installed.files or ()} - {"..", "__pycache__"}:
            if not top.startswith("__editable__"):
                (packages / top).symlink_to(installed.locate_file(top))
    return packages


@pytest.fixture
def run(production_packages: Path) -> Run:
    """Run Python as on a machine where xksproxy is installed without the tools."""

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        # -S: the site-packages of this environment, which have the tools, are not added.
        return subprocess.run(
            [sys.executable, "-S", *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(production_packages), str(_ROOT)])},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return python


@pytest.fixture
def xksproxy(run: Run) -> Run:
    """Run the command ``xksproxy`` there."""

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run("-c", "from xksproxy.cli.main import main; main()", *arguments)

    return command


def test_the_wheel_holds_the_packages_of_the_proxy_and_no_tools() -> None:
    packages = find_namespace_packages(
        str(_ROOT), include=_PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    )
    folders = {path.parent.relative_to(_ROOT) for path in (_ROOT / "xksproxy").rglob("*.py")}

    assert {package.partition(".")[0] for package in packages} == {"xksproxy"}
    assert set(packages) >= {".".join(folder.parts) for folder in folders}


def test_the_installed_metadata_has_the_dependencies_of_the_project_file() -> None:
    installed = {Requirement(text).name for text in _installed("xksproxy").requires or ()}

    extras = _PYPROJECT["project"]["optional-dependencies"].values()
    declared = [*_PYPROJECT["project"]["dependencies"], *(text for extra in extras for text in extra)]
    assert installed == {Requirement(text).name for text in declared}


def test_the_proxy_needs_neither_the_tools_nor_the_aws_sdk() -> None:
    needed = _needed_distributions()

    assert needed > {"xksproxy", "python-pkcs11", "cedarpy"}
    assert needed.isdisjoint({"xksproxy-tools", "botocore", "boto3", "awscli", "s3transfer", "opentelemetry-sdk"})


def test_every_module_of_the_proxy_can_be_imported_with_its_dependencies_alone(run: Run) -> None:
    result = run("-c", _IMPORT_EVERY_MODULE, str(_ROOT))

    assert (result.returncode, result.stderr) == (0, "")


def test_the_commands_of_the_proxy_work_without_the_tools(xksproxy: Run) -> None:
    assert xksproxy("version").returncode == 0


@pytest.mark.parametrize("command", _COMMANDS_OF_THE_TOOLS)
@pytest.mark.parametrize("arguments", [(), ("encrypt", "--duration", "10")], ids=["alone", "with arguments"])
def test_a_command_of_the_tools_says_in_one_line_how_to_install_them(
    xksproxy: Run, command: str, arguments: tuple[str, ...]
) -> None:
    result = xksproxy(command, *arguments)

    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.endswith("pip install xksproxy-tools\n")
    assert result.stderr.count("\n") == 1


def test_the_commands_of_the_tools_are_those_of_their_entry_points() -> None:
    tools = tomllib.loads((_ROOT / "tools" / "pyproject.toml").read_text("utf-8"))

    assert sorted(tools["project"]["entry-points"]["xksproxy.commands"]) == sorted(_COMMANDS_OF_THE_TOOLS)
