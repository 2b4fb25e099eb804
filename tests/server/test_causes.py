"""Each cause of a condition begins and ends as docs/troubleshooting.md says, made to happen in a running proxy."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from commands import run_command
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from fault_support import FaultyHsm, change_key
from server_support import OwnProxy, Wire, ask_admin, encrypt_body, health, key_path, on, request, signed
from support import Proxy, eventually, lines_with
from xksproxy_tools.development.certificates import (
    certificate_pem,
    load_authority,
    private_key_pem,
    write_private,
)

from xksproxy.server.conditions import Cause

pytestmark = pytest.mark.slow


def encrypt(proxy: Proxy, *, late_by: float = 0.0) -> int:
    path, body = key_path("encrypt"), encrypt_body(b"text")
    with Wire(proxy) as wire:
        return wire.ask(request("POST", path, signed(proxy, path, body, late_by=late_by), body)).status


def command(proxy: Proxy, *arguments: str) -> None:
    run_command(*arguments, "--config", proxy.environment.config).check_returncode()


def home(proxy: Proxy) -> Path:
    return proxy.environment.directory


def reload(proxy: Proxy, change: Callable[[str], str]) -> None:
    config = proxy.environment.config
    config.write_text(change(config.read_text()))
    proxy.process.send_signal(signal.SIGHUP)


def serve_certificate(proxy: Proxy, days: int) -> None:
    """A certificate of 90 days, which ends in so many."""
    tls = home(proxy) / "tls"
    authority = load_authority((tls / "ca.pem").read_bytes(), (tls / "ca-key.pem").read_bytes())
    key = ec.generate_private_key(ec.SECP256R1())
    end = datetime.now(UTC) + timedelta(days=days)
    name = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    builder = x509.CertificateBuilder(
        authority.certificate.subject,
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")]),
        key.public_key(),
        x509.random_serial_number(),
        end - timedelta(days=90),
        end,
        [x509.Extension(name.oid, critical=False, value=name)],
    )
    certificate = builder.sign(authority.private_key, hashes.SHA256())
    write_private(tls / "server-key.pem", private_key_pem(key))
    (tls / "server.pem").write_bytes(certificate_pem(certificate))


def plant_directory(proxy: Proxy) -> None:
    (home(proxy) / "audit.log").rename(home(proxy) / "audit.log.1")
    (home(proxy) / "audit.log").mkdir()


def remove_directory(proxy: Proxy) -> None:
    (home(proxy) / "audit.log").rmdir()


def credential_mode(mode: int) -> Callable[[Proxy], None]:
    return lambda proxy: next((home(proxy) / "credentials").glob("*.toml")).chmod(mode)


def audit_to_file(when_full: str) -> Callable[[str], str]:
    table = f'[audit]\nfile = "audit.log"\nwhen_full = "{when_full}"\n'
    return lambda text: re.sub(r'(?s)\[audit\]\nformat = "console"\n', table, text)


def with_limit(text: str) -> str:
    return text.replace('id = "demo-key"', 'id = "demo-key"\nmaximum_encryptions = 40', 1)


def use_up(proxy: Proxy) -> None:
    for _ in range(39):
        encrypt(proxy)


def with_late_clients(proxy: Proxy) -> None:
    for _ in range(20):
        assert encrypt(proxy, late_by=3600) == 401


def with_punctual_clients(proxy: Proxy) -> None:
    for _ in range(60):
        encrypt(proxy)


Step = Callable[[Proxy], object]

CAUSES: dict[str, tuple[Callable[[str], str], Step, Step]] = {
    "certificate-expires": (str, lambda proxy: serve_certificate(proxy, 5), lambda proxy: serve_certificate(proxy, 80)),
    "audit-refusing": (audit_to_file("refuse"), plant_directory, remove_directory),
    "audit-not-written": (audit_to_file("drop"), plant_directory, remove_directory),
    "reload-refused": (
        str,
        lambda proxy: reload(proxy, lambda text: text.replace('module = "', 'module = "/nowhere')),
        lambda proxy: reload(proxy, lambda text: text.replace("/nowhere", "")),
    ),
    "files-refused": (str, credential_mode(0o644), credential_mode(0o600)),
    "blocked": (
        str,
        lambda proxy: command(proxy, "block", "--keystore", "dev"),
        lambda proxy: command(proxy, "unblock", "--keystore", "dev"),
    ),
    "key-limit": (
        with_limit,
        use_up,
        lambda proxy: command(proxy, "keys", "rotate", "demo-key", "--keystore", "dev"),
    ),
    "clock-wrong": (str, with_late_clients, with_punctual_clients),
}


def texts(proxy: Proxy, cause: str) -> list[str]:
    """The texts of the conditions of this cause, of the machine or of the key store `dev`."""
    conditions = json.loads(ask_admin(proxy, "/status").content)["conditions"]
    return [item["text"] for item in conditions if item["cause"] == cause and item["keystore"] in ("", "dev")]


@pytest.mark.parametrize("cause", CAUSES)
def test_the_condition_begins_with_its_cause_and_ends_with_its_repair(own_proxy: OwnProxy, cause: str) -> None:
    edit, begin, end = CAUSES[cause]
    proxy = own_proxy.start(edit=edit)
    encrypt(proxy)
    assert texts(proxy, cause) == []

    begin(proxy)

    eventually(lambda: texts(proxy, cause))
    eventually(lambda: lines_with(proxy.log, " condition ", f'cause="{cause}"'))

    end(proxy)

    eventually(lambda: texts(proxy, cause), [])
    eventually(lambda: lines_with(proxy.log, "condition has ended", f'cause="{cause}"'))
    assert encrypt(proxy) == 200


RIGHT, WRONG = bytes(range(32)), bytes(range(1, 33))


class Hsm:
    """An HSM of its own, and the key `extra` on it."""

    def __init__(self, faulty: FaultyHsm, pin: str) -> None:
        self.faulty, self.pin = faulty, pin

    def put(self, *values: bytes, lacks: str = "") -> None:
        """Replace the key by keys of these values, which have one label; they may lack a use."""
        change_key(self.faulty, self.pin, "extra", None)
        for value in values:
            change_key(self.faulty, self.pin, "extra", value, lacks=lacks)


HSM_CAUSES: dict[str, tuple[Callable[[Hsm], object], Callable[[Hsm], object]]] = {
    "hsm-out-of-service": (lambda hsm: hsm.faulty.tell("* return 0x30"), lambda hsm: hsm.faulty.tell()),
    "no-hsm": (lambda hsm: hsm.faulty.tell("* return 0x30"), lambda hsm: hsm.faulty.tell()),
    "hsm-degraded": (lambda hsm: hsm.faulty.tell("C_Encrypt delay 4000"), lambda hsm: hsm.faulty.tell()),
    "key-missing": (lambda hsm: hsm.put(), lambda hsm: hsm.put(RIGHT)),
    "key-differs": (lambda hsm: hsm.put(WRONG), lambda hsm: hsm.put(RIGHT)),
    "key-ambiguous": (lambda hsm: hsm.put(RIGHT, RIGHT), lambda hsm: hsm.put(RIGHT)),
    "key-restricted": (lambda hsm: hsm.put(RIGHT, lacks="not encrypting"), lambda hsm: hsm.put(RIGHT)),
}


STATES = {
    "hsm-out-of-service": "UNAVAILABLE",
    "no-hsm": "UNAVAILABLE",
    "key-missing": "not seen on a token",
    "key-differs": "refused: the key on softhsm is not the one on record",
    "key-ambiguous": "refused: several keys have its name on softhsm",
    "key-restricted": "refused: the key on softhsm may no longer encrypt or decrypt",
}
"""What the status says of a key that is refused; it says ENABLED of others."""


def with_extra(hsm: Hsm, check_interval_s: int) -> Callable[[str], str]:
    """Exposes the key `extra` of an HSM that is checked, and its keys listed, so often."""

    def edit(text: str) -> str:
        text = text.replace("[[keystore.keys]]", '[[keystore.keys]]\nid = "extra"\n\n[[keystore.keys]]', 1)
        return on(hsm.faulty, text, f"check_interval_s = {check_interval_s}")

    return edit


def state_of_extra(proxy: Proxy) -> str | None:
    """The state of the key `extra` in the status; None from a worker that has not loaded it yet."""
    (store,) = [
        store for store in json.loads(ask_admin(proxy, "/status").content)["keystores"] if store["name"] == "dev"
    ]
    return next((str(key["state"]) for key in store["keys"] if key["id"] == "extra"), None)


@pytest.mark.parametrize("cause", HSM_CAUSES)
def test_the_condition_of_an_hsm_begins_with_its_cause_and_ends_with_its_repair(
    own_proxy: OwnProxy, make_faulty: Callable[..., FaultyHsm], cause: str
) -> None:
    begin, end = HSM_CAUSES[cause]
    hsm = Hsm(make_faulty(), (own_proxy.environment.directory / "pin").read_text().strip())
    hsm.put(RIGHT)

    proxy = own_proxy.start(edit=with_extra(hsm, check_interval_s=1))
    eventually(lambda: texts(proxy, cause), [])

    eventually(lambda: state_of_extra(proxy), "ENABLED")

    begin(hsm)
    eventually(lambda: texts(proxy, cause))
    eventually(lambda: state_of_extra(proxy), STATES.get(cause, "ENABLED"))
    of_keys = {other for other in STATES if other.startswith("key-")}
    eventually(lambda: {other for other in of_keys if texts(proxy, other)}, {cause} & of_keys)
    eventually(lambda: health(proxy), {"UNAVAILABLE" if cause in {"hsm-out-of-service", "no-hsm"} else "DEGRADED"})
    end(hsm)

    eventually(lambda: texts(proxy, cause), [])
    eventually(lambda: state_of_extra(proxy), "ENABLED")
    eventually(lambda: health(proxy), {"ACTIVE"})
    eventually(lambda: encrypt(proxy), 200)


def test_a_key_of_a_pattern_that_was_used_and_is_gone_is_missing_until_that_is_accepted(
    own_proxy: OwnProxy, make_faulty: Callable[..., FaultyHsm]
) -> None:
    hsm = Hsm(make_faulty(), (own_proxy.environment.directory / "pin").read_text().strip())
    hsm.put(RIGHT)
    change_key(hsm.faulty, hsm.pin, "extra-unused", RIGHT)

    def edit(text: str) -> str:
        text = text.replace("[[keystore.keys]]", '[[keystore.keys]]\nid = "extra*"\n\n[[keystore.keys]]', 1)
        return on(hsm.faulty, text, "check_interval_s = 1")

    proxy = own_proxy.start(edit=edit)
    path, body = key_path("encrypt", "extra"), encrypt_body(b"text")
    with Wire(proxy) as wire:
        assert wire.ask(request("POST", path, signed(proxy, path, body), body)).status == 200
    change_key(hsm.faulty, hsm.pin, "extra-unused", None)
    assert texts(proxy, "key-missing") == []

    hsm.put()
    eventually(lambda: texts(proxy, "key-missing"), ["keys are not on the token: extra"])
    eventually(lambda: health(proxy), {"DEGRADED"})
    accept = ("keys", "accept", "extra", "--keystore", "dev", "--config", proxy.environment.config)
    subprocess.run([sys.executable, "-m", "xksproxy", *accept], input="extra\n", text=True, check=True)

    eventually(lambda: texts(proxy, "key-missing"), [])
    eventually(lambda: health(proxy), {"ACTIVE"})


def test_a_former_version_that_may_no_longer_encrypt_is_no_condition_and_one_that_may_not_decrypt_is(
    own_proxy: OwnProxy, make_faulty: Callable[..., FaultyHsm]
) -> None:
    hsm = Hsm(make_faulty(), (own_proxy.environment.directory / "pin").read_text().strip())
    hsm.put(RIGHT)

    proxy = own_proxy.start(edit=with_extra(hsm, check_interval_s=1))
    command(proxy, "keys", "rotate", "extra", "--keystore", "dev")
    hsm.put(RIGHT, lacks="not encrypting")
    change_key(hsm.faulty, hsm.pin, "demo-key", None)
    eventually(lambda: "demo-key" in str(texts(proxy, "key-missing")))  # the keys were listed since
    assert texts(proxy, "key-restricted") == []

    hsm.put(RIGHT, lacks="not decrypting")

    assert eventually(lambda: texts(proxy, "key-restricted")) == [
        "keys may no longer encrypt or decrypt on the token: extra"
    ]


def test_a_reload_that_names_a_new_key_lists_the_keys_at_once_and_calls_none_missing(
    own_proxy: OwnProxy, make_faulty: Callable[..., FaultyHsm]
) -> None:
    hsm = Hsm(make_faulty(), (own_proxy.environment.directory / "pin").read_text().strip())
    proxy = own_proxy.start(edit=lambda text: on(hsm.faulty, text, "check_interval_s = 50"))
    hsm.put(RIGHT)

    reload(
        proxy, lambda text: text.replace("[[keystore.keys]]", '[[keystore.keys]]\nid = "extra"\n\n[[keystore.keys]]', 1)
    )

    eventually(lambda: state_of_extra(proxy), "ENABLED")
    assert lines_with(proxy.log, "key-missing") == []


def test_the_status_does_not_miss_a_key_that_a_rotation_has_just_made(
    own_proxy: OwnProxy, make_faulty: Callable[..., FaultyHsm]
) -> None:
    hsm = Hsm(make_faulty(), (own_proxy.environment.directory / "pin").read_text().strip())
    hsm.put(RIGHT)

    proxy = own_proxy.start(edit=with_extra(hsm, check_interval_s=50))
    eventually(lambda: state_of_extra(proxy), "ENABLED")

    command(proxy, "keys", "rotate", "extra", "--keystore", "dev")

    assert {state_of_extra(proxy) for _ in range(10)} == {"ENABLED"}


def test_each_cause_is_made_to_happen_by_a_test() -> None:
    here = Path(__file__).parent
    others = "".join(
        (here / name).read_text()
        for name in ("test_conditions.py", "test_runtime_full.py", "test_state_doubt.py", "test_stop.py")
    )

    assert [cause for cause in Cause if cause not in (*CAUSES, *HSM_CAUSES) and f'"{cause}"' not in others] == []
