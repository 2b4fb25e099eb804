"""Each rule by which a setting of the sample becomes one of ours, and what is told of it."""

import hashlib
from collections.abc import Callable

import pytest
from importing_support import ACCESS_KEY_ID, PIN, SECRET

from xksproxy.config.model import Key
from xksproxy.config.secret import SecretReference
from xksproxy.hsm.pkcs11.presets import PRESETS
from xksproxy.importing import keystores
from xksproxy.importing.findings import Finding, Severity
from xksproxy.importing.hsm import IV_OF_PRESET, TOKEN_PLACEHOLDER
from xksproxy.importing.plan import Plan
from xksproxy.importing.render import render_config

MakePlan = Callable[..., Plan]

_LOGGER = "/opt/lib/pkcs11-logger-x64.so"


def _told(plan: Plan, severity: Severity, setting: str) -> list[Finding]:
    return [finding for finding in plan.findings if (finding.severity, finding.setting) == (severity, setting)]


def _to_do(plan: Plan) -> list[tuple[str, str]]:
    return [(found.setting, found.place) for found in plan.findings if found.severity is Severity.TO_DO]


# The listener.


@pytest.mark.parametrize(
    ("ip", "port", "listen"),
    [("192.0.2.7", 8443, "192.0.2.7:8443"), ("::", 443, "[::]:443"), ("2001:db8::1", 8443, "[2001:db8::1]:8443")],
)
def test_ip_and_port_become_listen(plan: MakePlan, ip: str, port: int, listen: str) -> None:
    made = plan(("192.0.2.7", ip), ("port = 8443", f"port = {port}"))

    assert made.config.server.listen == listen
    assert bool(_told(made, Severity.DIFFERENT, "server.port")) == (port != 443)


def test_relative_paths_count_from_the_base_and_absolute_ones_stay(plan: MakePlan) -> None:
    made = plan(("/opt/lib/libsofthsm2.so", "lib/libsofthsm2.so"))

    assert made.config.server.tls.certificate == "/srv/sample/certs/server.pem"
    assert made.config.server.tls.private_key == "/etc/keys/server-key.pem"
    assert made.config.hsm[0].module == "/srv/sample/lib/libsofthsm2.so"


def test_without_tls_in_the_sample_a_certificate_must_be_brought(plan: MakePlan) -> None:
    made = plan(("is_tls_enabled = true", "is_tls_enabled = false"))

    assert (made.config.server.tls.certificate, made.config.server.tls.private_key) == (
        "tls/server.pem",
        "tls/server-key.pem",
    )
    assert _to_do(made) == [
        ("security.is_tls_enabled", "server.tls.certificate"),
        ("security.is_tls_enabled", "server.tls.private_key"),
    ]


@pytest.mark.parametrize("tls", ['tls_cert_pem = ""\ntls_key_pem = ""', ""])
def test_missing_certificates_must_be_brought(plan: MakePlan, tls: str) -> None:
    lines = 'tls_cert_pem = "certs/server.pem"\ntls_key_pem = "/etc/keys/server-key.pem"'

    made = plan((lines, tls))

    assert made.config.server.tls.certificate == "tls/server.pem"
    assert _to_do(made) == [
        ("tls.tls_cert_pem", "server.tls.certificate"),
        ("tls.tls_key_pem", "server.tls.private_key"),
    ]


_MTLS = ("is_mtls_enabled = false", "is_mtls_enabled = true")
_CLIENT = '[tls]\nmtls_client_ca_pem = "certs/ca.pem"\nmtls_client_dns_name = "kms.example"'


def test_mutual_tls_is_carried_over_and_the_name_is_told_to_mean_another_field(plan: MakePlan) -> None:
    made = plan(_MTLS, ("[tls]", _CLIENT))

    assert made.config.server.tls.client_ca == "/srv/sample/certs/ca.pem"
    assert made.config.server.tls.client_names == ("kms.example",)
    (finding,) = _told(made, Severity.DIFFERENT, "tls.mtls_client_dns_name")
    assert "common name" in finding.text
    assert _to_do(made) == []


def test_mutual_tls_that_is_off_stays_off(plan: MakePlan) -> None:
    made = plan(("[tls]", _CLIENT))

    assert (made.config.server.tls.client_ca, made.config.server.tls.client_names) == (None, ())


def test_mutual_tls_that_is_incomplete_is_not_dropped(plan: MakePlan) -> None:
    made = plan(_MTLS)

    assert (made.config.server.tls.client_ca, made.config.server.tls.client_names) == ("tls/client-ca.pem", ())
    assert [place for _, place in _to_do(made)] == ["server.tls.client_ca", "server.tls.client_names"]


