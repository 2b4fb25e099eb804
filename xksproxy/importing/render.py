"""The configuration file of a plan, as commented text that a person can edit."""

import base64
import textwrap
from collections.abc import Iterable, Iterator
from typing import Final

from xksproxy.config.model import Config, Health, Hsm, Key, KeyStore, Server
from xksproxy.config.secret import SecretReference
from xksproxy.importing.findings import Finding, Severity
from xksproxy.importing.plan import Plan
from xksproxy.importing.quoting import quote
from xksproxy.printable import printable

_WIDTH: Final = 116


def render_config(plan: Plan) -> str:
    """The text of the file: all values of the configuration, no secret, and a comment for each finding ``to do``."""
    config = plan.config
    lines = [
        *_comment(
            "Imported by `xksproxy import-settings` from the settings of AWS's sample proxy. Relative paths count from"
            " this file. `xksproxy check-config --config xksproxy.toml` checks it."
        ),
        "",
        *_server(config.server, plan),
        *_hsm(config.hsm[0], plan),
    ]
    for index, store in enumerate(config.keystore):
        lines += _keystore(index, store, plan)
    lines += [*_health(config.health), *_defaults(config)]
    return "\n".join(lines) + "\n"


def _server(server: Server, plan: Plan) -> Iterator[str]:
    yield from _comment("The public listener, which AWS KMS calls over HTTPS.")
    yield "[server]"
    yield f"listen = {quote(server.listen)}"
    yield from _comment("Worker processes, each with its own HSM sessions. Start with one for each core.")
    yield f"workers = {server.workers}"
    yield ""
    yield "[server.tls]"
    yield from _comment("PEM: the server's certificate, then the intermediate ones.")
    yield from _to_do(plan, "server.tls.certificate")
    yield f"certificate = {quote(server.tls.certificate)}"
    yield from _comment("PEM, unencrypted, mode 0600 or 0640.")
    yield from _to_do(plan, "server.tls.private_key")
    yield f"private_key = {quote(server.tls.private_key)}"
    if server.tls.client_ca is not None:
        yield from _comment("Mutual TLS: the CAs that may issue client certificates, and the accepted common names.")
        yield from _to_do(plan, "server.tls.client_ca")
        yield f"client_ca = {quote(server.tls.client_ca)}"
        yield from _to_do(plan, "server.tls.client_names")
        yield f"client_names = {_array(server.tls.client_names)}"
    yield ""


def _hsm(hsm: Hsm, plan: Plan) -> Iterator[str]:
    yield from _comment("The token, reached through a PKCS#11 module.")
    yield "[[hsm]]"
    yield f"id = {quote(hsm.id)}"
    yield from _to_do(plan, "hsm[0].module")
    yield f"module = {quote(hsm.module)}"
    yield from _comment("How this kind of module behaves.")
    yield f"preset = {quote(hsm.preset)}"
    if hsm.iv is not None:
        yield from _comment("Who makes the IV; differs from the preset. Verified on the token before the HSM serves.")
        yield f"iv = {quote(hsm.iv)}"
    yield from _comment("The token's label.")
    yield from _to_do(plan, "hsm[0].token")
    yield f"token = {quote(hsm.token or '')}"
    yield from _to_do(plan, "hsm[0].pin")
    if isinstance(hsm.pin, SecretReference) and hsm.pin.file is not None:
        yield f"pin = {{ file = {quote(hsm.pin.file)} }}"
    yield from _comment("Sessions in each worker; each makes one call at a time.")
    yield f"sessions = {hsm.sessions}"
    yield from _comment("Environment variables that the module reads when it is initialised.")
    yield '# environment = { NAME = "value" }'
    yield ""


def _keystore(index: int, store: KeyStore, plan: Plan) -> Iterator[str]:
    yield from _comment("An external key store of KMS: with its own URI path, credentials and keys.")
    yield "[[keystore]]"
    yield f"name = {quote(store.name)}"
    yield f"uri_path_prefix = {quote(store.uri_path_prefix)}"
    yield f"hsms = {_array(store.hsms)}"
    yield from _comment(
        "A directory with one file, mode 0600 and named *.toml, for each SigV4 credential that KMS may use:"
        ' access_key_id = "…" and secret_access_key = "…", on one line each.'
    )
    yield from _to_do(plan, f"keystore[{index}].credentials")
    yield f"credentials = {quote(store.credentials)}"
    yield ""
    if index == 0:
        yield from _comment(
            "The keys that it exposes; the label on the token is the id. aad_encoding and legacy_metadata are those of"
            " the sample proxy, so that its ciphertexts can be decrypted."
        )
    yield from _to_do(plan, f"keystore[{index}].keys")
    for key in store.keys:
        yield from _key(key)


def _key(key: Key) -> Iterator[str]:
    yield "[[keystore.keys]]"
    yield f"id = {quote(key.id)}"
    yield f"aad_encoding = {quote(key.aad_encoding)}"
    if key.legacy_aad_encoding is not None:
        yield f"legacy_aad_encoding = {quote(key.legacy_aad_encoding)}"
    if key.legacy_metadata:
        yield f"legacy_metadata = {_array(base64.b64encode(metadata).decode() for metadata in key.legacy_metadata)}"
    if key.versions:
        yield from _comment("Another key has the name of a later version of this key.")
        versions = (f"{number} = {quote(version)}" for number, version in key.versions.items())
        yield f"versions = {{ {', '.join(versions)} }}"
    yield ""


def _health(health: Health) -> Iterator[str]:
    if health.listen is not None:
        yield from _comment("Plain HTTP for the load balancer's health checks: /livez and /readyz.")
        yield "[health]"
        yield f"listen = {quote(health.listen)}"
        yield ""


def _defaults(config: Config) -> Iterator[str]:
    """Two tables with their defaults, which the settings of the sample do not have."""
    yield from _comment("The state directory, which only the proxy writes. It must survive restarts.")
    yield "[state]"
    yield f"# directory = {quote(config.state.directory)}"
    yield ""
    yield from _comment("What the process writes to standard error.")
    yield "[logging]"
    yield f"# level = {quote(config.logging.level)}"
    yield f"# format = {quote(config.logging.format)}"


def _array(texts: Iterable[str]) -> str:
    return f"[{', '.join(quote(text) for text in texts)}]"


def _to_do(plan: Plan, place: str) -> Iterator[str]:
    for finding in plan.findings:
        if finding.severity is Severity.TO_DO and finding.place == place:
            yield from _comment(f"TO DO: {_sentence(finding)}")


def _sentence(finding: Finding) -> str:
    return finding.text[:1].upper() + finding.text[1:]


def _comment(text: str) -> list[str]:
    """Comment lines. The text cannot end the comment."""
    wrapped = textwrap.wrap(printable(text), _WIDTH, break_long_words=False, break_on_hyphens=False)
    return [f"# {line}" for line in wrapped]
