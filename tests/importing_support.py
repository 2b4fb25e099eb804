"""A small settings file of AWS's sample proxy, written for the tests, to be changed by them."""

SECRET = "s3cret+" * 7
PIN = "pin-4711"
ACCESS_KEY_ID = "IMPORTED" + "234567" * 3

SETTINGS = f"""\
[server]
ip = "192.0.2.7"
port = 8443
port_http_ping = 8080

[security]
is_sigv4_auth_enabled = true
is_tls_enabled = true
is_mtls_enabled = false

[tls]
tls_cert_pem = "certs/server.pem"
tls_key_pem = "/etc/keys/server-key.pem"

[pkcs11]
PKCS11_HSM_MODULE = "/opt/lib/libsofthsm2.so"
user_pin = "{PIN}"
session_pool_max_size = 9

[hsm_capabilities]
can_generate_iv = false
is_zero_iv_required = false

[[external_key_stores]]
uri_path_prefix = "/payments/eu"
sigv4_access_key_id = "{ACCESS_KEY_ID}"
sigv4_secret_access_key = "{SECRET}"
xks_key_id_set = ["key-b", "key-a"]
"""


def changed(*changes: tuple[str, str]) -> str:
    """The settings with texts replaced, each of which must be there."""
    text = SETTINGS
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text