def test_mutual_tls_outlives_tls_that_was_off(plan: MakePlan) -> None:
    made = plan(_MTLS, ("[tls]", _CLIENT), ("is_tls_enabled = true", "is_tls_enabled = false"))

    assert made.config.server.tls.client_names == ("kms.example",)


@pytest.mark.parametrize(
    ("line", "listen"),
    [
        ("port_http_ping = 8080", "192.0.2.7:8080"),
        ("", "192.0.2.7:80"),
        ("port_http_ping = 8443", None),
    ],
)
def test_the_ping_port_becomes_the_health_listener_unless_it_is_the_public_one(
    plan: MakePlan, line: str, listen: str | None
) -> None:
    made = plan(("port_http_ping = 8080", line))

    assert made.config.health.listen == listen
    (finding,) = _told(made, Severity.DIFFERENT, "server.port_http_ping")
    assert "/livez and /readyz" in finding.text


# The HSM.


@pytest.mark.parametrize(
    ("file", "preset"),
    [
        ("libsofthsm2.so", "softhsm2"),
        ("libcloudhsm_pkcs11.so", "cloudhsm"),
        ("libCryptoki2_64.so", "luna"),
        ("libcknfast.so", "nshield"),
        ("libvault-pkcs11.so", "vault"),
        ("libsomething.so", "generic"),
    ],
)
@pytest.mark.parametrize(
    ("capabilities", "iv"),
    [
        (("false", "false"), "caller"),
        (("false", "true"), "caller"),
        (("true", "true"), "written-back"),
        (("true", "false"), "appended"),
    ],
)
def test_preset_from_the_file_name_and_iv_only_where_it_differs(
    plan: MakePlan, file: str, preset: str, capabilities: tuple[str, str], iv: str
) -> None:
    generates, zero = capabilities
    made = plan(
        ("/opt/lib/libsofthsm2.so", f"/opt/lib/{file}"),
        ("can_generate_iv = false", f"can_generate_iv = {generates}"),
        ("is_zero_iv_required = false", f"is_zero_iv_required = {zero}"),
    )

    hsm = made.config.hsm[0]
    assert hsm.preset == preset
    assert (hsm.iv or PRESETS[hsm.preset].iv) == iv
    assert (hsm.iv is None) == (PRESETS[hsm.preset].iv == iv)
    assert bool(_told(made, Severity.DIFFERENT, "hsm_capabilities")) == (hsm.iv is not None)


def test_what_is_known_of_the_presets_is_what_they_are() -> None:
    assert {name: PRESETS[name].iv for name in IV_OF_PRESET} == IV_OF_PRESET


def test_the_module_behind_the_logger_is_the_real_one(plan: MakePlan) -> None:
    logger = '[pkcs11_logger]\nPKCS11_LOGGER_LIBRARY_PATH = "/opt/lib/libcknfast.so"\n[hsm_capabilities]'

    made = plan(("/opt/lib/libsofthsm2.so", _LOGGER), ("[hsm_capabilities]", logger))

    assert (made.config.hsm[0].module, made.config.hsm[0].preset) == ("/opt/lib/libcknfast.so", "nshield")
    assert _told(made, Severity.DIFFERENT, "pkcs11_logger")


def test_a_logger_that_is_not_in_use_changes_nothing(plan: MakePlan) -> None:
    logger = '[pkcs11_logger]\nPKCS11_LOGGER_LIBRARY_PATH = "/opt/lib/libcknfast.so"\n[hsm_capabilities]'

    made = plan(("[hsm_capabilities]", logger))

    assert made.config.hsm[0].module == "/opt/lib/libsofthsm2.so"
    assert "the sample did not use it" in _told(made, Severity.DIFFERENT, "pkcs11_logger")[0].text


@pytest.mark.parametrize("logger", ["", '[pkcs11_logger]\nPKCS11_LOGGER_LIBRARY_PATH = ""\n'])
def test_a_logger_with_nothing_behind_it_must_be_replaced(plan: MakePlan, logger: str) -> None:
    made = plan(("/opt/lib/libsofthsm2.so", _LOGGER), ("[hsm_capabilities]", f"{logger}[hsm_capabilities]"))

    assert _to_do(made) == [("pkcs11.PKCS11_HSM_MODULE", "hsm[0].module")]


def test_without_a_label_it_must_be_set_and_how_to_find_it_is_told(plan: MakePlan) -> None:
    made = plan(token=None)

    assert made.config.hsm[0].token == TOKEN_PLACEHOLDER
    assert _to_do(made) == [("pkcs11", "hsm[0].token")]
    (finding,) = _told(made, Severity.TO_DO, "pkcs11")
    assert "pkcs11-tool --module /opt/lib/libsofthsm2.so --list-slots" in finding.text


