"""Import of ``[[hsm]]``: the PKCS#11 module, its token, its PIN, and who makes the IV."""

import shlex
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Final, Literal

from xksproxy.config.model import Hsm
from xksproxy.config.secret import Secret, SecretReference
from xksproxy.importing.findings import Finding, different, to_do
from xksproxy.importing.settings import Settings
from xksproxy.printable import printable

PresetName = Literal["softhsm2", "cloudhsm", "luna", "nshield", "vault", "generic"]
IvMode = Literal["caller", "written-back", "appended"]

PIN_FILE: Final = "pin"
TOKEN_PLACEHOLDER: Final = "SET-THE-LABEL-OF-THE-TOKEN"  # noqa: S105 - a placeholder for a label
IV_OF_PRESET: Final[Mapping[PresetName, IvMode]] = {
    "softhsm2": "caller",
    "cloudhsm": "written-back",
    "luna": "appended",
    "nshield": "written-back",
    "vault": "caller",
    "generic": "caller",
}
"""Who makes the IV if ``iv`` is not set. A test compares this with the presets of the HSM engine."""

_HSM_ID: Final = "hsm-1"
_MAXIMUM_SESSIONS: Final = 256
_LOGGER: Final = "pkcs11-logger"
_PRESET_OF_FILE: Final[tuple[tuple[str, PresetName], ...]] = (
    ("libsofthsm", "softhsm2"),
    ("libcloudhsm", "cloudhsm"),
    ("libcryptoki2", "luna"),
    ("libcknfast", "nshield"),
    ("vault", "vault"),
)


def map_hsm(
    settings: Settings, base: Path, token: str | None, *, workers: int
) -> tuple[Hsm, Secret | None, list[Finding]]:
    """``[[hsm]]``, the content of its PIN file, and findings."""
    module, module_findings = _map_module(settings, base)
    preset, iv, iv_findings = _map_preset(settings, module)
    pin, pin_findings = _map_pin(settings.pkcs11.user_pin)
    sessions, session_findings = _map_sessions(settings.pkcs11.session_pool_max_size, workers)
    hsm = Hsm(
        id=_HSM_ID,
        module=module,
        token=token or TOKEN_PLACEHOLDER,
        pin=SecretReference(file=PIN_FILE),
        preset=preset,
        iv=iv,
        sessions=sessions,
    )
    token_finding = _token_finding(module, token)
    return hsm, pin, [*module_findings, token_finding, *pin_findings, *iv_findings, *session_findings]


def _map_module(settings: Settings, base: Path) -> tuple[str, list[Finding]]:
    configured, logger = settings.pkcs11.hsm_module, settings.pkcs11_logger
    module, findings = configured, []
    if _LOGGER not in PurePath(configured).name.lower():
        if logger is not None:
            findings.append(
                different(
                    "pkcs11_logger", "not imported: PKCS11_HSM_MODULE is not the logger, so the sample did not use it."
                )
            )
    elif logger is not None and logger.library_path:
        module = logger.library_path
        text = f"the module is the one behind the logger, {printable(module)}; the logger is not imported."
        findings.append(different("pkcs11_logger", text, "hsm[0].module"))
    else:
        text = "it names pkcs11-logger, and no setting names the module behind it: set the path of that module."
        findings.append(to_do("pkcs11.PKCS11_HSM_MODULE", text, "hsm[0].module"))
    text = (
        "taken from the file. In the sample, environment variables of these names had priority. Put variables that the"
        " module reads, such as SOFTHSM2_CONF, into environment of [[hsm]]."
    )
    findings.append(different("pkcs11.PKCS11_HSM_MODULE", text, "hsm[0].environment"))
    return str(base / module), findings


def _map_preset(settings: Settings, module: str) -> tuple[PresetName, IvMode | None, list[Finding]]:
    """The preset, from the name of the file; and ``iv``, if the settings differ from the preset."""
    name = PurePath(module).name.lower()
    preset: PresetName = next((candidate for part, candidate in _PRESET_OF_FILE if part in name), "generic")
    capabilities = settings.hsm_capabilities
    wanted: IvMode = "caller"
    if capabilities.can_generate_iv:
        wanted = "written-back" if capabilities.is_zero_iv_required else "appended"
    guessed = (
        "the name of the file does not show the kind of module"
        if preset == "generic"
        else "guessed from the name of the file"
    )
    text = f"preset {preset}: {guessed}. The preset defines what return values mean; correct it if it is wrong."
    findings = [different("pkcs11.PKCS11_HSM_MODULE", text, "hsm[0].preset")]
    if wanted == IV_OF_PRESET[preset]:
        return preset, None, findings
    text = f"iv = {wanted} is set, as in the settings; the default of the preset {preset} is {IV_OF_PRESET[preset]}."
    return preset, wanted, [*findings, different("hsm_capabilities", text, "hsm[0].iv")]


def _token_finding(module: str, token: str | None) -> Finding:
    setting, place = "pkcs11", "hsm[0].token"
    if token is not None:
        text = f"the sample used the first slot; this proxy uses the token labelled {printable(token)}."
        return different(setting, text, place)
    text = (
        "the sample used the first slot; this proxy finds the token by its label, which the settings do not"
        f" contain. List the tokens with `pkcs11-tool --module {printable(shlex.quote(module))} --list-slots` or the"
        " vendor's tool, and set the label of the first here."
    )
    return to_do(setting, text, place)


def _map_pin(pin: Secret) -> tuple[Secret | None, list[Finding]]:
    text = pin.reveal()
    if not text:
        problem = "it is empty: write the PIN into the file, or remove pin from [[hsm]] if the token needs no log-in."
    elif "\n" in text or "\r" in text:
        problem = "it has a line break, which a PIN file cannot contain: change the PIN, then write it into the file."
    elif text != text.strip() or "\0" in text:
        problem = (
            "it has a blank at its beginning or end, or a NUL, which a PIN file cannot contain: change the PIN, then"
            " write it into the file."
        )
    else:
        return pin, []
    return None, [to_do("pkcs11.user_pin", problem, "hsm[0].pin")]


def _map_sessions(pool: int, workers: int) -> tuple[int, list[Finding]]:
    sessions = min(max(1, pool // workers), _MAXIMUM_SESSIONS)
    text = f"{pool} sessions of one process became {sessions} in each of {workers} workers."
    return sessions, [different("pkcs11.session_pool_max_size", text, "hsm[0].sessions")]