@pytest.mark.parametrize(("pool", "sessions"), [(9, 4), (30, 15), (1, 1), (0, 1), (2, 1), (100_000, 256)])
def test_the_pool_of_one_process_is_shared_out_to_the_workers(plan: MakePlan, pool: int, sessions: int) -> None:
    made = plan(("session_pool_max_size = 9", f"session_pool_max_size = {pool}"))

    assert (made.config.server.workers, made.config.hsm[0].sessions) == (2, sessions)
    (finding,) = _told(made, Severity.DIFFERENT, "pkcs11.session_pool_max_size")
    assert finding.text == f"{pool} sessions of one process became {sessions} in each of 2 workers."


def test_the_pin_goes_into_a_file(plan: MakePlan) -> None:
    made = plan()

    assert made.config.hsm[0].pin == SecretReference(file="pin")
    assert made.pin is not None
    assert made.pin.reveal() == PIN


@pytest.mark.parametrize("pin", ["", "12\\n34", "1234\\n", "12\\r34", "1234 ", "\\t1234", "\\u00001234"])
def test_a_pin_that_its_file_cannot_hold_is_a_task_for_the_operator(plan: MakePlan, pin: str) -> None:
    made = plan((f'"{PIN}"', f'"{pin}"'))

    assert made.pin is None
    assert _to_do(made) == [("pkcs11.user_pin", "hsm[0].pin")]


# Key stores.


def _with_stores(*prefixes: str) -> tuple[str, str]:
    more = "".join(
        f'[[external_key_stores]]\nuri_path_prefix = "{prefix}"\nsigv4_access_key_id = "{ACCESS_KEY_ID}"\n'
        f'sigv4_secret_access_key = "{SECRET}"\nxks_key_id_set = ["key-c"]\n'
        for prefix in prefixes
    )
    return "[[external_key_stores]]", f"{more}[[external_key_stores]]"


def test_each_key_store_is_imported_with_sorted_keys_and_the_aad_encoding_of_the_sample(plan: MakePlan) -> None:
    made = plan(_with_stores(""))

    first, second = made.config.keystore
    assert (first.name, first.uri_path_prefix, first.credentials) == ("default", "", "credentials/default")
    assert (second.name, second.uri_path_prefix) == ("payments-eu", "/payments/eu")
    assert second.hsms == (made.config.hsm[0].id,)
    assert second.keys == (
        Key(id="key-a", aad_encoding="sha256", legacy_aad_encoding="sha256"),
        Key(id="key-b", aad_encoding="sha256", legacy_aad_encoding="sha256"),
    )
    assert [(entry.directory, entry.credential and entry.credential.access_key_id) for entry in made.credentials] == [
        ("credentials/default", ACCESS_KEY_ID),
        ("credentials/payments-eu", ACCESS_KEY_ID),
    ]


def test_names_are_legal_and_no_two_are_the_same(plan: MakePlan) -> None:
    long = "/" + "x" * 100
    made = plan(_with_stores("/payments-eu", "/payments/eu/", "/..", "/ü", long, f"{long}/y", "/../../etc"))

    assert [store.name for store in made.config.keystore] == [
        "payments-eu",
        "payments-eu-2",
        "default",
        "default-2",
        "x" * 64,
        "x" * 62 + "-2",
        "etc",
        "payments-eu-3",
    ]


@pytest.mark.parametrize("encoded", ["djE=", "AAECAwQFBgcICQoLDA0ODxAREhM="])
def test_the_sample_s_ciphertext_metadata_stays_readable_on_every_key(plan: MakePlan, encoded: str) -> None:
    made = plan(("port = 8443", f'port = 8443\nciphertext_metadata_b64 = "{encoded}"'))

    (store,) = made.config.keystore
    assert all(len(key.legacy_metadata) == 1 for key in store.keys)
    assert render_config(made).count(f'legacy_metadata = ["{encoded}"]') == 2
    assert _told(made, Severity.DIFFERENT, "server.ciphertext_metadata_b64")


def test_empty_ciphertext_metadata_is_none(plan: MakePlan) -> None:
    made = plan(("port = 8443", 'port = 8443\nciphertext_metadata_b64 = ""'))

    assert all(key.legacy_metadata == () for key in made.config.keystore[0].keys)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (ACCESS_KEY_ID, ""),
        (SECRET, ""),
        (ACCESS_KEY_ID, "lower-case"),
        (SECRET, "too-short"),
    ],
)
def test_an_invalid_credential_is_neither_imported_nor_quoted(plan: MakePlan, old: str, new: str) -> None:
    made = plan((old, new))

    assert made.credentials[0].credential is None
    assert _to_do(made) == [("external_key_stores[0]", "keystore[0].credentials")]
    (finding,) = _told(made, Severity.TO_DO, "external_key_stores[0]")
    assert "payments-eu" in finding.text
    assert not new or new not in finding.text
    assert "xksproxy credentials create" in finding.text


def test_a_published_placeholder_is_no_credential(plan: MakePlan, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    monkeypatch.setattr(keystores, "_PUBLISHED_SECRETS", frozenset({digest}))

    made = plan()

    assert made.credentials[0].credential is None
    assert "which is public" in _told(made, Severity.TO_DO, "external_key_stores[0]")[0].text


@pytest.mark.parametrize("key_id", ["*", "key-?", "..", "a/b", "ü", "", "x" * 129])
def test_an_id_that_kms_cannot_name_is_left_out_and_never_becomes_a_pattern(plan: MakePlan, key_id: str) -> None:
    made = plan(('"key-b"', f'"{key_id}"'))

    assert [key.id for key in made.config.keystore[0].keys] == ["key-a"]
    assert "not imported" in _told(made, Severity.DIFFERENT, "external_key_stores[0].xks_key_id_set")[0].text


@pytest.mark.parametrize("ids", ["[]", '["*"]'])
def test_a_key_store_without_keys_must_get_one(plan: MakePlan, ids: str) -> None:
    made = plan(('["key-b", "key-a"]', ids))

    assert _to_do(made) == [("external_key_stores[0].xks_key_id_set", "keystore[0].keys")]
    assert [key.id for key in made.config.keystore[0].keys] == ["SET-AN-EXTERNAL-KEY-ID"]


def test_a_key_that_is_named_like_a_version_of_another_stays_a_key_of_its_own(plan: MakePlan) -> None:
    made = plan(('["key-b", "key-a"]', '["key", "key.v2", "other"]'))

    assert {key.id: key.versions for key in made.config.keystore[0].keys} == {
        "key": {1: "key"},
        "key.v2": {},
        "other": {},
    }


def test_a_version_like_name_in_another_key_store_of_the_token_is_protected_too(plan: MakePlan) -> None:
    made = plan(_with_stores("/other"), ('["key-b", "key-a"]', '["key-c.v3"]'))

    assert made.config.keystore[0].keys[0].versions == {1: "key-c"}


# What stays behind.


def test_every_setting_without_a_counterpart_is_told(plan: MakePlan) -> None:
    keepalive = "tcp_keepalive = { tcp_keepalive_secs = 60, odd = 1 }"
    server = f'port = 8443\nregion = "eu-west-1"\nservice = "kms-xks-proxy"\n{keepalive}'
    pool = "session_pool_timeout_milli = 0\nsession_eager_close = false\ncontext_read_timeout_milli = 10\nuser_pin"
    tables = '[tracing]\nlevel = "DEBUG"\n[limits]\nmax_aad_in_base64 = 16384\n[unheard]\n[hsm_capabilities]'

    made = plan(
        ("port = 8443", server),
        ("is_sigv4_auth_enabled = true", 'is_sigv4_auth_enabled = false\nsecondary_auth = "Oso"'),
        ("user_pin", pool),
        ("[hsm_capabilities]", tables),
    )

    left = {finding.setting: finding.text for finding in made.findings if finding.severity is Severity.NO_COUNTERPART}
    assert list(left) == [
        "server.region",
        "server.service",
        "server.tcp_keepalive",
        "security.is_sigv4_auth_enabled",
        "security.secondary_auth",
        "pkcs11.session_pool_timeout_milli",
        "pkcs11.session_eager_close",
        "pkcs11.context_read_timeout_milli",
        "tracing",
        "limits",
        "server.tcp_keepalive.odd",
        "unheard",
    ]
    assert "Cedar" in left["security.secondary_auth"]
    assert "each credential of a key store may use all of its keys" in left["security.secondary_auth"]


def test_rules_that_were_not_in_use_are_told_as_such(plan: MakePlan) -> None:
    made = plan(("[tls]", '[security.oso]\npolar_file_path = "x.polar"\n[tls]'))

    assert "not used in the sample" in _told(made, Severity.NO_COUNTERPART, "security.oso")[0].text


def test_another_service_name_is_reported_as_refused(plan: MakePlan) -> None:
    made = plan(("port = 8443", 'port = 8443\nservice = "other"'))

    assert "other would not be accepted" in _told(made, Severity.NO_COUNTERPART, "server.service")[0].text


def test_no_secret_is_in_a_finding_the_text_or_a_repr(plan: MakePlan) -> None:
    made = plan()

    for secret in (PIN, SECRET):
        assert secret not in repr(made)
        assert secret not in render_config(made)
        assert not any(secret in finding.text for finding in made.findings)
